"""How much data a wished figure takes: prompts, samples and labels of a win rate, from the power formulas of
`contest/power.py` (arXiv 2411.00640); labels of a reward model's accuracy, from its learning curve.

A value's variance has two parts: between prompts, which only more prompts make smaller, and within a prompt, which more
samples do too. The curve is accuracy(n) = c - a n^-b (Hestness et al., arXiv 1712.00409), and its interval a profile
likelihood: all n that some curve near the points allows.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

from rlaif.errors import ConfigError, DataError, shown
from rlaif.evaluation.contest.power import POWER
from rlaif.forms import OBJECT
from rlaif.jsonl import read_jsonl, read_rows
from rlaif.records import Judgment
from rlaif.run_folder import Run
from rlaif.stats import numbered

EXPONENTS = np.geomspace(0.05, 2, 120)
"""b of the curves that are tried."""
REACH, STEPS = 1000.0, 400
"""How far beyond the largest number of labels is looked, and below the smallest; and at how many numbers."""
MOST_PROMPTS = 10**8


class Spread(NamedTuple):
    """The variance of a value between prompts and within them."""

    between: float
    within: float

    @classmethod
    def assumed(cls, correlation: float, mean: float = 0.5) -> Spread:
        """Of wins and losses with this mean; two samples of a prompt have this correlation."""
        variance = mean * (1 - mean)
        return cls(correlation * variance, (1 - correlation) * variance)

    @classmethod
    def of(cls, values: Sequence[float], clusters: Sequence[str]) -> Spread:
        """By the analysis of variance in one way. DataError for fewer than two prompts; a single sample of each cannot
        tell the parts apart, and all is between them."""
        found, place = np.asarray(values, dtype=float), numbered(clusters)
        sizes = np.bincount(place) if len(found) else np.zeros(0)
        k, n = len(sizes), len(found)
        if k < 2:
            raise DataError(f"a spread needs the values of two prompts (got {k})")
        means = np.bincount(place, weights=found) / sizes
        between = float(np.sum(sizes * (means - found.mean()) ** 2)) / (k - 1)
        if n == k:
            return cls(between, 0.0)
        within = float(np.sum((found - means[place]) ** 2)) / (n - k)
        return cls(max(0.0, (between - within) / ((n - np.sum(sizes**2) / n) / (k - 1))), within)

    def error(self, prompts: int, samples: int) -> float:
        """Of the mean over so many prompts of so many samples each."""
        return math.sqrt((self.between + self.within / samples) / prompts)


def prompts_needed(spread: Spread, samples: int, confidence: float, width: float | None, effect: float | None) -> int:
    """The fewest prompts, of so many samples each, whose interval is no wider than `width` and that find a true
    difference of `effect` with probability POWER. By Student's law, so that few prompts do not promise too much."""

    def enough(prompts: int) -> bool:
        error, reach = spread.error(prompts, samples), float(student_t.ppf((1 + confidence) / 2, prompts - 1))
        return (width is None or 2 * reach * error <= width) and (
            effect is None or (reach + float(norm.ppf(POWER))) * error <= effect
        )

    found = 2 + bisect_left(range(2, MOST_PROMPTS + 1), True, key=enough)
    if found > MOST_PROMPTS:
        raise DataError(f"plan: more than {MOST_PROMPTS:,} prompts; wish for less")
    return found


class Point(NamedTuple):
    """The held-out accuracy after so many labels; `pairs` are those that measured it, None where nobody says."""

    labels: int
    accuracy: float
    pairs: int | None = None


class LabelsNeeded(NamedTuple):
    """How many labels reach an accuracy. None: cannot be said from the points; of `high` alone: no upper limit can."""

    labels: float | None
    low: float | None
    high: float | None
    ceiling: float
    """Where the likeliest curve levels off."""


def labels_needed(points: Sequence[Point], accuracy: float, confidence: float = 0.95) -> LabelsNeeded:
    """By the curves that the points allow. DataError where they cannot bear any: fewer than three different numbers of
    labels, or fewer than four points where nobody says how many pairs measured them."""
    sizes, known = len({point.labels for point in points}), all(point.pairs for point in points)
    if sizes < 3 or (not known and len(points) < 4):
        raise DataError(
            f"a learning curve needs three different numbers of labels, and four points where none says its held-out "
            f"pairs (got {sizes} and {len(points)})"
        )
    n = np.array([point.labels for point in points], dtype=float)
    y = np.array([point.accuracy for point in points])
    weights = np.ones_like(y)
    if known:
        pairs = np.array([point.pairs for point in points], dtype=float)
        smooth = (y * pairs + 0.5) / (pairs + 1)
        weights = pairs / (smooth * (1 - smooth))
    tried = np.geomspace(n.min() / REACH, n.max() * REACH, STEPS)
    through = np.array([_misfit_through(n, y, weights, accuracy, number) for number in tried])
    (never, _), (_, ceiling) = (_misfit_below(n, y, weights, most) for most in (accuracy, 1.0))
    best, free = min(float(through.min()), never), len(points) - 3
    noise = best / free if free else 1.0
    noise = max(1.0, noise) if known else noise
    critical = student_t.ppf((1 + confidence) / 2, free) if noise != 1.0 else norm.ppf((1 + confidence) / 2)
    allowed = tried[through <= best + noise * float(critical) ** 2 + 1e-12]
    low = float(allowed.min()) if len(allowed) and allowed.min() > tried[0] else None
    unbounded = never <= best + noise * float(critical) ** 2 or not len(allowed) or allowed.max() == tried[-1]
    if never < through.min() or not 0 < through.argmin() < STEPS - 1:
        return LabelsNeeded(None, low, None, ceiling)
    return LabelsNeeded(float(tried[through.argmin()]), low, None if unbounded else float(allowed.max()), ceiling)


Array = NDArray[np.float64]


def _misfit_through(n: Array, y: Array, weights: Array, accuracy: float, number: float) -> float:
    """The least weighted sum of squares of a curve that has this accuracy at this number: c = accuracy + a number^-b
    leaves one unknown, 0 <= a, and c <= 1."""
    slope = number ** -EXPONENTS[:, None] - n ** -EXPONENTS[:, None]  # (exponents, points)
    a = np.sum(weights * slope * (y - accuracy), axis=1) / np.maximum(np.sum(weights * slope**2, axis=1), 1e-300)
    a = np.clip(a, 0, (1 - accuracy) * number**EXPONENTS)
    return float(np.min(np.sum(weights * (y - accuracy - a[:, None] * slope) ** 2, axis=1)))


def _misfit_below(n: Array, y: Array, weights: Array, most: float) -> tuple[float, float]:
    """The same of curves that level off at `most` or below, c <= most; and where the best of them does."""
    found = []
    for x in n ** -EXPONENTS[:, None]:
        mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
        a = max(0.0, -np.sum(weights * (x - mean_x) * (y - mean_y)) / np.sum(weights * (x - mean_x) ** 2))
        c = min(most, mean_y + a * mean_x)
        if c == most:
            a = max(0.0, np.sum(weights * x * (c - y)) / np.sum(weights * x**2))
        found.append((float(np.sum(weights * (y - c + a * x) ** 2)), float(c)))
    return min(found)


def wins_of(run: Run) -> Spread | None:
    """The spread of the policy's wins in a run's evaluation, ties half; None where all are alike, which tells nothing
    of it. DataError where the run has no evaluation."""
    if not run.evaluation_judgments.exists():
        raise DataError(f"{run.folder}: has no evaluation_judgments.jsonl; its spread is known after `rlaif evaluate`")
    judgments = read_jsonl(run.evaluation_judgments, Judgment)
    known = {(one.pair.prompt_id, one.pair.a, one.pair.b): one.p_a for one in judgments}
    rows = [(row["prompt_id"], row["after"], row["before"]) for row in read_rows(run.samples, OBJECT)]
    found = [(key[0], 0.5 if key[1] == key[2] else known.get(key)) for key in rows]
    wins = [(name, 0.5 if p == 0.5 else float(p > 0.5)) for name, p in found if p is not None]
    alike = len({value for _, value in wins}) < 2
    return None if alike else Spread.of([value for _, value in wins], [name for name, _ in wins])


def parsed(text: str, pairs: int | None) -> list[Point]:
    """`100:0.61,200:0.66` as points. ConfigError for anything else."""
    found = []
    for part in text.split(","):
        given = re.fullmatch(r"\s*(\d{1,12})\s*:\s*(0?\.\d+|1(?:\.0*)?|0)\s*", part)
        if given is None or not int(given[1]):
            raise ConfigError(f"--points: LABELS:ACCURACY, as 100:0.61 (got {shown(part)})")
        found.append(Point(int(given[1]), float(given[2]), pairs))
    return found


def sentence(needed: LabelsNeeded, accuracy: float, confidence: float) -> str:
    """In words, rounded to two digits."""
    number, low, high = (end if end is None else f"{float(f'{end:.2g}'):,.0f}" for end in needed[:3])
    level = f"the likeliest curve levels off at {needed.ceiling:.0%}"
    least = f"; fewer than {low} do not ({confidence:.0%})" if low else ""
    if number is None:
        return f"how many labels reach {accuracy:.0%} cannot be said from these points: {level}{least}"
    upper = f"{low or 0} to {high}" if high else f"{low or 0} or more; no upper limit can be said from these points"
    return f"about {number} labels reach {accuracy:.0%} ({confidence:.0%}: {upper}); {level}"
