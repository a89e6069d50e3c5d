"""Rankings from paired comparisons: Bradley-Terry strengths, and who meets whom in a tournament.

The mathematics only: responses are numbers from 0 to K - 1, and no model is asked. Next: `judge/rank.py`, which asks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

import choix
import networkx as nx
import numpy as np
from numpy.typing import NDArray

Meeting = tuple[int, int]
"""Two responses that are compared, the smaller number first."""

ALPHAS = (1e-12, 1e-10, 1e-8)
"""Where one response wins everything the likelihood has no maximum: its strength grows for ever. choix's `alpha` adds
so much to every rate of its Markov chain and so bounds all strengths. For two responses p comes back within twice alpha
whatever it is, and at the smallest alpha log-odds reach 27, so that a decided label stays one. On a few tables of
near-certain wins (5 of 4,000 random ones) rounding keeps choix's iteration moving: those take the next alpha."""
MAX_ITERATIONS = 5000
DIGITS = 9
"""Of a strength; what comes after is the iteration's rounding, and would break ties."""


def strengths(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bradley-Terry strengths in log-odds: P(i over j) = sigma(theta_i - theta_j), by maximum likelihood.

    `wins[i, j]` is how often i won against j; a soft label adds p to one and 1 - p to the other. Responses that no
    chain of comparisons joins share no scale: each group (see `groups`) is fitted by itself and has mean 0.
    """
    theta = np.zeros(len(wins))
    for group in groups(wins):
        if len(group) > 1:
            fitted = _fit(wins[np.ix_(group, group)])
            theta[group] = (fitted - fitted.mean()).round(DIGITS) + 0.0  # no negative zeros
    return theta


def _fit(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    for alpha in ALPHAS[:-1]:
        with suppress(RuntimeError):  # did not converge
            return np.asarray(choix.ilsr_pairwise_dense(wins, alpha=alpha, max_iter=MAX_ITERATIONS))
    return np.asarray(choix.ilsr_pairwise_dense(wins, alpha=ALPHAS[-1], max_iter=MAX_ITERATIONS))


def groups(wins: NDArray[np.float64]) -> list[list[int]]:
    """The responses in groups that chains of comparisons join, each in ascending order."""
    graph = nx.from_numpy_array((wins + wins.T) > 0)
    return [sorted(group) for group in nx.connected_components(graph)]


def order(theta: NDArray[np.float64]) -> list[int]:
    """Strongest first; of equals the smaller number."""
    return [int(i) for i in np.argsort(-theta, kind="stable")]


def pair_up(ranked: Sequence[int], open_meetings: Collection[Meeting], wins: NDArray[np.float64]) -> list[Meeting]:
    """The meetings of one round of a Swiss tournament: as many as can be, each response in at most one.

    Only `open_meetings` (no rematch: a judge that is asked the same again says the same) are chosen from. Among the
    largest choices first come those in which whoever has been in the fewest comparisons so far plays, then those that
    join most responses which no chain of comparisons joins yet, then those of the nearest neighbours in `ranked`.
    """
    n = len(ranked)
    place = {response: at for at, response in enumerate(ranked)}
    met = ((wins + wins.T) > 0).sum(axis=1)
    group = {response: number for number, members in enumerate(groups(wins)) for response in members}
    # Integer weights, each step larger than all that the later criteria can add up to over n / 2 meetings.
    joining = n**3
    playing = joining * n
    graph = nx.Graph()
    for i, j in sorted(open_meetings):
        rested = 2 * n - int(met[i] + met[j])
        weight = playing * rested + joining * (group[i] != group[j]) - (place[i] - place[j]) ** 2
        graph.add_edge(i, j, weight=weight)
    chosen = nx.max_weight_matching(graph, maxcardinality=True)
    return sorted((min(pair), max(pair)) for pair in chosen)
