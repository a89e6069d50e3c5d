"""The order in which judged pairs should go to people: one function per router, all of them pure; and what a judgment
itself tells of how far it can be believed, which they and a predictor of its errors go by.

Every order is of pair ids, the first being the most worth a person's time, ties decided by a seeded hash. A budget
takes its beginning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import NamedTuple

import numpy as np

from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import log_odds
from rlaif.records import Judgment, PrincipleJudgment, content_id

BY_CHANCE = 0.2
"""The share of a budget that is spent at random."""

Worth = tuple[float, float]
"""What counts first, and what decides among equals; more is more urgent."""


def closeness(judgment: Judgment) -> float:
    """How near to even the label is: 1 at p = 0.5, 0 at certainty."""
    return 1 - 2 * abs(judgment.p_a - 0.5)


def swap_gap(judgment: Judgment) -> float:
    """The mean |p1 - p2| of everything that was asked in both orders, members of a panel included; 0 where nothing
    was."""
    gaps = [part.swap_gap for part in _parts(judgment) if part.swap_gap is not None]
    return fmean(gaps) if gaps else 0.0


def disagreement(judgment: Judgment) -> float:
    """How evenly a panel's members are divided, or without a panel the principles: 0 where all prefer the same
    response, 1 where half prefer the other. One at exactly 0.5 is half on either side; 0 with fewer than two."""
    said = [member.p_a for member in judgment.members] or [part.p_a for part in judgment.principles]
    if len(said) < 2:
        return 0.0
    share = fmean(choice(p) for p in said)
    return 2 * min(share, 1 - share)


def features(judgment: Judgment, margin: float | None) -> dict[str, float]:
    """What may go with an error. None depends on which response is called a.

    `for_longer` is 1 where the judge prefers the response with more words, -1 where it prefers the other. `margin` is a
    reward model's score of the preferred response minus the other's, where there is one.
    """
    pair = judgment.pair
    words_a, words_b = len(pair.a.split()), len(pair.b.split())
    longer = math.copysign(1.0, words_a - words_b) if words_a != words_b else 0.0
    log_ratio = abs(math.log((1 + words_a) / (1 + words_b)))
    said = [part.p_a for part in _parts(judgment)]
    preferred = 2 * choice(judgment.p_a) - 1
    found = {
        "closeness": closeness(judgment),
        "strength": abs(log_odds(judgment.p_a)),
        "swap_gap": swap_gap(judgment),
        "disagreement": disagreement(judgment),
        "spread": pstdev(said) if len(said) > 1 else 0.0,
        "for_longer": preferred * longer,
        "for_longer_by": preferred * longer * log_ratio,
        "length_difference": log_ratio,
        "length": math.log(1 + words_a + words_b),
        "prompt_length": math.log(1 + sum(len(message.content.split()) for message in pair.prompt)),
    }
    return found | ({} if margin is None else {"margin": margin})


def margins_of_choice(judgments: Sequence[Judgment], margin_a: Mapping[str, float]) -> dict[str, float]:
    """By pair id: the reward model's score of the response that the judge prefers minus the other's, from its
    score(a) - score(b) as each judgment holds the pair. Negative: the model and the judge disagree."""
    return {j.pair.id: (2 * choice(j.p_a) - 1) * margin_a[j.pair.id] for j in judgments if j.pair.id in margin_a}


def _parts(judgment: Judgment) -> list[PrincipleJudgment]:
    judged = [*judgment.principles, *(part for member in judgment.members for part in member.principles)]
    return [part for part in judged if not part.checked]


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
