"""What evaluation.json holds, as far as the report and the comparison read it back."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[Number | None, Number | None]


class EstimateJson(TypedDict):
    """A figure and its interval."""

    value: Number | None
    low: Number | None
    high: Number | None
    n: Count


class MeasuresJson(TypedDict):
    """A figure that is there, and its interval."""

    value: Number
    low: Number | None
    high: Number | None
    n: Count


class ChangeJson(TypedDict):
    """Means before and after, and the paired difference."""

    before: Number
    after: Number
    difference: MeasuresJson
    before_interval: NotRequired[Interval]
    after_interval: NotRequired[Interval]


class AllChecked(ChangeJson):
    checks: NotRequired[Count]


class PassRate(TypedDict):
    """A change, or None throughout where nothing was measured."""

    before: Number | None
    after: Number | None
    difference: MeasuresJson | None
    before_interval: NotRequired[Interval]
    after_interval: NotRequired[Interval]


class PrincipleJson(TypedDict):
    checked: bool
    judged: NotRequired[bool]
    pass_rate: PassRate
    win_rate: NotRequired[EstimateJson | None]


class PrincipleConsistency(MeasuresJson):
    both_first: NotRequired[EstimateJson | None]
    both_second: NotRequired[EstimateJson | None]
    undecided: NotRequired[EstimateJson | None]
    swap_gap: NotRequired[Number | None]


class Consistency(PrincipleConsistency):
    by_principle: NotRequired[dict[str, PrincipleConsistency]]


class Coverage(TypedDict):
    value: Number | None
    judged: Count
    failed: Count


class Judge(TypedDict, total=False):
    order_consistency: Consistency | None
    coverage: Coverage | None


class HeldoutAccuracy(EstimateJson):
    by_source: NotRequired[dict[str, MeasuresJson | None]]
    cross_entropy: NotRequired[MeasuresJson | None]
    label_entropy: NotRequired[Number | None]


Band = TypedDict(
    "Band",
    {
        "from": Share,
        "to": Share,
        "value": Number | None,
        "low": Number | None,
        "high": Number | None,
        "n": Count,
    },
)


class Calibration(TypedDict):
    bins: NotRequired[list[Band] | None]
    ece: NotRequired[EstimateJson | None]


class EnsembleJson(TypedDict, total=False):
    agree: EstimateJson | None
    disagree: EstimateJson | None
    disagreement: EstimateJson | None


class RatingError(EstimateJson):
    without: NotRequired[Number | None]


class RewardModelJson(TypedDict, total=False):
    heldout_accuracy: HeldoutAccuracy | None
    note: str
    by_strength: list[Band] | None
    calibration: Calibration | None
    ensemble: EnsembleJson | None
    heads: dict[str, EstimateJson | None] | None
    rating_error: RatingError | None


class WinRateJson(EstimateJson):
    judged_principles: NotRequired[EstimateJson | None]


class Kl(EstimateJson):
    note: NotRequired[str]


class Policy(TypedDict, total=False):
    win_rate_vs_reference: WinRateJson | None
    kl: Kl | None
    score: ChangeJson | None
    response_tokens: ChangeJson | None
    finished: ChangeJson | None
    repetition: ChangeJson | None


class MeasureChange(PassRate):
    name: str
    unit: Literal["number", "share"]
    better: NotRequired[Literal["lower", "higher"] | None]
    seen: NotRequired[str | None]
    without_value: NotRequired[dict[str, Count]]
    equal_length: NotRequired[MeasuresJson | None]


class AgreementJson(EstimateJson):
    """How often what is preferred is lower, or higher, by a measure."""

    name: str
    side: Literal["lower", "higher"]
    ties: NotRequired[Count]
    without_value: NotRequired[Count]


class LabelPart(TypedDict):
    checked: bool
    pairs: Count
    prefers: Count
    signal: Share | None
    agrees: NotRequired[MeasuresJson | None]
    measures: NotRequired[list[AgreementJson]]


class LabelJson(TypedDict, total=False):
    measures: list[AgreementJson]


class LabelsJson(TypedDict):
    """What the labels say, by principle."""

    pairs: Count
    prefers: Count
    by_principle: dict[str, LabelPart]
    label: NotRequired[LabelJson]


class HeldoutJson(TypedDict, total=False):
    prompts: Count
    responses: Count


class Identity(TypedDict, total=False):
    hash: str


class CostJson(TypedDict, total=False):
    judge_calls: Count
    prompt_tokens: Count
    completion_tokens: Count
    seconds: dict[str, Number]


class Evaluation(TypedDict, total=False):
    """evaluation.json."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    heldout: HeldoutJson
    constitution: Identity
    judge: Judge
    reward_model: RewardModelJson
    policy: Policy
    principles: dict[str, PrincipleJson]
    all_checked: AllChecked | None
    measures: list[MeasureChange]
    labels: LabelsJson | None
    cost: CostJson
