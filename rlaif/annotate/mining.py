"""`rlaif mine`: the prompts on which a run is least sure, as the prompts of the next round.

A prompt is as hard as its hardest pair, and a pair as its worst sign; each sign is from 0, sure, to 1:

    tie         the judge's label is near even
    margin      the reward model's scores are near each other, as sigma(margin) tells
    members     an ensemble's members prefer different responses
    people      people and the judge preferred different responses
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from pydantic import Field

from rlaif.annotate.route import conflicts, known_labels
from rlaif.annotate.routers import closeness
from rlaif.config import Recipe
from rlaif.errors import ConfigError
from rlaif.formats.rows import without_system
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.records import Given, Judgment, Messages, Pair, Record
from rlaif.records.core import absent
from rlaif.run_folder import Run

Sign = Literal["tie", "margin", "members", "people"]
SIGNS: tuple[Sign, ...] = get_args(Sign)


class Hard(Record):
    """One row of the prompt file; recipes read `messages` and `tags`."""

    messages: Messages
    """Without the recipe's own system turn, which the next recipe puts there again: the same prompt as before."""
    tags: tuple[str, ...]
    given: Given | None = Field(default=None, exclude_if=absent)
    hardness: float
    sign: Sign
    """The sign that says so."""


def mine(
    recipe: Recipe, run: Run, out: Path, count: int, signs: Sequence[Sign] = SIGNS
) -> tuple[int, int, dict[Sign, int]]:
    """Write the `count` hardest of the run's judged prompts, hardest first: how many these are, how many were looked
    at, and of how many pairs each sign says something. ConfigError for a run without judgments."""
    if not run.judgments.exists():
        raise ConfigError(f"{run.folder}: has no judgments; run its stage label first")
    judgments = read_jsonl(run.judgments, Judgment)
    found = hardness(recipe, run, judgments, signs)
    pairs = {judgment.pair.id: judgment.pair for judgment in judgments}
    every = [(value, sign, pairs[pair]) for sign, values in found.items() for pair, value in values.items()]
    hardest: dict[str, tuple[float, Sign, Pair]] = {}
    for value, sign, pair in sorted(every, key=lambda one: (-one[0], one[2].prompt_id)):
        hardest.setdefault(pair.prompt_id, (value, sign, pair))
    rows = [
        Hard(
            messages=without_system(pair.prompt, recipe.prompts.system),
            tags=pair.tags,
            given=pair.given,
            hardness=round(value, 4),
            sign=sign,
        )
        for value, sign, pair in list(hardest.values())[:count]
    ]
    write_jsonl(out, rows)
    return len(rows), len(hardest), {sign: len(values) for sign, values in found.items()}


def hardness(
    recipe: Recipe, run: Run, judgments: Sequence[Judgment], signs: Sequence[Sign]
) -> dict[Sign, dict[str, float]]:
    """By sign and pair id, how hard the pair is; a sign of which the run knows nothing is empty."""
    found: dict[Sign, dict[str, float]] = {sign: {} for sign in signs}
    if "tie" in found:
        found["tie"] = {judgment.pair.id: closeness(judgment) for judgment in judgments}
    if "people" in found:
        human = known_labels(recipe, run, ())
        at_odds = {conflict.pair.id for conflict in conflicts(judgments, human)}
        both = {label.pair.id for label in human} & {judgment.pair.id for judgment in judgments}
        found["people"] = {pair: float(pair in at_odds) for pair in sorted(both)}
    if {"margin", "members"} & set(signs) and run.reward_model.exists():
        margins = _margins(recipe, run, [judgment.pair for judgment in judgments])
        by_pair = {pair: [member[pair] for member in margins] for pair in margins[0]}
        if "margin" in found:
            # 1 for a mean margin of 0, 0 for a sure one: 1 - |2 sigma(margin) - 1|
            found["margin"] = {pair: 1 - math.tanh(abs(fmean(values)) / 2) for pair, values in by_pair.items()}
        if "members" in found and len(margins) > 1:
            found["members"] = {pair: divided(values) for pair, values in by_pair.items()}
    return found


def divided(margins: Sequence[float]) -> float:
    """0 where all prefer the same response, 1 where half prefer the other."""
    signs = Counter(math.copysign(1, margin) for margin in margins if margin)
    return 2 * min(signs[1.0], signs[-1.0]) / len(margins)


def _margins(recipe: Recipe, run: Run, pairs: Sequence[Pair]) -> list[dict[str, float]]:
    """score(a) - score(b) by pair id, of each member."""
    from rlaif.rewards.model import score_pairs  # noqa: PLC0415 (brings torch)
    from rlaif.training.reward.ensemble import member_folders  # noqa: PLC0415

    folders = member_folders(run.reward_model) or [run.reward_model]
    return [score_pairs(folder, recipe.reward, recipe.policy.dtype, pairs) for folder in folders]
