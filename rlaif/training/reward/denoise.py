"""Doubtful labels: what reward models, trained in different orders, say of their own training pairs, and the remedy
(MOSS-RLHF part II, arXiv 2401.06080).

Shape suffixes: M models, N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rlaif.config.reward import RewardSection
from rlaif.training import losses
from rlaif.training.lessons import distinct
from rlaif.training.reward.data import RewardLesson
from rlaif.training.reward.train import RewardStage, score_rows


class Strength(NamedTuple):
    """What the models say of one training pair, and what its label became. Margins are score(chosen) - score(rejected)
    with chosen as the label has it."""

    pair_id: str
    prompt_id: str
    mean: float
    std: float
    """Over the models (population)."""
    p_chosen: float
    taught: float
    """P(chosen is better) as it is taught from here on: below 0.5 where the label was turned round."""
    margin: float
    """Asked for inside the sigmoid."""
    treated: bool


class Treatment(NamedTuple):
    """The lessons as they are taught from here on, and why."""

    lessons: list[RewardLesson]
    strengths: list[Strength]


def strengths(stage: RewardStage, lessons: Sequence[RewardLesson]) -> list[float]:
    """The margins of one trained model on all training pairs, in order."""
    rows = distinct(lessons)
    score_B = score_rows(stage.model, rows, stage.section.microbatch_tokens)[:, 0].tolist()
    score_of = dict(zip(rows, score_B, strict=True))
    return [score_of[lesson.rows[0]] - score_of[lesson.rows[1]] for lesson in lessons]


def treat(lessons: Sequence[RewardLesson], found: Sequence[Sequence[float]], section: RewardSection) -> Treatment:
    """The section's treatment, given every model's `strengths`. A pair that is a tie stays one.

    A pair that is turned round keeps its margin: whichever side is better is to be as far ahead as before.
    """
    strength_MN = torch.tensor(found, dtype=torch.float64)
    p_N = torch.tensor([lesson.target for lesson in lessons], dtype=torch.float64)
    treated = losses.treat_labels(p_N, strength_MN, section.denoise)
    mean_N, std_N = strength_MN.mean(0), strength_MN.std(0, unbiased=False)
    taught, rows = [], []
    for i, lesson in enumerate(lessons):
        p, margin = float(treated.p_chosen_N[i]), float(treated.target_N[i])
        taught.append(lesson._replace(target=p, margin=lesson.margin + margin))
        rows.append(
            Strength(
                lesson.id,
                lesson.prompt_id,
                round(float(mean_N[i]), 6),
                round(float(std_N[i]), 6),
                lesson.target,
                round(p, 6),
                round(margin, 6),
                treated=p != lesson.target or margin != 0,
            )
        )
    return Treatment(taught, rows)
