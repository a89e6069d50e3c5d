"""Rank the responses to a prompt: compare all pairs or those of a tournament, then read every pair off the strengths.

Here are Bradley-Terry strengths of responses that are numbers from 0 to K - 1, who meets whom in a tournament, and the
mode. How a pair is compared is `compare.py`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

import choix
import networkx as nx
import numpy as np
from numpy.typing import NDArray

from rlaif.config.judging import RankMode
from rlaif.feedback.judge.asking import Bench, Sampling, Way
from rlaif.feedback.judge.compare import compare
from rlaif.feedback.judge.drive import Work, together
from rlaif.feedback.judge.result import Outcome, UnitResult
from rlaif.feedback.verdict import sigma
from rlaif.records import Failure, Judgment, Pair, PrincipleJudgment, Ranking, Side, content_id

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
OTHER: dict[Side, Side] = {"a": "b", "b": "a"}


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


class _Contest:
    """The responses to one prompt, numbered by seeded hash, and what their comparisons have said so far.

    Neither the order of the pairs nor which response is called a leaves a trace: a is the one with the smaller number.
    """

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        prompt_id = pairs[0].prompt_id
        texts = {text for pair in pairs for text in (pair.a, pair.b)}
        self.texts = sorted(texts, key=lambda text: (content_id("rank", seed, prompt_id, text), text))
        self.number = {text: number for number, text in enumerate(self.texts)}
        self.unmet = {self.meeting(pair): pair if self.upright(pair) else pair.swapped() for pair in pairs}
        self.judged: dict[str, Judgment] = {}
        self.failed: dict[str, list[Failure]] = {}
        self.wins = np.zeros((len(texts), len(texts)))
        self.theta = strengths(self.wins)
        self.groups = groups(self.wins)

    def meeting(self, pair: Pair) -> Meeting:
        i, j = sorted((self.number[pair.a], self.number[pair.b]))
        return i, j

    def upright(self, pair: Pair) -> bool:
        return self.number[pair.a] < self.number[pair.b]

    def next_round(self, everyone: bool) -> list[Pair]:
        """The pairs to compare now, each once and never again: all, or those of one round of a tournament."""
        due = sorted(self.unmet) if everyone else pair_up(order(self.theta), self.unmet, self.wins)
        return [self.unmet.pop(meeting) for meeting in due]

    def enter(self, due: Sequence[Pair], outcomes: Sequence[Outcome]) -> None:
        """What became of these pairs."""
        for pair, judgment in zip(due, outcomes, strict=True):
            if not isinstance(judgment, Judgment):
                self.failed[pair.id] = judgment
                continue
            i, j = self.meeting(judgment.pair)
            self.wins[i, j] += judgment.p_a
            self.wins[j, i] += 1 - judgment.p_a
            self.judged[judgment.pair.id] = judgment
        self.theta = strengths(self.wins)
        self.groups = groups(self.wins)

    def p_a(self, pair: Pair) -> float | None:
        """By strength; None where no chain of comparisons joins the two responses."""
        i, j = self.number[pair.a], self.number[pair.b]
        joined = any(i in group and j in group for group in self.groups)
        return sigma(float(self.theta[i] - self.theta[j])) if joined else None

    def ranking(self, pair: Pair) -> Ranking | None:
        """All responses, best first; None where the comparisons do not join them all."""
        if len(self.groups) > 1:
            return None
        best_first = order(self.theta)
        return Ranking(
            prompt_id=pair.prompt_id,
            prompt=pair.prompt,
            tags=pair.tags,
            responses=tuple(self.texts[i] for i in best_first),
            strengths=tuple(float(self.theta[i]) for i in best_first),
            compared=len(self.judged),
        )


def rank(bench: Bench[RankMode], pairs: Sequence[Pair]) -> Work[UnitResult]:
    """The pairs of a prompt by the Bradley-Terry strengths of its responses, those never compared too.

    Compared are all pairs given, or, with `mode.rounds`, those that so many rounds of a Swiss tournament choose among
    them (see `pair_up`), a turn each. No pair is compared twice: when none is left, later rounds are empty. A
    judgment's p_a is that of the strengths; its principles are those of the pair's own comparison, if there was one.

    A pair whose own comparison failed is a failure even where the others would tell its p_a: what the judge did not
    answer is never a label. A pair that no chain of comparisons joins is a failure too, and a prompt whose responses
    are not all joined has no ranking.
    """
    contest = _Contest(pairs, bench.seed)
    # A prompt to which no principle applies asks nothing, and all its pairs fail with that reason at once.
    everyone = bench.mode.rounds is None or not bench.constitution.for_tags(pairs[0].tags)
    for _ in range(bench.mode.rounds or 1):
        due = contest.next_round(everyone)
        outcomes = yield from together(compare(bench, pair) for pair in due)
        contest.enter(due, outcomes)
    ranking = contest.ranking(pairs[0])
    return UnitResult([_outcome(bench, contest, pair) for pair in pairs], rankings=(ranking,) if ranking else ())


def _outcome(bench: Bench[RankMode], contest: _Contest, pair: Pair) -> Outcome:
    upright, p_a, own = contest.upright(pair), contest.p_a(pair), contest.judged.get(pair.id)
    if pair.id in contest.failed:
        return [
            row if upright or row.first is None else row.model_copy(update={"first": OTHER[row.first]})
            for row in contest.failed[pair.id]
        ]
    if p_a is None:
        done = f"{len(contest.judged)} judged, {len(contest.failed)} failed"
        detail = f"of this prompt's comparisons {done}; label.mode.rounds is {bench.mode.rounds or 'all'}"
        return [Failure(stage="label", id=pair.id, reason="not connected by comparisons", detail=detail)]
    principles = own.principles if own else ()
    return bench.judgment(pair, p_a, principles if upright else tuple(map(_turned, principles)))


def _turned(judgment: PrincipleJudgment) -> PrincipleJudgment:
    """The same replies, read for the exchanged pair."""
    verdicts = [verdict.model_copy(update={"first": OTHER[verdict.first]}) for verdict in reversed(judgment.verdicts)]
    return judgment.model_copy(update={"p_a": 1 - judgment.p_a, "verdicts": tuple(verdicts)})


def _sampling(bench: Bench[RankMode]) -> Sampling:
    own = {"labels": " ".join(bench.template.labels), "rounds": bench.mode.rounds or "all", "seed": bench.seed}
    return own | {"temperature": 0.0, "max_tokens": 1}


WAY = Way(rank, "compare", _sampling, by_prompt=True, title="rank")
