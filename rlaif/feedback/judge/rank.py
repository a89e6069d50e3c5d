"""Rank the responses to a prompt: compare all pairs or those of a tournament, then read every pair off the strengths.

How a pair is compared is `compare.py`'s, and the mathematics of the ranking is `rlaif/feedback/ranking.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlaif.config.judging import RankMode
from rlaif.feedback.judge.asking import Bench, Sampling, Way
from rlaif.feedback.judge.compare import compare
from rlaif.feedback.judge.drive import Work, together
from rlaif.feedback.judge.result import Outcome, UnitResult
from rlaif.feedback.ranking import Meeting, groups, order, pair_up, strengths
from rlaif.feedback.verdict import sigma
from rlaif.records import Failure, Judgment, Pair, PrincipleJudgment, Ranking, Side, content_id

OTHER: dict[Side, Side] = {"a": "b", "b": "a"}


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
    them (see `ranking.pair_up`), a turn each. No pair is compared twice: when none is left, later rounds are empty. A
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
        return [row if upright else _turned_row(row) for row in contest.failed[pair.id]]
    if p_a is None:
        done = f"{len(contest.judged)} judged, {len(contest.failed)} failed"
        detail = f"of this prompt's comparisons {done}; label.mode.rounds is {bench.mode.rounds or 'all'}"
        return [Failure(stage="label", id=pair.id, reason="not connected by comparisons", detail=detail)]
    principles = own.principles if own else ()
    return Judgment(
        pair=pair,
        source="ai",
        annotator=bench.annotator(),
        p_a=p_a,
        principles=principles if upright else tuple(map(_turned, principles)),
        provenance=bench.provenance(),
    )


def _turned(judgment: PrincipleJudgment) -> PrincipleJudgment:
    """The same replies, read for the exchanged pair."""
    verdicts = [verdict.model_copy(update={"first": OTHER[verdict.first]}) for verdict in reversed(judgment.verdicts)]
    return judgment.model_copy(update={"p_a": 1 - judgment.p_a, "verdicts": tuple(verdicts)})


def _turned_row(row: Failure) -> Failure:
    return row.model_copy(update={"first": OTHER[row.first] if row.first else None})


def _sampling(bench: Bench[RankMode]) -> Sampling:
    own = {"labels": " ".join(bench.template.labels), "rounds": bench.mode.rounds or "all", "seed": bench.seed}
    return own | {"temperature": 0.0, "max_tokens": 1}


WAY = Way(rank, "compare", _sampling, by_prompt=True, title="rank")
