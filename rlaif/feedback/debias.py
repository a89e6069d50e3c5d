"""The judge's labels with its taste for length taken out, as far as people do not share it.

A map of p alone (`mix.believed`) cannot do that: 0.8 for a response twice as long and 0.8 for one as long as the
other are worth different things, and only the people who labelled the same pairs can say how different. What it wins
and what it costs where there is nothing to win: benchmarks/known_truth.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import expit

from rlaif.errors import DataError
from rlaif.feedback.calibration import raw_p
from rlaif.feedback.labelled import LabelledJudgment, decided
from rlaif.feedback.verdict import log_odds, sigma
from rlaif.records import Judgment, Pair, Record

WIDE = 10.0
"""Standard deviation of the prior on the slope: a judge who is never wrong has a finite one."""
STARTS = (-1.0, 0.0, 1.0)
"""Of the length term, in units of its prior: the fit is not convex."""


class Debiasing(Record):
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
        return sigma(log_odds(raw_p(judgment)) + self.length * float(np.tanh(_longer_by(judgment.pair) / self.scale)))


def fit_debiasing(overlap: Sequence[LabelledJudgment]) -> Debiasing:
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

    def loss(found: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, length = found
        given = lead + length * term
        value = np.logaddexp(0, -towards * slope * given).sum() + (slope / WIDE) ** 2 / 2 + length**2 / 2
        error = -towards * expit(-towards * slope * given)
        return float(value), np.array([error @ given + slope / WIDE**2, slope * (error @ term) + length])

    bounds = [(0, None), (None, None)]
    tries = [minimize(loss, [0.5, start], jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12) for start in STARTS]
    slope, length = min(tries, key=lambda one: float(one.fun)).x
    return Debiasing(slope=float(slope), length=float(length) * unit, scale=scale, pairs=len(rows))


def debias(ai: Sequence[Judgment], overlap: Sequence[LabelledJudgment]) -> list[Judgment]:
    """The judgments with p_a less the judge's taste for length, and its own p in p_raw. A label may change sides.

    `overlap` must be of pairs that people got by chance (`mix.overlap_of`).
    """
    how = fit_debiasing(overlap)
    return [j.model_copy(update={"p_a": how.p_a(j), "p_raw": raw_p(j)}) for j in ai]


def _longer_by(pair: Pair) -> int:
    return len(pair.a.split()) - len(pair.b.split())
