"""The order in which judged pairs should go to people: one function a router, all of them pure.

Every order is of pair ids, the first being the most worth a person's time, ties decided by a seeded hash. A budget
takes its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlaif.hybrid.evidence import closeness, disagreement, swap_gap
from rlaif.records import Judgment, content_id

BY_CHANCE = 0.2
"""The share of a budget that is spent at random."""

Worth = tuple[float, float]
"""What counts first, and what decides among equals; more is more urgent."""


def by_hash(judgments: Sequence[Judgment], seed: int) -> list[str]:
    """A random order: the only one whose labels also say how good the judge is."""
    return _ordered(judgments, lambda judgment: (0, 0.0), seed)


def by_uncertainty(judgments: Sequence[Judgment], seed: int) -> list[str]:
    """The label nearest to even first."""
    return _ordered(judgments, lambda judgment: (0, closeness(judgment)), seed)


def by_swap_gap(judgments: Sequence[Judgment], seed: int) -> list[str]:
    """First where the judge's probability depends most on which response it reads first."""
    return _ordered(judgments, lambda judgment: (0, swap_gap(judgment)), seed)


def by_disagreement(judgments: Sequence[Judgment], seed: int) -> list[str]:
    """First where a panel, or the principles, are most evenly divided; among those the label nearest to even."""
    return _ordered(judgments, lambda judgment: (disagreement(judgment), closeness(judgment)), seed)


def by_predicted_error(judgments: Sequence[Judgment], p_wrong: Mapping[str, float], seed: int) -> list[str]:
    """First where a fitted predictor (`predictor.py`) thinks the judge most likely wrong."""
    return _ordered(judgments, lambda judgment: (0, p_wrong[judgment.pair.id]), seed)


class Bands(NamedTuple):
    """Where a sorted curve of margins bends: below `elbow` the judge is probably wrong, above `knee` right."""

    elbow: float
    knee: float


def bands(margins: Sequence[float]) -> Bands:
    """The elbow and the knee of the sorted margins (RLTHF, arXiv 2502.13417).

    The curve rises steeply, runs flat and rises steeply again. Each bend is where its half lies farthest from the chord
    of that half (Satopaa et al. 2011): the lower half farthest above, the upper half farthest below.
    """
    curve = np.sort(np.asarray(margins, dtype=float))
    if len(curve) < 4:
        return Bands(float(curve[0]), float(curve[-1])) if len(curve) else Bands(0.0, 0.0)
    middle = len(curve) // 2
    lower, upper = curve[: middle + 1], curve[middle:]
    above = lower - np.linspace(lower[0], lower[-1], len(lower))
    below = np.linspace(upper[0], upper[-1], len(upper)) - upper
    return Bands(float(lower[int(above.argmax())]), float(upper[int(below.argmax())]))


def by_margin(judgments: Sequence[Judgment], margins: Mapping[str, float], seed: int) -> list[str]:
    """The ambiguous band first, the margin nearest to its middle leading; then the probably wrong, the most wrong
    leading; then the probably right, the least sure leading.

    `margins` by pair id: a reward model's margin for the judge's choice, the model being trained on the judge's labels.
    """
    elbow, knee = bands([margins[judgment.pair.id] for judgment in judgments])
    middle = (elbow + knee) / 2

    def worth(judgment: Judgment) -> Worth:
        margin = margins[judgment.pair.id]
        if elbow <= margin <= knee:
            return 2, -abs(margin - middle)
        return (1, -margin) if margin < elbow else (0, -margin)

    return _ordered(judgments, worth, seed)


def _ordered(judgments: Sequence[Judgment], worth: Callable[[Judgment], Worth], seed: int) -> list[str]:
    """Greatest worth first; a pair that was judged twice counts as its first judgment."""
    ranked: dict[str, Worth] = {}
    for judgment in judgments:
        ranked.setdefault(judgment.pair.id, worth(judgment))
    return sorted(ranked, key=lambda pair: (-ranked[pair][0], -ranked[pair][1], content_id("route", seed, pair)))


class Chosen(NamedTuple):
    """Ids of the chosen pairs, in the order in which people should see them, and those among them chosen by chance."""

    pairs: list[str]
    by_chance: list[str]


def choose(order: Sequence[str], at_random: Sequence[str], budget: int, share: float = BY_CHANCE) -> Chosen:
    """The budget: its `share` from the beginning of the random order, the rest from the router's.

    Both are woven together evenly, so that whoever stops early has some of each.
    """
    budget = min(budget, len(order))
    by_chance = list(at_random[: round(share * budget)])
    picked = [pair for pair in order if pair not in set(by_chance)][: budget - len(by_chance)]
    place = {pair: (i + 0.5) / len(some) for some in (by_chance, picked) for i, pair in enumerate(some)}
    return Chosen(sorted(place, key=lambda pair: (place[pair], pair)), by_chance)
