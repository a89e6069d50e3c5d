"""What the JSON files of a run folder hold, as far as anything reads them back: one edited by hand gets one line.

Records (`records/`) are whole; these are not: keys that a reader can do without may be missing, and others may be
there. Each form is for `jsonl.read_json` or `jsonl.read_rows`, which give the values as they are in the file.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[Number | None, Number | None]
InFolder = Annotated[str, StringConstraints(pattern=r"^[^./\\\x00][^/\\\x00]*$")]
"""The name of what lies in the run folder itself."""


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
    cost: Cost


class Mark(TypedDict, total=False):
    """What the manifest says of a finished stage."""

    inputs: str
    outputs: dict[InFolder, str]
    seconds: Number
    pairs: Count
    train: Count
    judge_calls: Count
    prompt_tokens: Count
    completion_tokens: Count


class Manifest(TypedDict):
    """manifest.json."""

    stages: dict[str, Mark]
    started: NotRequired[dict[str, str]]


class Turn(TypedDict):
    role: str
    content: str


class Sample(TypedDict):
    """A row of evaluation_samples.jsonl."""

    prompt_id: str
    index: Count
    prompt: list[Turn]
    before: str
    after: str
    before_tokens: Count
    after_tokens: Count
    before_finished: bool
    after_finished: bool
    before_passes: NotRequired[dict[str, bool]]
    after_passes: NotRequired[dict[str, bool]]
    score_before: NotRequired[Number | None]
    score_after: NotRequired[Number | None]
    kl: NotRequired[Number | None]


class Margin(TypedDict):
    p_chosen: Share
    margin: Number


class HeldoutMargin(Margin):
    """A row of reward_heldout.jsonl."""

    prompt_id: str
    source: str
    margins: NotRequired[list[Number]]
    heads: NotRequired[dict[str, Margin]]


class Rated(TypedDict):
    """A row of reward_heldout_ratings.jsonl."""

    prompt_id: str
    rating: Number
    score: Number


class Scored(TypedDict):
    """A row of a study's accuracy.jsonl."""

    arm: str
    seed: int
    model: str
    pair_id: str
    prompt_id: str
    p_human: Share
    margin: Number


class Source(TypedDict, total=False):
    """As much of a preference as is counted."""

    source: str
    split: str


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row.get("stage"), str) or type(row.get("step")) is not int or row["step"] < 0:
        raise ValueError("needs 'stage', a text, and 'step', a whole number")
    for key, value in row.items():
        if key != "stage" and value is not None and type(value) not in (int, float):
            raise ValueError(f"{key!r} must be a number (got {str(value)[:60]!r})")
    return row


EVALUATION: TypeAdapter[Any] = TypeAdapter(Evaluation)
MANIFEST: TypeAdapter[Any] = TypeAdapter(Manifest)
SAMPLE: TypeAdapter[Any] = TypeAdapter(Sample)
HELDOUT: TypeAdapter[Any] = TypeAdapter(HeldoutMargin)
RATED: TypeAdapter[Any] = TypeAdapter(Rated)
SCORED: TypeAdapter[Any] = TypeAdapter(Scored)
SOURCE: TypeAdapter[Any] = TypeAdapter(Source)
METRICS: TypeAdapter[Any] = TypeAdapter(Annotated[dict[str, Any], AfterValidator(_numbers)])
"""A row of metrics.jsonl."""
OBJECT: TypeAdapter[Any] = TypeAdapter(dict[str, Any])
TEXTS: TypeAdapter[Any] = TypeAdapter(dict[str, str])
NUMBERS: TypeAdapter[Any] = TypeAdapter(list[Number])
