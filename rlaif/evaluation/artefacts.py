"""What a run folder holds, read for people: any part may be missing, but what is there must be readable.

The first half is the form of evaluation.json, which `evaluate.py` writes, as far as the report and the comparison read
it back.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypeVar

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from rlaif.config.load import read_mapping
from rlaif.errors import DataError
from rlaif.forms import MANIFEST, METRICS, SAMPLE, SOURCE, Count, Number, Share
from rlaif.jsonl import read_json, read_rows, read_text
from rlaif.stats import at

Interval = tuple[Number | None, Number | None]


class EstimateJson(TypedDict):
    """A figure and its interval; None where it was not measured."""

    value: Number | None
    low: Number | None
    high: Number | None
    n: Count


class FigureJson(TypedDict):
    """A figure that was measured, and its interval."""

    value: Number
    low: Number | None
    high: Number | None
    n: Count


class ChangeJson(TypedDict):
    """Means before and after, and the paired difference."""

    before: Number
    after: Number
    difference: FigureJson
    before_interval: NotRequired[Interval]
    after_interval: NotRequired[Interval]


class CheckedChangeJson(ChangeJson):
    checks: NotRequired[Count]


class PassRateJson(TypedDict):
    """A change, or None throughout where nothing was measured."""

    before: Number | None
    after: Number | None
    difference: FigureJson | None
    before_interval: NotRequired[Interval]
    after_interval: NotRequired[Interval]


class PrincipleJson(TypedDict):
    checked: bool
    judged: NotRequired[bool]
    pass_rate: PassRateJson
    win_rate: NotRequired[EstimateJson | None]


class ConsistencyJson(FigureJson):
    both_first: NotRequired[EstimateJson | None]
    both_second: NotRequired[EstimateJson | None]
    undecided: NotRequired[EstimateJson | None]
    swap_gap: NotRequired[Number | None]
    by_principle: NotRequired[dict[str, ConsistencyJson]]


class CoverageJson(TypedDict):
    value: Number | None
    judged: Count
    failed: Count


class JudgeJson(TypedDict, total=False):
    order_consistency: ConsistencyJson | None
    coverage: CoverageJson | None


class HeldoutAccuracyJson(EstimateJson):
    by_source: NotRequired[dict[str, FigureJson | None]]
    cross_entropy: NotRequired[FigureJson | None]
    label_entropy: NotRequired[Number | None]


class Band(EstimateJson):
    """Pairs from one bound to another: of the label's own p, or of what the model says."""

    low_end: Annotated[Share, Field(alias="from")]
    high_end: Annotated[Share, Field(alias="to")]


class CalibrationJson(TypedDict):
    bins: NotRequired[list[Band] | None]
    ece: NotRequired[EstimateJson | None]


class EnsembleJson(TypedDict, total=False):
    agree: EstimateJson | None
    disagree: EstimateJson | None
    disagreement: EstimateJson | None


class RatingErrorJson(EstimateJson):
    without: NotRequired[Number | None]


class RewardModelJson(TypedDict, total=False):
    heldout_accuracy: HeldoutAccuracyJson | None
    note: str
    by_strength: list[Band] | None
    calibration: CalibrationJson | None
    ensemble: EnsembleJson | None
    heads: dict[str, EstimateJson | None] | None
    rating_error: RatingErrorJson | None


class WinRateJson(EstimateJson):
    judged_principles: NotRequired[EstimateJson | None]


class PolicyJson(TypedDict, total=False):
    win_rate_vs_reference: WinRateJson | None
    kl: EstimateJson | None
    score: ChangeJson | None
    response_tokens: ChangeJson | None
    finished: ChangeJson | None
    repetition: ChangeJson | None


class MeasureChangeJson(PassRateJson):
    name: str
    unit: Literal["number", "share"]
    better: NotRequired[Literal["lower", "higher"] | None]
    seen: NotRequired[str | None]
    without_value: NotRequired[dict[str, Count]]
    equal_length: NotRequired[FigureJson | None]


class AgreementJson(EstimateJson):
    """How often what is preferred is lower, or higher, by a measure."""

    name: str
    side: Literal["lower", "higher"]
    ties: NotRequired[Count]
    without_value: NotRequired[Count]


class LabelPartJson(TypedDict):
    checked: bool
    pairs: Count
    prefers: Count
    signal: Share | None
    agrees: NotRequired[FigureJson | None]
    measures: NotRequired[list[AgreementJson]]


class LabelsJson(TypedDict):
    """What the labels say, by principle."""

    pairs: Count
    prefers: Count
    by_principle: dict[str, LabelPartJson]
    label: NotRequired[dict[str, list[AgreementJson]]]


class CostJson(TypedDict, total=False):
    judge_calls: Count
    prompt_tokens: Count
    completion_tokens: Count
    seconds: dict[str, Number]


class Evaluation(TypedDict, total=False):
    """evaluation.json."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    heldout: dict[str, Count]
    constitution: dict[str, str]
    judge: JudgeJson
    reward_model: RewardModelJson
    policy: PolicyJson
    principles: dict[str, PrincipleJson]
    all_checked: CheckedChangeJson | None
    measures: list[MeasureChangeJson]
    labels: LabelsJson | None
    cost: CostJson


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
        recipe_text, (_, recipe) = read_text(path), read_mapping(path, "a recipe")
    return Artefacts(
        folder=folder,
        recipe=recipe,
        recipe_text=recipe_text,
        manifest=_json(folder / "manifest.json", MANIFEST),
        evaluation=_json(folder / "evaluation.json", EVALUATION),
        metrics=read_rows(folder / "metrics.jsonl", METRICS),
        failures=read_rows(folder / "failures.jsonl", SOURCE),
        samples=read_rows(folder / "evaluation_samples.jsonl", SAMPLE),
        preferences=Counter(
            (str(row.get("source")), str(row.get("split"))) for row in read_rows(folder / "preferences.jsonl", SOURCE)
        ),
    )


def _json(path: Path, form: TypeAdapter[Any]) -> dict[str, Any]:
    return read_json(path, form) if os.path.lexists(path) else {}
