"""What a run folder holds, read for people: any part may be missing, but what is there must be readable.

The first half is the form of evaluation.json, which `evaluate.py` writes, as far as the report and the comparison read
it back.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import Field, TypeAdapter

from rlaif.errors import DataError
from rlaif.forms import EXPLAINED, MANIFEST, METRICS, SAMPLE, SOURCE, Count, Number, Share, form, many, maybe, named
from rlaif.jsonl import read_json, read_rows, read_text
from rlaif.stats import at
from rlaif.strict_yaml import read_mapping

ENDS = {"low": Number | None, "high": Number | None, "n": Count}
MaybeFigure = form(value=Number | None, **ENDS)
"""None where it was not measured."""
Figure = form(value=Number, **ENDS)
Interval = tuple[Number | None, Number | None]
Intervals = {"before_interval": maybe(Interval), "after_interval": maybe(Interval)}
Change = form(before=Number, after=Number, difference=Figure, **Intervals, checks=maybe(Count))
PassRate = form(before=Number | None, after=Number | None, difference=Figure | None, **Intervals)
Consistency = form(
    Figure,
    **dict.fromkeys(("both_first", "both_second", "undecided"), maybe(MaybeFigure | None)),
    swap_gap=maybe(Number | None),
)
Band = form(**{"from": Share, "to": Share}, value=Number | None, **ENDS)
"""Pairs between two bounds of the label's own p, or of what the model says."""
RewardModel = form(
    note=maybe(str),
    heldout_accuracy=maybe(
        form(
            MaybeFigure,
            by_source=maybe(named(Figure | None)),
            cross_entropy=maybe(Figure | None),
            label_entropy=maybe(Number | None),
        )
        | None
    ),
    by_strength=maybe(many(Band) | None),
    calibration=maybe(form(bins=maybe(many(Band) | None), ece=maybe(MaybeFigure | None)) | None),
    ensemble=maybe(form(**dict.fromkeys(("agree", "disagree", "disagreement"), maybe(MaybeFigure | None))) | None),
    heads=maybe(named(MaybeFigure | None) | None),
    rating_error=maybe(form(MaybeFigure, without=maybe(Number | None)) | None),
)
Policy = form(
    win_rate_vs_reference=maybe(form(MaybeFigure, judged_principles=maybe(MaybeFigure | None)) | None),
    kl=maybe(MaybeFigure | None),
    **dict.fromkeys(("score", "response_tokens", "finished", "repetition"), maybe(Change | None)),
)
Side = Literal["lower", "higher"]
MeasureChange = form(
    PassRate,
    name=str,
    unit=Literal["number", "share"],
    better=maybe(Side | None),
    seen=maybe(str | None),
    without_value=maybe(dict[str, Count]),
    equal_length=maybe(Figure | None),
)
Agreement = form(MaybeFigure, name=str, side=Side, ties=maybe(Count), without_value=maybe(Count))
"""How often what is preferred is lower, or higher, by a measure."""
LabelPart = form(
    checked=bool,
    pairs=Count,
    prefers=Count,
    signal=Share | None,
    agrees=maybe(Figure | None),
    measures=maybe(many(Agreement)),
)
Labels = form(
    pairs=Count, prefers=Count, by_principle=named(LabelPart), label=maybe(form(measures=maybe(many(Agreement))))
)
Slice = form(
    by=str,
    name=str,
    prompts=Count,
    note=maybe(str),
    **dict.fromkeys(("win_rate", "gain", "passes"), MaybeFigure | None),
    beside_heldout=maybe(MaybeFigure | None),
)
Group = form(
    name=str,
    annotators=Count,
    labels=Count,
    alpha=form(value=Number, low=Number | None, high=Number | None) | None,
    **dict.fromkeys(("others", "judge"), MaybeFigure | None),
)
Trick = form(
    kind=str, **dict.fromkeys(("rises", "lift"), MaybeFigure | None), unscored=maybe(Count), shown=maybe(Share | None)
)
Tricks = form(responses=Count, unscored=Count, gain=MaybeFigure | None, tricks=named(Trick))
Hacking = form(before=Tricks, after=Tricks, difference=MaybeFigure | None)
Said = form(**dict.fromkeys(("confidence", "right", "brier", "ece"), Number | None), n=Count)
Truth = form(
    reference=maybe(named(Change)),
    flips=maybe(form(before=Number | None, after=Number | None, difference=Figure | None, undecided=Count)),
    answers=maybe(
        form(
            **dict.fromkeys(("right", "abstained", "wrong", "loss"), maybe(Change)),
            **dict.fromkeys(("calibration_before", "calibration_after"), maybe(Said)),
        )
    ),
)
Evaluation = form(
    confidence=maybe(Annotated[float, Field(gt=0, lt=1)]),
    heldout=maybe(form(prompts=maybe(Count), responses=maybe(Count))),
    constitution=maybe(form(hash=maybe(str))),
    judge=maybe(
        form(
            order_consistency=maybe(form(Consistency, by_principle=maybe(named(Consistency))) | None),
            coverage=maybe(form(value=Number | None, judged=Count, failed=Count) | None),
        )
    ),
    reward_model=maybe(RewardModel),
    policy=maybe(Policy),
    principles=maybe(
        named(form(checked=bool, judged=maybe(bool), pass_rate=PassRate, win_rate=maybe(MaybeFigure | None)))
    ),
    all_checked=maybe(Change | None),
    measures=maybe(many(MeasureChange)),
    labels=maybe(Labels | None),
    slices=maybe(many(Slice)),
    annotator_groups=maybe(many(Group)),
    hacking=maybe(Hacking),
    truth=maybe(Truth | None),
    filters=maybe(form(**dict.fromkeys(("dropped", "masked"), dict[str, Count]))),
    cost=maybe(
        form(
            **dict.fromkeys(("judge_calls", "prompt_tokens", "completion_tokens"), maybe(Count)),
            seconds=maybe(dict[str, Number]),
        )
    ),
)
EVALUATION: TypeAdapter[Any] = TypeAdapter(Evaluation)


# ------------------------------------------------------------------------------------------------ the folder

T = TypeVar("T")


class Artefacts(NamedTuple):
    """A run's files as plain values; a missing file is an empty value."""

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    metrics: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    slice_samples: list[dict[str, Any]]
    """The answers to the sets of `evaluate.slices`."""
    explained: list[dict[str, Any]]
    """Of `rlaif explain`."""
    preferences: Counter[tuple[str, str]]
    """How many rows by (source, split)."""

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return self.setting("name", str) or self.folder.resolve().name

    def setting(self, key: str, kind: type[T]) -> T | None:
        """The recipe's value at a dotted key; None where there is none of this kind: the file may have been changed."""
        value = at(self.recipe, key)
        return value if isinstance(value, kind) else None


def read_artefacts(folder: Path) -> Artefacts:
    """Everything a report or a comparison shows. DataError, naming the file, for one that cannot be read."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run folder")
    recipe_text, recipe = "", dict[str, Any]()
    if os.path.lexists(path := folder / "recipe.yaml"):
        recipe_text, (_, recipe) = read_text(path), read_mapping(path, "a recipe is a mapping of sections")
    return Artefacts(
        folder=folder,
        recipe=recipe,
        recipe_text=recipe_text,
        manifest=_json(folder / "manifest.json", MANIFEST),
        evaluation=_json(folder / "evaluation.json", EVALUATION),
        metrics=read_rows(folder / "metrics.jsonl", METRICS),
        failures=read_rows(folder / "failures.jsonl", SOURCE),
        samples=read_rows(folder / "evaluation_samples.jsonl", SAMPLE),
        slice_samples=read_rows(folder / "evaluation_slices.jsonl", SAMPLE),
        explained=read_rows(folder / "explain.jsonl", EXPLAINED),
        preferences=Counter(
            (str(row.get("source")), str(row.get("split"))) for row in read_rows(folder / "preferences.jsonl", SOURCE)
        ),
    )


def _json(path: Path, form: TypeAdapter[Any]) -> dict[str, Any]:
    return read_json(path, form) if os.path.lexists(path) else {}
