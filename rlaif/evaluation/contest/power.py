"""What the error of a figure allows: what so many prompts could have shown, and what other seeds would change.

Power is that of arXiv 2411.00640 (Miller, "Adding error bars to evals"), for means of values that come in clusters. It
uses the normal law: with fewer than about 20 prompts it promises too much.

An interval over prompts speaks of these trained policies on new prompts: all seeds of an arm on a prompt lie in that
prompt's cluster. Who speaks of the method, and not of the policies it gave this time, needs the spread between seeds as
well; three seeds tell little about it, and the interval says so by its width.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from statistics import stdev

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from rlaif.records import Record
from rlaif.stats import Estimate, means_by, numbered

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
    sums = np.bincount(numbered(clusters), weights=found - found.mean())  # (clusters,)
    if len(sums) < 2:
        return math.nan
    return float(math.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)) / len(found))


def power_of(values: Sequence[float], clusters: Sequence[str], confidence: float) -> Power | None:
    """What these values could show; None for one cluster or values without any spread, which tell nothing of it.

    `detectable` is (z_{a/2} + z_b) error, two-sided.
    """
    error = clustered_error(values, clusters)
    if not error > 0:  # NaN too
        return None
    detectable = float(norm.ppf((1 + confidence) / 2) + norm.ppf(POWER)) * error
    return Power(prompts=len(set(clusters)), error=error, detectable=detectable, confidence=confidence, power=POWER)


class SeedSpread(Record):
    """The figure seed by seed, and their standard deviation; None for one seed.

    The deviation holds the seeds' own noise from the prompts too, so it errs to the large side.
    """

    values: dict[str, float]
    deviation: float | None

    def swapped(self) -> SeedSpread:
        """The same of a win rate, from the other side."""
        return SeedSpread(values={seed: 1 - value for seed, value in self.values.items()}, deviation=self.deviation)


def spread(values: Iterable[float], seeds: Iterable[int]) -> SeedSpread:
    """The mean value of each seed, by seed."""
    found = {str(seed): mean for seed, mean in sorted(means_by(seeds, values).items())}
    return SeedSpread(values=found, deviation=stdev(found.values()) if len(found) > 1 else None)


def over_seeds(
    estimate: Estimate, error: float, clusters: int, spreads: Sequence[SeedSpread], confidence: float
) -> Estimate | None:
    """The same share for new prompts and new seeds: value +- t sqrt(error^2 + sum_f s_f^2 / k_f), within 0 and 1.

    `error` is the clustered standard error over prompts; s_f is the deviation between the k_f seeds of one
    arm. The degrees of freedom are Welch and Satterthwaite's. None where no arm has two seeds: then nothing is
    known about other seeds.
    """
    # (variance, degrees of freedom) of each source of error
    parts = [(s.deviation**2 / len(s.values), len(s.values) - 1) for s in spreads if s.deviation is not None]
    if not parts or clusters < 2:
        return None
    parts.append((error**2, clusters - 1))
    total = math.fsum(variance for variance, _ in parts)
    if total == 0:
        return estimate.model_copy(update={"low": None, "high": None})
    freedom = total**2 / math.fsum(variance**2 / free for variance, free in parts)
    reach = float(student_t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(total)
    low, high = max(0.0, estimate.value - reach), min(1.0, estimate.value + reach)
    return Estimate(value=estimate.value, low=low, high=high, n=estimate.n)


def seeds_apart(cells: Collection[tuple[int, int]]) -> bool:
    """Whether each seed of one arm met several of the other's, so that both arms' spreads are to be counted.

    Where every seed has its one partner the two spreads are the same thing.
    """
    met = set(cells)
    ones, others = ({pair[side] for pair in met} for side in (0, 1))
    return not len(ones) == len(others) == len(met)
