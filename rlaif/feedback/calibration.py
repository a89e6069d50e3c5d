"""From the judge's probability to one that can be believed, by maps that are fitted on human labels.

A map of p alone changes how sure a label is; it may make a tie of it, but never turns it round. `audits/calibration.py`
says how good maps are. `debias` takes the judge's taste for length out of p, as far as people do not share it, and may
turn a label round: 0.8 for a response twice as long and 0.8 for one as long as the other are worth different things.
What that wins, and what it costs where there is nothing to win: benchmarks/known_truth.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from scipy.optimize import elementwise, isotonic_regression, minimize
from scipy.special import expit, logit

from rlaif.errors import DataError
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.labelled import LabelledJudgment, decided
from rlaif.feedback.verdict import LOGIT_LIMIT, log_odds, sigma
from rlaif.records import Judgment, Pair, Record

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
TEMPERATURES = (0.05, 100.0)
"""Least and greatest: a judge that is never wrong would have 0, one that knows nothing infinity."""
WIDE = 10.0
"""Standard deviation of the prior on the slope: a judge who is never wrong has a finite one."""
STARTS = (-1.0, 0.0, 1.0)
"""Of the length term, in units of its prior: the fit is not convex."""


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
    larger = p if p >= 0.5 else 1 - p  # 1 - p is exact from 0.5 up: both orientations of a pair compute with this one
    if isinstance(how, Temperature):
        mapped = float(expit(log_odds(larger) / how.value))
    else:
        mapped = float(np.interp(larger, how.x, how.y))
    return mapped if p >= 0.5 else 1 - mapped


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
    return result._replace(judgments=tuple(with_p(j, calibrate(raw_p(j), how)) for j in result.judgments))


def raw_p(judgment: Judgment) -> float:
    """P that a is better as the judge said it, before any map."""
    return judgment.p_a if judgment.p_raw is None else judgment.p_raw


def with_p(judgment: Judgment, p_a: float) -> Judgment:
    """The judgment with another p, and what the judge said in p_raw."""
    return judgment.model_copy(update={"p_a": p_a, "p_raw": raw_p(judgment)})


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


class LengthBias(Record):
    """What people prefer, given the judge's word and the lengths:

        logit P(people prefer a) = slope * (logit p_a + length * tanh((words_a - words_b) / scale))

    The length term is LC-AlpacaEval's (arXiv 2404.04475), fitted to people instead of set to zero. Antisymmetric:
    exchanging a and b maps p to 1 - p.
    """

    slope: float = Field(ge=0)
    """How much the judge's log-odds are worth; below 1 it is surer than it is right. Labels keep their sureness: that
    is calibration's part."""
    length: float
    """What the judge must add for a response that is far longer, in log-odds. Below 0: it is drawn to length more than
    people are."""
    scale: float = Field(gt=0)
    """Root mean square of the difference in words, over the overlap."""
    pairs: int = Field(ge=1)

    def p_a(self, judgment: Judgment) -> float:
        """What the judge said of a, before any calibration, less its taste for length."""
        return sigma(log_odds(raw_p(judgment)) + self.length * math.tanh(_longer_by(judgment.pair) / self.scale))


def fit_length_bias(overlap: Sequence[LabelledJudgment]) -> LengthBias:
    """The likeliest on the pairs on which people have a preference, given priors; DataError of none.

    The prior of `length` is N(0, s^2), s being the root mean square of the judge's log-odds: length is at most about
    all that the judge goes by. Where few labels say what its word is worth, that keeps the term near 0. The slope is
    held to 0 and above, so a judge that errs more often than a coin is not turned round; its labels stay as they are.
    """
    rows = sorted(decided(overlap), key=lambda item: item.judgment.pair.id)
    if not rows:
        raise DataError("preferences.labels.policy: people and the judge labelled no pair both, so nothing can be said")
    longer = np.array([_longer_by(item.judgment.pair) for item in rows], dtype=float)
    scale = float(np.sqrt(np.mean(longer**2))) or 1.0
    lead = np.array([log_odds(raw_p(item.judgment)) for item in rows])
    unit = float(np.sqrt(np.mean(lead**2)))
    term = unit * np.tanh(longer / scale)
    towards = 2 * np.array([item.p_human for item in rows]) - 1

    def loss(found: Array) -> tuple[float, Array]:
        slope, length = found
        given = lead + length * term
        value = np.logaddexp(0, -towards * slope * given).sum() + (slope / WIDE) ** 2 / 2 + length**2 / 2
        error = -towards * expit(-towards * slope * given)
        return float(value), np.array([error @ given + slope / WIDE**2, slope * (error @ term) + length])

    bounds = [(0, None), (None, None)]
    tries = [minimize(loss, [0.5, start], jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12) for start in STARTS]
    slope, length = min(tries, key=lambda one: float(one.fun)).x
    return LengthBias(slope=float(slope), length=float(length) * unit, scale=scale, pairs=len(rows))


def debias(ai: Sequence[Judgment], overlap: Sequence[LabelledJudgment]) -> list[Judgment]:
    """The judgments with p_a less the judge's taste for length, and its own p in p_raw. A label may change sides.

    `overlap` must be of pairs that people got by chance (`mix.overlap_of`).
    """
    how = fit_length_bias(overlap)
    return [with_p(j, how.p_a(j)) for j in ai]


def _longer_by(pair: Pair) -> int:
    return len(pair.a.split()) - len(pair.b.split())
