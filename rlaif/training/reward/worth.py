"""What finished reward models say of preferences: of held-out ones, from which evaluation tells what the models are
worth, and of their own training pairs, from which doubtful labels are known (MOSS-RLHF part II, arXiv 2401.06080).

Shape suffixes: M models, N pairs or rated responses, K scores of a row (the common one, then one per principle).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rlaif.config.reward import RewardSection
from rlaif.records import Preference, Score
from rlaif.training.lessons import Lesson, distinct
from rlaif.training.losses import preference as losses
from rlaif.training.reward.data import PrincipleLabels, by_principle, encode_pairs, encode_rating, heldout_prompts
from rlaif.training.reward.train import RewardStage
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.truncation import Truncation


class HeldoutScores(NamedTuple):
    """What is said of one held-out preference; margin = score(chosen) - score(rejected)."""

    pair_id: str
    prompt_id: str
    source: str
    p_chosen: float
    margin: float
    """The mean over the members."""
    margins: tuple[float, ...] = ()
    """Each member's, where there are several."""
    heads: Mapping[str, Mapping[str, float]] = {}
    """By principle: `margin`, of that principle's head, and `p_chosen`, that principle's own label."""

    def row(self) -> dict[str, Any]:
        """Without the fields that this kind of reward model has not."""
        return {name: value for name, value in self._asdict().items() if value not in ((), {})}


def score_heldout(
    models: Iterable[ScalarModel],
    tokenizer: Any,
    section: RewardSection,
    preferences: Sequence[Preference],
    labels: PrincipleLabels | None = None,
    truncation: Truncation | None = None,
) -> list[HeldoutScores]:
    """What these models, the members or the only one, say of the rows of split `heldout`, in order."""
    rows = [p for p in preferences if p.split == "heldout"]
    pairs = encode_pairs(tokenizer, rows, section.max_length, truncation)
    if not pairs:
        return []
    found, names = [], tuple[str, ...]()
    for model in models:  # one in memory at a time, where they are read from a folder
        names = model.heads.names if model.heads else ()
        chosen_NK = model.score_heads([pair.chosen for pair in pairs], section.microbatch_tokens)
        rejected_NK = model.score_heads([pair.rejected for pair in pairs], section.microbatch_tokens)
        found.append(chosen_NK - rejected_NK)
    margin_MNK = torch.stack(found)
    mean_NK = margin_MNK.mean(0).tolist()
    heldout = []
    for i, pair in enumerate(pairs):
        preference, own = pair.preference, by_principle(labels or {}, pair.preference)
        members = tuple(round(value, 6) for value in margin_MNK[:, i, 0].tolist())
        heldout.append(
            HeldoutScores(
                preference.pair_id,
                preference.prompt_id,
                preference.source,
                preference.p_chosen,
                round(mean_NK[i][0], 6),
                members if len(members) > 1 else (),
                {
                    name: {"margin": round(value, 6), "p_chosen": own[name]}
                    for name, value in zip(names, mean_NK[i][1:], strict=True)
                    if name in own
                },
            )
        )
    return heldout


class RatedResponse(NamedTuple):
    """What is said of one held-out response that was rated; scores and ratings have zeros of their own."""

    id: str
    prompt_id: str
    rating: float
    score: float
    """The mean over the members."""


def score_ratings(
    models: Iterable[ScalarModel],
    tokenizer: Any,
    section: RewardSection,
    scores: Sequence[Score],
    preferences: Sequence[Preference],
) -> list[RatedResponse]:
    """What these models say of the rated responses to prompts whose preferences are held out, in order."""
    heldout = heldout_prompts(preferences)
    rated = [score for score in scores if score.prompt_id in heldout]
    if not rated:
        return []
    rows = [row for each in rated for row in encode_rating(tokenizer, each, section.max_length)]
    found_MN = torch.stack([model.score_all(rows, section.microbatch_tokens) for model in models])
    return [
        RatedResponse(each.id, each.prompt_id, each.value, round(value, 6))
        for each, value in zip(rated, found_MN.mean(0).tolist(), strict=True)
    ]


# ------------------------------------------------------------------------------------------------- doubtful labels


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

    lessons: list[Lesson]
    strengths: list[Strength]


def strengths(stage: RewardStage, lessons: Sequence[Lesson]) -> list[float]:
    """The margins of one trained model on all training pairs, in order."""
    rows = distinct(lessons)
    score_B = stage.model.score_all(rows, stage.section.microbatch_tokens).tolist()
    score_of = dict(zip(rows, score_B, strict=True))
    return [score_of[lesson.rows[0]] - score_of[lesson.rows[1]] for lesson in lessons]


def treat(lessons: Sequence[Lesson], found: Sequence[Sequence[float]], section: RewardSection) -> Treatment:
    """The section's treatment, given every model's `strengths`. A pair that is a tie stays one.

    A pair that is turned round keeps its margin: whichever side is better is to be as far ahead as before.
    """
    strength_MN = torch.tensor(found, dtype=torch.float64)
    p_N = torch.tensor([lesson.target for lesson in lessons], dtype=torch.float64)
    treated = losses.treat_labels(p_N, strength_MN, section.denoise)
    columns = (strength_MN.mean(0), strength_MN.std(0, unbiased=False), treated.p_chosen_N, treated.target_N)
    treatment = Treatment([], [])
    for lesson, *figures in zip(lessons, *(column_N.tolist() for column_N in columns), strict=True):
        mean, std, p, margin = figures
        treatment.lessons.append(lesson._replace(target=p, margin=lesson.margin + margin))
        treatment.strengths.append(
            Strength(
                lesson.id,
                lesson.prompt_id,
                round(mean, 6),
                round(std, 6),
                lesson.target,
                round(p, 6),
                round(margin, 6),
                treated=p != lesson.target or margin != 0,
            )
        )
    return treatment
