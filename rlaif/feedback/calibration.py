"""Maps from the judge's probability to one that can be believed, and putting them on labels.

A map changes how sure a label is; it may make a tie of it, but never turns it round. Maps are fitted on human labels by
`audit/calibration.py`; here they are only applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from scipy.special import expit

from rlaif.errors import DataError
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.verdict import log_odds
from rlaif.records import Judgment, Record


class Temperature(Record):
    """sigma(logit(p) / value): above 1 for a judge that is surer than it is right (arXiv 1706.04599)."""

    kind: Literal["temperature"] = "temperature"
    value: float = Field(gt=0, allow_inf_nan=False)


class Isotonic(Record):
    """A non-decreasing map through the points (x, y), straight between them and level after the last.

    Only the half above 0.5 is kept, beginning with (0.5, 0.5): the other half is its mirror image.
    """

    kind: Literal["isotonic"] = "isotonic"
    x: tuple[Annotated[float, Field(ge=0.5, le=1)], ...]
    y: tuple[Annotated[float, Field(ge=0.5, le=1)], ...]

    @model_validator(mode="after")
    def _a_map(self) -> Self:
        if len(self.x) != len(self.y):
            raise ValueError(f"x and y must be of one length (got {len(self.x)} and {len(self.y)})")
        if (self.x[:1], self.y[:1]) != ((0.5,), (0.5,)):
            raise ValueError("the first point must be (0.5, 0.5)")
        if any(before >= after for before, after in pairwise(self.x)):
            raise ValueError("x must increase")
        if any(before > after for before, after in pairwise(self.y)):
            raise ValueError("y must not decrease")
        return self


Calibration = Annotated[Temperature | Isotonic, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Temperature | Isotonic] = TypeAdapter(Calibration)


def calibrate(p: float, how: Temperature | Isotonic) -> float:
    """The probability that the map gives for p. Exactly antisymmetric: that of 1 - p is 1 minus that of p."""
    # 1 - p is exact from 0.5 up but not below, so that both orientations of a pair compute with the larger one.
    return _above_even(p, how) if p >= 0.5 else 1 - _above_even(1 - p, how)


def _above_even(p: float, how: Temperature | Isotonic) -> float:
    if isinstance(how, Temperature):
        return float(expit(log_odds(p) / how.value))
    return float(np.interp(p, how.x, how.y))


def apply_calibration(result: JudgeResult, how: Temperature | Isotonic) -> JudgeResult:
    """The result with every judgment's p_a mapped, and what it was in p_raw.

    A judgment that was calibrated before is mapped from its p_raw, so maps never pile up. What principles and members
    say, scores and rankings stay as the judge gave them, and so does p of a revision, which is the recipe's word.
    """
    if result.revisions:
        return result
    return result._replace(judgments=tuple(_calibrated(judgment, how) for judgment in result.judgments))


def _calibrated(judgment: Judgment, how: Temperature | Isotonic) -> Judgment:
    raw = judgment.p_a if judgment.p_raw is None else judgment.p_raw
    return judgment.model_copy(update={"p_a": calibrate(raw, how), "p_raw": raw})


def fitted(audit: Mapping[str, Any], kind: Literal["temperature", "isotonic"]) -> Temperature | Isotonic:
    """The map of this kind from the `calibration` part of an audit. DataError where the audit fitted none."""
    found = audit.get(kind) if isinstance(audit, Mapping) else None
    if not isinstance(found, Mapping):
        raise DataError(f"calibration.{kind}: the audit fitted none; it needs human labels on prompts in two folds")
    fields = {"temperature": ("value",), "isotonic": ("x", "y")}[kind]
    try:
        return _ADAPTER.validate_python({"kind": kind} | {name: found.get(name) for name in fields})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("calibration", *first["loc"]))
        raise DataError(f"{place}: {first['msg']} (got {first['input']!r})") from None
