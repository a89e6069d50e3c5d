"""Estimates with intervals, and the tests beside them: pure statistics that every measurement shares.

Every interval resamples prompts, not rows: responses to one prompt, and pairs made of them, are not
independent, and treating them so can understate the error threefold (arXiv 2411.00640). A mean takes
`clustered_mean`, any other statistic `interval`; how either is said is in `words.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import t as student_t

from rlaif.records import Record

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Statistic = Callable[[Array], Array]
"""From weights (resamples, rows) to one value per resample; nan where a resample has none."""
Bounds = tuple[float, float]
K = TypeVar("K", bound=Hashable)


class BootstrapSettings(Protocol):
    """What a recipe's `evaluate` says of intervals."""

    @property
    def bootstrap_samples(self) -> int: ...

    @property
    def confidence(self) -> float: ...


class Bootstrap(NamedTuple):
    """How intervals are made. Equal settings and values give equal intervals."""

    samples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    @classmethod
    def of(cls, section: BootstrapSettings, seed: int) -> Bootstrap:
        """As a recipe's `evaluate` has it."""
        return cls(section.bootstrap_samples, section.confidence, seed)


class Estimate(Record):
    """A mean with its interval. `low` and `high` are None where the data cannot give one; n counts values."""

    value: float
    low: float | None
    high: float | None
    n: int

    def opposite(self, whole: float = 0.0) -> Estimate:
        """`whole` less the estimate: a difference, or with 1.0 a rate, seen from the other side."""
        low, high = (None if end is None else whole - end for end in (self.high, self.low))
        return Estimate(value=whole - self.value, low=low, high=high, n=self.n)


def at(tree: Any, place: str) -> Any:
    """What lies at a dotted place of a JSON document; None where there is nothing."""
    for part in place.split(".") if place else ():
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def estimate_at(tree: Any, place: str = "") -> Estimate | None:
    """The estimate that was written at a dotted place; None where there is none, or where it was not measured."""
    found = at(tree, place)
    if not isinstance(found, Mapping) or found.get("value") is None:
        return None
    return Estimate(value=found["value"], low=found.get("low"), high=found.get("high"), n=found.get("n", 0))


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[str],
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    bounds: Bounds | None = (0.0, 1.0),
) -> Estimate:
    """The mean of all values, with the bootstrap interval over clusters (`bootstrap_bounds`).

    `bounds` are the lowest and highest possible value. They matter where resampling is blind: when all k
    clusters have the same mean (or k is 1), a bootstrap interval would have no width. What is known then is
    that the share of clusters that differ is below u, Wilson's upper bound for 0 of k, and that those lie
    within the bounds. So the interval is [value - u (value - lowest), value + u (highest - value)]:
    Wilson's own at 0 and 1. Without bounds such data has no interval. Below about 10 clusters any bootstrap
    interval is too narrow.
    """
    index = numbered(clusters)
    if not index.size:
        raise ValueError("the mean of no values")
    sums = np.bincount(index, weights=np.asarray(values, dtype=float))
    counts = np.bincount(index).astype(float)
    mean = float(sums.sum() / counts.sum())
    scale = max(1.0, abs(mean))
    if len(counts) == 1 or np.abs(sums / counts - mean).max() <= 1e-12 * scale:
        return _without_spread(mean, len(counts), len(values), confidence, bounds)
    resampled = scipy_bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=samples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    low, high = bootstrap_bounds(mean, resampled, left_out, confidence)
    return Estimate(value=mean, low=low, high=high, n=len(values))


def mean_of(
    rows: Iterable[tuple[float, str]], bootstrap: Bootstrap, bounds: Bounds | None = (0.0, 1.0)
) -> Estimate | None:
    """`clustered_mean` of rows (value, cluster), as a share of hits by prompt; None of no rows."""
    rows = list(rows)
    values, clusters = [value for value, _ in rows], [cluster for _, cluster in rows]
    return clustered_mean(values, clusters, *bootstrap, bounds) if rows else None


def numbered(clusters: Sequence[str]) -> NDArray[np.intp]:
    """Each value's cluster as a number, from 0 in the order in which the clusters first come."""
    order = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([order[cluster] for cluster in clusters], dtype=np.intp)


def bootstrap_bounds(
    value: float, resampled: NDArray[np.float64], left_out: NDArray[np.float64], confidence: float
) -> Bounds:
    """The BCa interval (Efron 1987) from what a statistic is on resamples and with each cluster left out.

    Plain percentiles miss a share near 0 or 1 too often, because its error is skewed: BCa moves them by the
    median bias and the acceleration. Like all bootstrap spreads they are also too narrow for k clusters, by
    sqrt((k - 1) / k), and know no t distribution; both are made good by taking more extreme percentiles
    (Hesterberg 2015, arXiv 1411.5279).
    """
    clusters = len(left_out)
    pull = left_out.mean() - left_out
    spread = np.sum(pull**2)
    acceleration = np.sum(pull**3) / (6 * spread**1.5) if spread > 0 else 0.0
    below = np.mean(resampled < value) + np.mean(resampled == value) / 2
    bias = ndtri(np.clip(below, 0.5 / len(resampled), 1 - 0.5 / len(resampled)))
    reach = student_t.ppf((1 + confidence) / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1))
    moved = bias + np.array([-reach, reach])
    shares = ndtr(bias + moved / np.maximum(1 - acceleration * moved, 1e-9))
    low, high = np.quantile(resampled, shares)
    return float(low), float(high)


def _without_spread(mean: float, clusters: int, n: int, confidence: float, bounds: Bounds | None) -> Estimate:
    if bounds is None:
        return Estimate(value=mean, low=None, high=None, n=n)
    unseen = float(binomtest(0, clusters).proportion_ci(confidence, method="wilson").high)
    lowest, highest = bounds
    return Estimate(value=mean, low=mean - unseen * (mean - lowest), high=mean + unseen * (highest - mean), n=n)


def means_by(keys: Iterable[K], values: Iterable[float]) -> dict[K, float]:
    """The mean value of each key, in the order in which keys first come."""
    found: dict[K, list[float]] = {}
    for key, value in zip(keys, values, strict=True):
        found.setdefault(key, []).append(value)
    return {key: fmean(of) for key, of in found.items()}


def clustered_mean_difference(
    before: Sequence[float],
    after: Sequence[float],
    clusters: Sequence[str],
    bootstrap: Bootstrap,
    bounds: Bounds | None = (-1.0, 1.0),
) -> Estimate:
    """The mean of after - before, row by row: paired, so that what prompts have in common cancels."""
    differences = [y - x for x, y in zip(before, after, strict=True)]
    return clustered_mean(differences, clusters, *bootstrap, bounds)


def change(
    before: Sequence[float],
    after: Sequence[float],
    clusters: Sequence[str],
    bootstrap: Bootstrap,
    bounds: Bounds | None,
) -> dict[str, Any]:
    """Means before and after, each with its interval, and the paired difference, whose interval decides."""
    one = clustered_mean(before, clusters, *bootstrap, bounds)
    two = clustered_mean(after, clusters, *bootstrap, bounds)
    reach = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    return {
        "before": one.value,
        "after": two.value,
        "difference": clustered_mean_difference(before, after, clusters, bootstrap, reach).model_dump(),
        "before_interval": [one.low, one.high],
        "after_interval": [two.low, two.high],
    }


# ------------------------------------------------------------------------------------- other statistics

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


# ------------------------------------------------------------------------------------- tests

FLIPS = 9999
PORTION = 500
"""Sign flips at a time."""


def sign_flip(differences: Sequence[float], clusters: Sequence[str], seed: int = 0) -> float:
    """The two-sided p-value of "swapping the arms on a prompt would change nothing" (Fisher's paired randomisation).

    Each prompt's sum of differences keeps its size and gets a random sign, FLIPS times; p is the share of sums at
    least as far from 0 as the one found, that one included. It needs no law of the values and no number of prompts,
    but cannot go below 1 / (FLIPS + 1), nor below 2 / 2^k for k prompts.
    """
    sums = np.bincount(numbered(clusters), weights=np.asarray(differences, dtype=float))
    sums = sums[np.abs(sums) > 1e-12]
    found = abs(sums.sum()) - 1e-9  # equal sums must count as equal
    rng = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, FLIPS, PORTION):
        kept = rng.integers(0, 2, size=(min(PORTION, FLIPS - start), len(sums)), dtype=np.int8).astype(float)
        as_far += int(np.sum(np.abs(2 * (kept @ sums) - sums.sum()) >= found))
    return (1 + as_far) / (1 + FLIPS)


def bonferroni(confidence: float, intervals: int) -> float:
    """The confidence that each of several intervals needs for all together to have the one given."""
    return 1 - (1 - confidence) / max(1, intervals)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): each p times the number of hypotheses not yet rejected, made monotone."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
