"""What the JSON files of a run folder hold, as far as anything reads them back: one edited by hand gets one line.

Records (`records/`) are whole; these are not: keys that a reader can do without may be missing, and others may be
there. Each form is for `jsonl.read_json` or `jsonl.read_rows`, which give the values as they are in the file.
That of evaluation.json is in `evaluation/artefacts.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
InFolder = Annotated[str, StringConstraints(pattern=r"^[^./\\\x00][^/\\\x00]*$")]
"""The name of what lies in the run folder itself."""


class MarkJson(TypedDict, total=False):
    """What the manifest says of a finished stage."""

    inputs: str
    outputs: dict[InFolder, str]
    seconds: Number
    pairs: Count
    judge_with_origin: Count
    judge_against_origin: Count
    judge_even: Count
    train: Count
    judge_calls: Count
    prompt_tokens: Count
    completion_tokens: Count


class Read(TypedDict):
    """What the manifest says that a finished stage read."""

    rlaif: str
    knobs: dict[str, Any]
    files: dict[str, str]


class Manifest(TypedDict):
    """manifest.json."""

    stages: dict[str, MarkJson]
    started: NotRequired[dict[str, str]]
    read: NotRequired[dict[str, Read]]


class TurnJson(TypedDict):
    role: str
    content: str


class SampleRow(TypedDict):
    """A row of evaluation_samples.jsonl."""

    prompt_id: str
    index: Count
    prompt: list[TurnJson]
    before: str
    after: str
    before_tokens: Count
    after_tokens: Count
    before_finished: bool
    after_finished: bool
    before_passes: NotRequired[dict[str, bool]]
    after_passes: NotRequired[dict[str, bool]]
    before_measures: NotRequired[dict[str, Number | None]]
    after_measures: NotRequired[dict[str, Number | None]]
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


class RatingRow(TypedDict):
    """A row of reward_heldout_ratings.jsonl."""

    prompt_id: str
    rating: Number
    score: Number


class ScoreRow(TypedDict):
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


MANIFEST: TypeAdapter[Any] = TypeAdapter(Manifest)
SAMPLE: TypeAdapter[Any] = TypeAdapter(SampleRow)
HELDOUT: TypeAdapter[Any] = TypeAdapter(HeldoutMargin)
RATED: TypeAdapter[Any] = TypeAdapter(RatingRow)
SCORED: TypeAdapter[Any] = TypeAdapter(ScoreRow)
SOURCE: TypeAdapter[Any] = TypeAdapter(Source)
METRICS: TypeAdapter[Any] = TypeAdapter(Annotated[dict[str, Any], AfterValidator(_numbers)])
"""A row of metrics.jsonl."""
OBJECT: TypeAdapter[Any] = TypeAdapter(dict[str, Any])
TEXTS: TypeAdapter[Any] = TypeAdapter(dict[str, str])
NUMBERS: TypeAdapter[Any] = TypeAdapter(list[Number])
