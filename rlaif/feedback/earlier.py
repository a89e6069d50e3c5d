"""Preferences of earlier rounds beside those of this one (`preferences.include`): one set to learn from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from rlaif.errors import DataError
from rlaif.records import Preference


class JoinResult(NamedTuple):
    """This round's rows, then the earlier ones that joined; what became of the others."""

    rows: tuple[Preference, ...]
    counts: dict[str, int]


def join(rows: Sequence[Preference], earlier: Sequence[Preference], never: Collection[str]) -> JoinResult:
    """Both, the newer label first where a pair has one from the same source in each.

    `never`: ids of prompts that no training may see. A prompt that is held out in either set is held out in both, so
    no reward model is measured on what an earlier one learned from. DataError where that leaves nothing to train on.
    """
    taken = {(row.pair_id, row.source) for row in rows}
    allowed = [row for row in earlier if row.prompt_id not in never]
    fresh = list({(r.pair_id, r.source): r for r in reversed(allowed) if (r.pair_id, r.source) not in taken}.values())
    every = [*rows, *reversed(fresh)]
    heldout = {row.prompt_id for row in every if row.split == "heldout"}
    joined = tuple(row.model_copy(update={"split": "heldout"}) if row.prompt_id in heldout else row for row in every)
    if not any(row.split == "train" for row in joined):
        raise DataError("preferences.include: with these files every prompt is held out; nothing is left to train on")
    return JoinResult(
        joined,
        {
            "included": len(fresh),
            "included_repeats": len(allowed) - len(fresh),
            "included_on_evaluation_prompts": len(earlier) - len(allowed),
            "rows": len(joined),
            "train": sum(row.split == "train" for row in joined),
            "heldout": sum(row.split == "heldout" for row in joined),
        },
    )
