"""What the JSON files of a run folder hold, as far as anything reads them back: one edited by hand gets one line.

Records (`records/`) are whole; these are not: keys that a reader can do without may be missing, and others may be
there. Each form is for `jsonl.read_json` or `jsonl.read_rows`, which give the values as they are in the file.
That of evaluation.json is in `evaluation/artefacts.py`.
"""

from __future__ import annotations

from types import GenericAlias
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, TypeAdapter, create_model

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
InFolder = Annotated[str, StringConstraints(pattern=r"^[^./\\\x00][^/\\\x00]*$")]
"""The name of what lies in the run folder itself."""


def maybe(kind: Any) -> tuple[Any, None]:
    """Of a key that may be missing: what it holds if it is there."""
    return kind, None


def form(base: Any = BaseModel, /, **keys: Any) -> Any:
    """A JSON object with these keys and those of another form; it may have others."""
    fields: dict[str, Any] = {key: kind if isinstance(kind, tuple) else (kind, ...) for key, kind in keys.items()}
    return create_model("Form", __base__=base, **fields)


def named(kind: Any) -> Any:
    """A JSON object of such values by name."""
    return GenericAlias(dict, (str, kind))


def many(kind: Any) -> Any:
    """A JSON list of such values."""
    return GenericAlias(list, (kind,))


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row.get("stage"), str) or type(row.get("step")) is not int or row["step"] < 0:
        raise ValueError("needs 'stage', a text, and 'step', a whole number")
    for key, value in row.items():
        if key != "stage" and value is not None and type(value) not in (int, float):
            raise ValueError(f"{key!r} must be a number (got {str(value)[:60]!r})")
    return row


COUNTS = ("pairs", "judge_with_origin", "judge_against_origin", "judge_even", "train", "judge_calls")
MARK = form(
    inputs=maybe(str),
    outputs=maybe(dict[InFolder, str]),
    seconds=maybe(Number),
    **dict.fromkeys((*COUNTS, "prompt_tokens", "completion_tokens"), maybe(Count)),
)
"""What the manifest says of a finished stage."""
READ = form(rlaif=str, knobs=dict[str, Any], files=dict[str, str])
"""What the manifest says that a finished stage read."""
MANIFEST = TypeAdapter[Any](form(stages=named(MARK), started=maybe(dict[str, str]), read=maybe(named(READ))))
_ENDS = ("before", "after")
SAMPLE = TypeAdapter[Any](
    form(
        prompt_id=str,
        index=Count,
        prompt=many(form(role=str, content=str)),
        **dict.fromkeys(_ENDS, str),
        **{f"{end}_tokens": Count for end in _ENDS},
        **{f"{end}_finished": bool for end in _ENDS},
        **{f"{end}_passes": maybe(dict[str, bool]) for end in _ENDS},
        **{f"{end}_measures": maybe(dict[str, Number | None]) for end in _ENDS},
        **dict.fromkeys(("score_before", "score_after", "kl"), maybe(Number | None)),
        sets=maybe(list[str]),
    )
)
"""A row of evaluation_samples.jsonl, and with `sets` of evaluation_slices.jsonl."""
EXPLAINED = TypeAdapter[Any](
    form(prompt_id=str, index=Count, side=str, of=str, text=str, pieces=list[tuple[str, Number | None]])
)
"""A row of explain.jsonl, as far as the report reads it."""
MARGIN = form(p_chosen=Share, margin=Number)
HELDOUT = TypeAdapter[Any](
    form(MARGIN, prompt_id=str, source=str, margins=maybe(list[Number]), heads=maybe(named(MARGIN)))
)
"""A row of reward_heldout.jsonl."""
RATED = TypeAdapter[Any](form(prompt_id=str, rating=Number, score=Number))
"""A row of reward_heldout_ratings.jsonl."""
SCORED = TypeAdapter[Any](form(arm=str, seed=int, model=str, pair_id=str, prompt_id=str, p_human=Share, margin=Number))
"""A row of a study's accuracy.jsonl."""
SOURCE = TypeAdapter[Any](form(source=maybe(str), split=maybe(str)))
"""As much of a preference as is counted."""
METRICS = TypeAdapter[Any](Annotated[dict[str, Any], AfterValidator(_numbers)])
"""A row of metrics.jsonl."""
OBJECT = TypeAdapter[Any](dict[str, Any])
TEXTS = TypeAdapter[Any](dict[str, str])
NUMBERS = TypeAdapter[Any](list[Number])
