"""Estimates with intervals; how far the judge agrees with itself, and the reward model with its labels.

Every interval resamples prompts, not rows: responses to one prompt, and pairs made of them, are not
independent, and treating them so can understate the error threefold (arXiv 2411.00640). What training changed
is measured in `winrate.py` and `evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri, xlogy
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import t as student_t

from rlaif.config.recipe import EvaluateSection
from rlaif.records import Failure, Judgment, Record, Verdict

Bounds = tuple[float, float]


class Bootstrap(NamedTuple):
    """How intervals are made. Equal settings and values give equal intervals."""

    samples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    @classmethod
    def of(cls, section: EvaluateSection, seed: int) -> Bootstrap:
        """As a recipe has it."""
        return cls(section.bootstrap_samples, section.confidence, seed)


class Estimate(Record):
    """A mean with its interval. `low` and `high` are None where the data cannot give one; n counts values."""

    value: float
    low: float | None
    high: float | None
    n: int


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


# ---------------------------------------------------------------------------------------------- the judge


class _OrderedPair(NamedTuple):
    """One principle's verdicts on one pair: P(the response that was shown first), the mean over the reasons if any."""

    prompt_id: str
    principle: str
    p_first_ab: float
    p_first_ba: float

    @property
    def outcome(self) -> str:
        """consistent: one response preferred in both orders; both_first and both_second: one position was."""
        if 0.5 in (self.p_first_ab, self.p_first_ba):
            return "undecided"
        if (self.p_first_ab > 0.5) != (self.p_first_ba > 0.5):
            return "consistent"
        return "both_first" if self.p_first_ab > 0.5 else "both_second"


def probability_of_first(verdict: Verdict) -> float:
    """P(the response shown first is better), normalised over the two labels (arXiv 2309.00267, sec. 2)."""
    return float(expit(verdict.logprob_first - verdict.logprob_second))


def order_consistency(
    judgments: Iterable[Judgment], samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any] | None:
    """How often a principle's preferred response is the same in both orders (position consistency).

    n counts (pair, principle) with a verdict in each order. The rest splits into `both_first` and
    `both_second` (the same position preferred twice: position bias, arXiv 2309.00267) and `undecided` (an
    exact 0.5 in either order); with `value` they add up to 1. A judge that tosses coins scores 0.5, one
    that sees only the position scores 0. `swap_gap` is the mean |p1 - p2|. `by_principle` has the same
    form. None when no pair was judged in both orders.
    """
    bootstrap = Bootstrap(samples, confidence, seed)
    rows = list(_ordered_pairs(judgments))
    if not rows:
        return None
    whole = _consistency(rows, bootstrap)
    principles = sorted({row.principle for row in rows})
    if len(principles) == 1:
        return whole | {"by_principle": {principles[0]: whole}}
    by_principle = {p: _consistency([r for r in rows if r.principle == p], bootstrap) for p in principles}
    return whole | {"by_principle": by_principle}


def _ordered_pairs(judgments: Iterable[Judgment]) -> Iterable[_OrderedPair]:
    for judgment in judgments:
        for principle in judgment.principles:
            shown: dict[str, list[float]] = {}
            for verdict in principle.verdicts:
                shown.setdefault(verdict.first, []).append(probability_of_first(verdict))
            if len(shown) == 2:
                means = fmean(shown["a"]), fmean(shown["b"])
                yield _OrderedPair(judgment.pair.prompt_id, principle.principle, *means)


def _consistency(rows: Sequence[_OrderedPair], bootstrap: Bootstrap) -> dict[str, Any]:
    clusters = [row.prompt_id for row in rows]

    def share(outcome: str) -> dict[str, Any]:
        return clustered_mean([float(r.outcome == outcome) for r in rows], clusters, *bootstrap).model_dump()

    others = {outcome: share(outcome) for outcome in ("both_first", "both_second", "undecided")}
    # p2 = P(a | b shown first) = 1 - p_first_ba.
    gaps = [abs(row.p_first_ab - (1 - row.p_first_ba)) for row in rows]
    return share("consistent") | others | {"swap_gap": float(np.mean(gaps))}


def coverage(judgments: Iterable[Judgment], failures: Iterable[Failure]) -> dict[str, Any]:
    """The share of pairs that came back from judging with a judgment, and why the others did not.

    `value` is None when the judge was asked nothing. `reasons` counts failures: one pair may have several.
    """
    failures = list(failures)
    judged = len({j.pair.id for j in judgments if j.source == "ai"})
    failed = len({f.id for f in failures})
    reasons: dict[str, int] = {}
    for failure in failures:
        reasons[failure.reason] = reasons.get(failure.reason, 0) + 1
    value = judged / (judged + failed) if judged + failed else None
    return {"value": value, "judged": judged, "failed": failed, "reasons": dict(sorted(reasons.items()))}


# --------------------------------------------------------------------------------------- the reward model


def heldout_accuracy(
    rows: Sequence[Mapping[str, Any]], samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any] | None:
    """How often the reward model scores the chosen response above the rejected one, on pairs it never saw.

    Rows: prompt_id, source, p_chosen, margin = score(chosen) - score(rejected). A margin of 0 counts half.
    Kept ties (p_chosen of 0.5) have no right answer and enter only the cross-entropy, in nats per pair, -p
    log sigma(m) - (1 - p) log sigma(-m); `label_entropy` is the least that these soft labels allow.
    """
    bootstrap = Bootstrap(samples, confidence, seed)
    if not rows:
        return None
    overall = _accuracy(rows, bootstrap)
    sources = sorted({row["source"] for row in rows})
    by_source = {s: _accuracy([r for r in rows if r["source"] == s], bootstrap) for s in sources}
    p = np.array([row["p_chosen"] for row in rows])
    margins = np.array([row["margin"] for row in rows])
    losses = p * np.logaddexp(0, -margins) + (1 - p) * np.logaddexp(0, margins)
    cross_entropy = clustered_mean(list(losses), [r["prompt_id"] for r in rows], *bootstrap, bounds=None)
    return (overall or {"value": None, "low": None, "high": None, "n": 0}) | {
        "by_source": by_source,
        "cross_entropy": cross_entropy.model_dump(),
        "label_entropy": float(-(xlogy(p, p) + xlogy(1 - p, 1 - p)).mean()),
    }


def _accuracy(rows: Sequence[Mapping[str, Any]], bootstrap: Bootstrap) -> dict[str, Any] | None:
    decided = [row for row in rows if row["p_chosen"] != 0.5]
    if not decided:
        return None
    hits = [0.5 if row["margin"] == 0 else float(row["margin"] > 0) for row in decided]
    return clustered_mean(hits, [row["prompt_id"] for row in decided], *bootstrap).model_dump()
