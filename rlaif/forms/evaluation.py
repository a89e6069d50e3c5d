"""What evaluation.json holds, as far as the report and the comparison read it back."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[Number | None, Number | None]


class Estimate(TypedDict):
    """A figure and its interval."""

    value: Number | None
    low: Number | None
    high: Number | None
    n: Count


class Measured(TypedDict):
    """A figure that is there, and its interval."""

    value: Number
    low: Number | None
    high: Number | None
    n: Count


class Change(TypedDict):
    """Means before and after, and the paired difference."""

    before: Number
    after: Number
    difference: Measured
    before_interval: NotRequired[Interval]
    after_interval: NotRequired[Interval]


class AllChecked(Change):
    checks: NotRequired[Count]


class PassRate(TypedDict):
    """A change, or None throughout where nothing was measured."""

    before: Number | None
    after: Number | None
    difference: Measured | None
    before_interval: NotRequired[Interval]
    after_interval: NotRequired[Interval]


class Principle(TypedDict):
    checked: bool
    judged: NotRequired[bool]
    pass_rate: PassRate
    win_rate: NotRequired[Estimate | None]


class PrincipleConsistency(Measured):
    both_first: NotRequired[Estimate | None]
    both_second: NotRequired[Estimate | None]
    undecided: NotRequired[Estimate | None]
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


class HeldoutAccuracy(Estimate):
    by_source: NotRequired[dict[str, Measured | None]]
    cross_entropy: NotRequired[Measured | None]
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
    ece: NotRequired[Estimate | None]


class Ensemble(TypedDict, total=False):
    agree: Estimate | None
    disagree: Estimate | None
    disagreement: Estimate | None


class RatingError(Estimate):
    without: NotRequired[Number | None]


class RewardModel(TypedDict, total=False):
    heldout_accuracy: HeldoutAccuracy | None
    note: str
    by_strength: list[Band] | None
    calibration: Calibration | None
    ensemble: Ensemble | None
    heads: dict[str, Estimate | None] | None
    rating_error: RatingError | None


class WinRate(Estimate):
    judged_principles: NotRequired[Estimate | None]


class Kl(Estimate):
    note: NotRequired[str]


class Policy(TypedDict, total=False):
    win_rate_vs_reference: WinRate | None
    kl: Kl | None
    score: Change | None
    response_tokens: Change | None
    finished: Change | None
    repetition: Change | None


class MeasureChange(PassRate):
    name: str
    unit: Literal["number", "share"]
    better: NotRequired[Literal["lower", "higher"] | None]
    seen: NotRequired[str | None]
    without_value: NotRequired[dict[str, Count]]
    equal_length: NotRequired[Measured | None]


class Agreement(Estimate):
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
    agrees: NotRequired[Measured | None]
    measures: NotRequired[list[Agreement]]


class Label(TypedDict, total=False):
    measures: list[Agreement]


class Labels(TypedDict):
    """What the labels say, by principle."""

    pairs: Count
    prefers: Count
    by_principle: dict[str, LabelPart]
    label: NotRequired[Label]


class Heldout(TypedDict, total=False):
    prompts: Count
    responses: Count


class Identity(TypedDict, total=False):
    hash: str


class Cost(TypedDict, total=False):
    judge_calls: Count
    prompt_tokens: Count
    completion_tokens: Count
    seconds: dict[str, Number]


class Evaluation(TypedDict, total=False):
    """evaluation.json."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    heldout: Heldout
    constitution: Identity
    judge: Judge
    reward_model: RewardModel
    policy: Policy
    principles: dict[str, Principle]
    all_checked: AllChecked | None
    measures: list[MeasureChange]
    labels: Labels | None
    cost: Cost
