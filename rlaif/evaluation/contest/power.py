"""What a comparison of this size could have seen.

The formulas are those of arXiv 2411.00640 (Miller, "Adding error bars to evals"), for means of values that come
in clusters. They use the normal law: with fewer than about 20 prompts they promise too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from rlaif.records import Record
from rlaif.stats import numbered

POWER = 0.8
"""How often a true difference of the stated size must be found."""


class Power(Record):
    """What so many prompts with this standard error can show: a true difference of `detectable` is found with
    probability `power`, a smaller one less often."""

    prompts: int
    error: float
    detectable: float
    confidence: float
    power: float


def clustered_error(values: Sequence[float], clusters: Sequence[str]) -> float:
    """The standard error of the mean of all values, clusters independent: sqrt(k / (k - 1) sum_c (sum_i e_i)^2) / n.

    e are the deviations from the mean; k / (k - 1) for k clusters makes up for their mean being the values' own.
    NaN for one cluster.
    """
    found = np.asarray(values, dtype=float)
    index = numbered(clusters)
    sums = np.bincount(index, weights=found - found.mean())
    if len(sums) < 2:
        return math.nan
    return float(math.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)) / len(found))


def detectable(error: float, confidence: float = 0.95, power: float = POWER) -> float:
    """The smallest true difference that is found with this power: (z_{a/2} + z_b) error, two-sided."""
    return _reach(confidence, power) * error


def power_of(values: Sequence[float], clusters: Sequence[str], confidence: float, power: float = POWER) -> Power | None:
    """What these values could show; None for one cluster or values without any spread, which tell nothing of it."""
    error = clustered_error(values, clusters)
    if not error > 0:
        return None
    return Power(
        prompts=len(set(clusters)),
        error=error,
        detectable=detectable(error, confidence, power),
        confidence=confidence,
        power=power,
    )


def _reach(confidence: float, power: float) -> float:
    return float(norm.ppf((1 + confidence) / 2) + norm.ppf(power))
