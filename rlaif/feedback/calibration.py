"""Maps from the judge's probability to one that can be believed, and putting them on labels.

A map changes how sure a label is; it may make a tie of it, but never turns it round. Maps are fitted on human labels;
`audit/calibration.py` says how good they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from scipy.optimize import elementwise, isotonic_regression
from scipy.special import expit, logit

from rlaif.errors import DataError
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.labelled import LabelledJudgment, decided
from rlaif.feedback.verdict import LOGIT_LIMIT, log_odds
from rlaif.records import Judgment, Record

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
TEMPERATURES = (0.05, 100.0)
"""Least and greatest: a judge that is never wrong would have 0, one that knows nothing infinity."""


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


class Confidences(NamedTuple):
    """The judge's confidence on each pair, and whether it was right."""

    confidence: Array
    """p of the response that the judge prefers, from 0.5 to 1."""
    correct: Array
    """1, 0, or 0.5 where the judge is at exactly 0.5."""
    prompt_ids: tuple[str, ...]

    @classmethod
    def of(cls, labelled: Sequence[LabelledJudgment]) -> Confidences:
        """Of the pairs on which the human has a preference."""
        rows = decided(labelled)
        p = np.array([item.judgment.p_a for item in rows], dtype=float)
        right = np.array([item.right for item in rows], dtype=float)
        return cls(np.maximum(p, 1 - p), right, tuple(item.prompt_id for item in rows))

    def take(self, mask: Mask) -> Confidences:
        """Those pairs alone."""
        kept = tuple(name for name, taken in zip(self.prompt_ids, mask, strict=True) if taken)
        return Confidences(self.confidence[mask], self.correct[mask], kept)

    @property
    def lead(self) -> Array:
        """Log-odds that the judge gives to the right response."""
        return np.asarray((2 * self.correct - 1) * np.clip(logit(self.confidence), 0, LOGIT_LIMIT))


def fit_temperature(data: Confidences) -> Temperature:
    """The temperature with the least log loss, within TEMPERATURES; 1 for a judge that always says 0.5."""
    (value,) = temperatures(data.lead, np.ones((1, len(data.lead))), 1e-9)
    return Temperature(value=1.0 if math.isnan(value) else float(value))


def temperatures(lead: Array, weights: Array, tolerance: float) -> Array:
    """The best temperature for each row of weights (rows, pairs); nan where all that is weighed is at even.

    The log loss is convex in 1/T, so its slope has one root in log T, or none within the limits: then one of them is
    best.
    """

    def slope(log_t: Array, row: NDArray[np.intp]) -> Array:
        """Of the log loss by log T, times T."""
        by_pair = weights[row] * lead * expit(-np.exp(-log_t)[:, None] * lead)
        return np.asarray(by_pair.sum(axis=1))

    rows = np.arange(len(weights))
    least, most = (np.full(len(weights), math.log(limit)) for limit in TEMPERATURES)
    rises, falls = slope(least, rows) >= 0, slope(most, rows) <= 0
    tolerances = {"xatol": tolerance, "xrtol": tolerance}
    found = elementwise.find_root(slope, (least, most), args=(rows,), tolerances=tolerances).x
    log_t = np.where(rises, least, np.where(falls, most, found))
    return np.where(weights @ (lead != 0) > 0, np.exp(log_t), math.nan)


def fit_isotonic(data: Confidences) -> Isotonic:
    """The non-decreasing antisymmetric map with the least squared error on these pairs.

    The least-squares fit to all pairs in both orientations, (p, y) and (1 - p, 1 - y), is antisymmetric; its upper half
    is the fit to (confidence, correct) held to 0.5 and above, and that is what is computed. The map keeps the ends of
    the fit's level blocks and is straight between two blocks. With n pairs nothing is mapped beyond 1/(n + 2) from
    certainty. Where the judge is right no more often than a coin, p becomes exactly 0.5.
    """
    x, where, counts = np.unique(data.confidence, return_inverse=True, return_counts=True)
    means = np.bincount(where, weights=data.correct) / counts
    fit = isotonic_regression(means, weights=counts)
    most = 1 - 1 / (len(data.confidence) + 2)
    points = {0.5: 0.5}
    for start, end in zip(fit.blocks[:-1], fit.blocks[1:], strict=True):
        level = min(max(float(fit.x[start]), 0.5), most)
        points |= {float(edge): level for edge in (x[start], x[end - 1]) if edge > 0.5}
    return Isotonic(x=tuple(points), y=tuple(points.values()))


def apply_calibration(result: JudgeResult, how: Temperature | Isotonic) -> JudgeResult:
    """The result with every judgment's p_a mapped, and what it was in p_raw.

    A judgment that was calibrated before is mapped from its p_raw, so maps never pile up. What principles and members
    say, scores and rankings stay as the judge gave them, and so does p of a revision, which is the recipe's word.
    """
    if result.revisions:
        return result
    return result._replace(judgments=tuple(_calibrated(judgment, how) for judgment in result.judgments))


def _calibrated(judgment: Judgment, how: Temperature | Isotonic) -> Judgment:
    raw = raw_p(judgment)
    return judgment.model_copy(update={"p_a": calibrate(raw, how), "p_raw": raw})


def raw_p(judgment: Judgment) -> float:
    """P that a is better as the judge said it, before any map."""
    return judgment.p_a if judgment.p_raw is None else judgment.p_raw


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
