"""The judge's labels with its taste for length taken out, as far as people do not share it.

A map of p alone (`overlap.believed`) cannot do that: 0.8 for a response twice as long and 0.8 for one as long as the
other are worth different things, and only the people who labelled the same pairs can say how different. It takes about
200 such pairs; with 50 the correction does more harm than good (benchmarks/known_truth.py --share 0.04).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import expit

from rlaif.audit.labelled import Labelled, decided
from rlaif.errors import DataError
from rlaif.feedback.verdict import log_odds, sigma
from rlaif.records import Judgment, Pair, Record

RIDGE = np.array([0.01, 4.0])
"""Priors: slope ~ N(0, 10^2), so that a judge who is never wrong has a finite one; length ~ N(0, 0.5^2)."""


class Debiasing(Record):
    """What people prefer, given the judge's word and the lengths:

        logit P(people prefer a) = slope * logit p_a + length * tanh((words_a - words_b) / scale)

    and so what the judge would have to add to its own log-odds, length / slope * tanh(...), to be wrong no more
    often about long responses than about short ones. The length term is LC-AlpacaEval's (arXiv 2404.04475), fitted to
    people instead of set to zero. Antisymmetric: exchanging a and b maps p to 1 - p.
    """

    slope: float = Field(ge=0)
    """Below 1: the judge is surer than it is right."""
    length: float
    """Below 0: the judge is drawn to length more than people are."""
    scale: float = Field(gt=0)
    """Root mean square of the difference in words, over the overlap."""
    pairs: int = Field(ge=1)

    def p_a(self, judgment: Judgment) -> float:
        """What the judge said of a, before any calibration, less its taste for length. It stays as sure as it was."""
        pull = self.length / self.slope * float(np.tanh(_longer_by(judgment.pair) / self.scale))
        return sigma(log_odds(_raw(judgment)) + pull)


def fit_debiasing(overlap: Sequence[Labelled]) -> Debiasing:
    """By penalised maximum likelihood on the pairs on which people have a preference; DataError of none.

    The slope is held to 0 and above: a judge that errs more often than a coin is not turned round but disregarded.
    """
    rows = sorted(decided(overlap), key=lambda item: item.judgment.pair.id)
    if not rows:
        raise DataError("preferences.labels.policy: people and the judge labelled no pair both, so nothing can be said")
    longer = np.array([_longer_by(item.judgment.pair) for item in rows], dtype=float)
    scale = float(np.sqrt(np.mean(longer**2))) or 1.0
    design = np.column_stack([[log_odds(_raw(item.judgment)) for item in rows], np.tanh(longer / scale)])
    towards = 2 * np.array([item.p_human for item in rows]) - 1

    def loss(found: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        lead = towards * (design @ found)
        value = np.logaddexp(0, -lead).sum() + found @ (RIDGE * found) / 2
        return float(value), -(towards * expit(-lead)) @ design + RIDGE * found

    bounds = [(0, None), (None, None)]
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12).x
    return Debiasing(slope=float(found[0]), length=float(found[1]), scale=scale, pairs=len(rows))


def debias(ai: Sequence[Judgment], overlap: Sequence[Labelled]) -> list[Judgment]:
    """The judgments with p_a less the judge's taste for length, and its own p in p_raw. A label may change sides.

    `overlap` must be of pairs that people got by chance (`overlap.overlap_of`). Empty where the judge's word says
    nothing of people's at equal length: its labels are left out then.
    """
    how = fit_debiasing(overlap)
    if how.slope == 0:
        return []
    return [j.model_copy(update={"p_a": how.p_a(j), "p_raw": _raw(j)}) for j in ai]


def _longer_by(pair: Pair) -> int:
    return len(pair.a.split()) - len(pair.b.split())


def _raw(judgment: Judgment) -> float:
    return judgment.p_a if judgment.p_raw is None else judgment.p_raw
