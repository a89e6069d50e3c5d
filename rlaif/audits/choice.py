"""Which of several modes of judging to propose: chosen on one half of the human labels, reported on the other.

Who picks the best of several by some figures has flattered those of the one that was picked: luck is part of why. So
the half of the prompts that chooses is not the half whose figures are reported. Pure statistics: `modes.py` judges,
`proposal.py` finds the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlaif.feedback.judge.result import Cost
from rlaif.records import content_id
from rlaif.stats import Bootstrap, Estimate, clustered_mean, clustered_mean_difference, numbered
from rlaif.words import COIN, direction

Prompts = Mapping[str, str]
"""The prompt of each pair on which people have a preference, by the pair's id."""


class ModeTrial(NamedTuple):
    """What one mode made of the pairs on which people have a preference, by pair id: 1 where it chose as they did, 0
    where it did not, 0.5 where it was even. A pair that it could not judge is in neither half."""

    name: str
    choosing: Mapping[str, float]
    reporting: Mapping[str, float]
    cost: Cost
    """Of both halves."""


class Choice(NamedTuple):
    """What the choosing half says."""

    ranked: tuple[str, ...]
    """The modes by their agreement there, best first."""
    agreement: Mapping[str, Estimate]
    """By mode. A pair without a judgment counts half, so that all modes are measured on the same pairs."""
    lead: Estimate | None
    """How far the first is ahead of the second, paired; None where there is one mode."""
    picked: str
    close: bool
    """Whether the first two cannot be told apart."""
    rivals: bool
    """Whether the cost decided between them."""
    flattery: float
    """By how much luck raises the best agreement above its truth where all modes are equally good."""


def chooses(prompt_id: str) -> bool:
    """Whether the prompt is in the half that chooses: by its hash alone, so that no seed and no other prompt moves it
    from one half to the other."""
    return int(content_id("audit", "modes", prompt_id), 16) % 2 == 0


def choose(tried: Sequence[ModeTrial], prompts: Prompts, bootstrap: Bootstrap) -> Choice:
    """Pick a mode by the agreement on the choosing half, whose pairs and prompts these are.

    The best, or where it cannot be told from the second (the interval of their paired difference holds 0) the cheaper
    of the two. A second that cannot be told from a coin does not take the place of a first that can. The order in which
    the modes are given does not matter.
    """
    clusters = list(prompts.values())
    hits = {one.name: [one.choosing.get(pair, 0.5) for pair in prompts] for one in tried}
    agreement = {name: clustered_mean(values, clusters, *bootstrap) for name, values in hits.items()}
    ranked = sorted(tried, key=lambda one: (-agreement[one.name].value, price(one.cost), one.name))
    names = tuple(one.name for one in ranked)
    lead, close, rivals = None, False, False
    if len(ranked) > 1:
        first, second = names[:2]
        lead = clustered_mean_difference(hits[second], hits[first], clusters, bootstrap)
        close = direction(lead) == "unclear"
        rivals = close and (beats_a_coin(agreement[second]) or not beats_a_coin(agreement[first]))
    picked = min(ranked[: 2 if rivals else 1], key=lambda one: price(one.cost))
    luck = flattery([hits[name] for name in sorted(names)], clusters, bootstrap)
    return Choice(names, agreement, lead, picked.name, close, rivals, luck)


def beats_a_coin(agreement: Estimate | None) -> bool:
    """Whether the whole interval is above a half."""
    return agreement is not None and direction(agreement, COIN) == "up"


def price(cost: Cost) -> tuple[int, int]:
    """What makes one mode cheaper than another: tokens read and written, then requests."""
    return cost.prompt_tokens + cost.completion_tokens, cost.calls


def agreement_on(hits: Mapping[str, float], prompts: Prompts, bootstrap: Bootstrap) -> Estimate | None:
    """The mean over the pairs that were judged; None without any."""
    judged = [pair for pair in prompts if pair in hits]
    if not judged:
        return None
    return clustered_mean([hits[pair] for pair in judged], [prompts[pair] for pair in judged], *bootstrap)


def difference_on(
    before: Mapping[str, float], after: Mapping[str, float], prompts: Prompts, bootstrap: Bootstrap
) -> Estimate | None:
    """The mean of after - before over the pairs that both judged; None without any."""
    both = [pair for pair in prompts if pair in before and pair in after]
    if not both:
        return None
    one, other = ([hits[pair] for pair in both] for hits in (before, after))
    return clustered_mean_difference(one, other, [prompts[pair] for pair in both], bootstrap)


def flattery(hits: Sequence[Sequence[float]], clusters: Sequence[str], bootstrap: Bootstrap) -> float:
    """E[max over modes of (mean - truth)], by resampling prompts: each resample's means, less the means as they are.

    With modes of equal truth it is what the best of them gains by luck; with unequal ones the best is less often
    picked for its luck, so it gains less. Modes that err on the same pairs add little to each other's luck.
    """
    index, values = numbered(clusters), np.asarray(hits, dtype=float)
    sums = np.array([np.bincount(index, weights=row) for row in values])
    counts = np.bincount(index).astype(float)
    k = len(counts)
    drawn = np.random.default_rng(bootstrap.seed).multinomial(k, np.full(k, 1 / k), size=bootstrap.samples)
    means = (drawn @ sums.T) / (drawn @ counts)[:, None]
    return float((means - sums.sum(axis=1) / counts.sum()).max(axis=1).mean())
