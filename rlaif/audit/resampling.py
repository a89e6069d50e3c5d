"""The bootstrap over prompts for measures that are not the mean of one value a pair.

A mean takes `evaluation.agreement.clustered_mean`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rlaif.evaluation.agreement import Bootstrap, bootstrap_bounds, numbered

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Statistic = Callable[[Array], Array]
"""From weights (resamples, pairs) to one value a resample; nan where a resample has none."""

MOST_AT_ONCE = 2_000_000
"""Weights in memory at a time."""


def interval(statistic: Statistic, clusters: Sequence[str], bootstrap: Bootstrap) -> tuple[float, float] | None:
    """The interval of a statistic under resampling of whole clusters, as `bootstrap_bounds` has it.

    A resample draws as many clusters as there are, with replacement; a pair's weight is how often its cluster was
    drawn. Resamples in which the statistic does not exist are left out. None for fewer than two clusters, and when the
    statistic exists in no resample or leaving out any cluster ends it.
    """
    index = numbered(clusters)
    k = len(set(clusters))
    if k < 2:
        return None
    rng = np.random.default_rng(bootstrap.seed)

    def resample(start: int, stop: int) -> Array:
        drawn = rng.multinomial(k, np.full(k, 1 / k), size=stop - start)
        return np.asarray(drawn[:, index], dtype=np.float64)

    def leave_out(start: int, stop: int) -> Array:
        return np.asarray(np.arange(start, stop)[:, None] != index, dtype=np.float64)

    def existing(weights: Callable[[int, int], Array], count: int) -> Array:
        rows = max(1, MOST_AT_ONCE // len(index))
        parts = [statistic(weights(start, min(start + rows, count))) for start in range(0, count, rows)]
        values = np.concatenate(parts)
        return np.asarray(values[np.isfinite(values)])

    (value,) = statistic(np.ones((1, len(index))))
    resampled, left_out = existing(resample, bootstrap.samples), existing(leave_out, k)
    if not resampled.size or len(left_out) < 2:
        return None
    return bootstrap_bounds(float(value), resampled, left_out, bootstrap.confidence)
