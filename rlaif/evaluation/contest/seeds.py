"""How much training again with another seed would change a figure.

The interval of a win rate speaks of these trained policies on new prompts: all seeds of an arm on a prompt lie in
that prompt's cluster. Who speaks of the method, and not of the policies it gave this time, needs the spread between
seeds as well; three seeds tell little about it, and the interval says so by its width.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t as student_t

from rlaif.records import Record
from rlaif.stats import Bounds, Estimate


class SeedSpread(Record):
    """The figure seed by seed, and their standard deviation; None for one seed.

    The deviation holds the seeds' own noise from the prompts too, so it errs to the large side.
    """

    values: dict[str, float]
    deviation: float | None

    def swapped(self) -> SeedSpread:
        """The same of a win rate, from the other side."""
        return SeedSpread(values={seed: 1 - value for seed, value in self.values.items()}, deviation=self.deviation)


class _Part(NamedTuple):
    variance: float
    freedom: float


def spread(values: Iterable[float], seeds: Iterable[object]) -> SeedSpread:
    """The mean value of each seed, by seed."""
    found: dict[str, list[float]] = {}
    for value, seed in zip(values, seeds, strict=True):
        found.setdefault(str(seed), []).append(value)
    means = {seed: fmean(found[seed]) for seed in sorted(found, key=lambda name: (len(name), name))}
    return SeedSpread(values=means, deviation=stdev(means.values()) if len(means) > 1 else None)


def over_seeds(
    estimate: Estimate,
    error: float,
    clusters: int,
    spreads: Sequence[SeedSpread],
    confidence: float,
    bounds: Bounds = (0.0, 1.0),
) -> Estimate | None:
    """The same figure for new prompts and new seeds: value +- t sqrt(error^2 + sum_f s_f^2 / k_f), within the bounds.

    `error` is the clustered standard error over prompts; s_f is the deviation between the k_f seeds of one
    arm. The degrees of freedom are Welch and Satterthwaite's. None where no arm has two seeds: then nothing is
    known about other seeds.
    """
    parts = [_Part(s.deviation**2 / len(s.values), len(s.values) - 1) for s in spreads if s.deviation is not None]
    if not parts or clusters < 2:
        return None
    parts.append(_Part(error**2, clusters - 1))
    total = math.fsum(part.variance for part in parts)
    if total == 0:
        return estimate.model_copy(update={"low": None, "high": None})
    freedom = total**2 / math.fsum(part.variance**2 / part.freedom for part in parts)
    reach = float(student_t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(total)
    low, high = max(bounds[0], estimate.value - reach), min(bounds[1], estimate.value + reach)
    return Estimate(value=estimate.value, low=low, high=high, n=estimate.n)


def seeds_apart(cells: Collection[tuple[int, int]]) -> bool:
    """Whether each seed of one arm met several of the other's, so that both arms' spreads are to be counted.

    Where every seed has its one partner the two spreads are the same thing.
    """
    met = set(cells)
    ones, others = ({pair[side] for pair in met} for side in (0, 1))
    return not len(ones) == len(others) == len(met)
