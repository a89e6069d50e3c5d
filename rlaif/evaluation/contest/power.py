"""What a comparison of this size could have seen, and how large one must be to see a given difference.

The formulas are those of arXiv 2411.00640 (Miller, "Adding error bars to evals"), for means of values that come
in clusters. They use the normal law: with fewer than about 20 prompts they promise too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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


class Components(NamedTuple):
    """Variance between prompts' true means (omega^2), and of one more value of the same prompt (sigma^2)."""

    between: float
    within: float
    per_prompt: float
    """Values a prompt, on average, as one-way analysis of variance weighs them."""


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


def prompts_needed(
    difference: float,
    between: float,
    within: tuple[float, float] = (0.0, 0.0),
    samples: tuple[int, int] = (1, 1),
    confidence: float = 0.95,
    power: float = POWER,
) -> int:
    """Prompts to find a difference: n = (z_{a/2} + z_b)^2 (omega^2 + s_A^2 / K_A + s_B^2 / K_B) / d^2.

    `between` is omega^2, the variance over prompts of the difference of the two arms' true means; `within` are s_A^2
    and s_B^2, the variance of one more sample of an arm on the same prompt, of which there are K_A and K_B.
    """
    if not difference > 0:
        raise ValueError(f"the difference to be found must be above 0 (got {difference})")
    variance = between + within[0] / samples[0] + within[1] / samples[1]
    # Rounded first: the smallest error of floating point must not ask for one more prompt.
    return math.ceil(round(_reach(confidence, power) ** 2 * variance / difference**2, 6))


def components(values: Sequence[float], clusters: Sequence[str]) -> Components | None:
    """omega^2 and sigma^2 by one-way analysis of variance (not below 0); None where no prompt has two values or there
    is only one prompt.

    For win rates a value is a game, so sigma^2 holds what both arms' sampling and the judge add together.
    """
    found = np.asarray(values, dtype=float)
    index = numbered(clusters)
    counts = np.bincount(index).astype(float)
    k, n = len(counts), len(found)
    if k < 2 or n == k:
        return None
    means = np.bincount(index, weights=found) / counts
    within = float(np.sum((found - means[index]) ** 2) / (n - k))
    per_prompt = float((n - np.sum(counts**2) / n) / (k - 1))
    spread = float(np.sum(counts * (means - found.mean()) ** 2) / (k - 1))
    return Components(max(0.0, (spread - within) / per_prompt), within, per_prompt)


def _reach(confidence: float, power: float) -> float:
    return float(norm.ppf((1 + confidence) / 2) + norm.ppf(power))
