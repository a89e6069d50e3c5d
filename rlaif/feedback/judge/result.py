"""What judging gives, whatever the mode: judgments, failures, the cost, and what some modes keep besides."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from functools import reduce
from typing import NamedTuple

from rlaif.config.feedback import LabelSection
from rlaif.errors import JudgeError
from rlaif.models.engine import Reply
from rlaif.records import Demonstration, Failure, Judgment, Ranking, Reliability, Revision, Score

Outcome = Judgment | list[Failure]
"""Of a pair."""


COSTS = ("judge_calls", "prompt_tokens", "completion_tokens")


class Cost(NamedTuple):
    """Requests made (answered or not) and the tokens of the answered ones."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, replies: Iterable[Reply]) -> Cost:
        """What these replies cost."""
        replies = list(replies)
        answered = [reply for reply in replies if reply.error is None]
        return cls(len(replies), sum(r.prompt_tokens for r in answered), sum(r.completion_tokens for r in answered))

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(*(mine + its for mine, its in zip(self, other, strict=True)))

    @property
    def facts(self) -> dict[str, int]:
        """Under the names that a stage's facts and a step's metrics have for them."""
        return dict(zip(COSTS, self, strict=True))


class UnitResult(NamedTuple):
    """What one unit of work gives: an outcome for each of its pairs, and what its mode keeps besides."""

    outcomes: Sequence[Outcome]
    scores: tuple[Score, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    revisions: tuple[Revision, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()


class JudgeResult(NamedTuple):
    """Judgments and failures, each in pair order. A pair has a judgment, or failures, never both."""

    judgments: Sequence[Judgment]
    failures: Sequence[Failure]
    cost: Cost = Cost()
    scores: Sequence[Score] = ()
    """Of `score`, `checklist` and `contrast`: one for each response."""
    rankings: tuple[Ranking, ...] = ()
    """Of `rank`: one for each prompt."""
    revisions: tuple[Revision, ...] = ()
    """Of `revise`: all rounds of each response."""
    demonstrations: tuple[Demonstration, ...] = ()
    """Of `revise`: rows for supervised fine-tuning."""
    reliability: tuple[Reliability, ...] = ()
    """Of `panel`: one for each member."""

    @classmethod
    def of(cls, parts: Sequence[UnitResult], outcomes: Iterable[Outcome], cost: Cost) -> JudgeResult:
        """The outcomes in this order, and the other rows of the parts."""
        outcomes = list(outcomes)
        return cls(
            judgments=tuple(one for one in outcomes if isinstance(one, Judgment)),
            failures=tuple(row for one in outcomes if not isinstance(one, Judgment) for row in one),
            cost=cost,
            scores=tuple(row for part in parts for row in part.scores),
            rankings=tuple(row for part in parts for row in part.rankings),
            revisions=tuple(row for part in parts for row in part.revisions),
            demonstrations=tuple(row for part in parts for row in part.demonstrations),
        )

    @classmethod
    def total(cls, parts: Iterable[JudgeResult]) -> JudgeResult:
        """Of all parts, in order."""
        parts = list(parts)
        names = [name for name in cls._fields if name != "cost"]
        rows = {name: tuple(row for part in parts for row in getattr(part, name)) for name in names}
        return cls(**rows, cost=reduce(Cost.plus, (part.cost for part in parts), Cost()))


class Piece(JudgeResult):
    """A part of a shard's result, of which more is to come."""


class FailureCount:
    """How many pairs have no judgment, and why the first has none, shard by shard."""

    def __init__(self) -> None:
        self._failed: set[str] = set()
        self._first: Failure | None = None

    def add(self, failures: Sequence[Failure]) -> FailureCount:
        """Those of one more shard."""
        self._failed |= {failure.id for failure in failures}
        self._first = self._first or next(iter(failures), None)
        return self

    def too_many(self, n_pairs: int, section: LabelSection) -> bool:
        """Whether more than `section.max_failures` of the pairs have no judgment."""
        return len(self._failed) > section.max_failures * n_pairs

    def check(self, n_pairs: int, section: LabelSection) -> None:
        """Raise JudgeError where these are too many."""
        if self._first is None or not self.too_many(n_pairs, section):
            return
        failed, first = len(self._failed), self._first
        detail = f" ({first.detail})" if first.detail else ""
        raise JudgeError(
            f"label: {failed} of {n_pairs} pairs have no judgment ({failed / n_pairs:.1%}, limit "
            f"{section.max_failures:.1%}); first: {first.reason}{detail}; {_advice(first.reason)}, or raise "
            "label.max_failures"
        )


Results = Generator[JudgeResult, None, None]
"""One of each shard, or pieces of it and the rest."""


def check_failure_cap(result: JudgeResult, n_pairs: int, section: LabelSection) -> None:
    """Raise JudgeError when more than `section.max_failures` of the pairs have no judgment."""
    FailureCount().add(result.failures).check(n_pairs, section)


def _advice(reason: str) -> str:
    if reason == "no principle applies":
        return "give the constitution a principle without tags or for these tags"
    if reason == "model error":
        return "see failures.jsonl and the judge's log; a new run asks only what is missing"
    if reason == "not connected by comparisons":
        return "raise label.mode.rounds"
    if reason.endswith("was cut off"):
        return "raise label.mode.max_tokens"
    if reason in ("no critique", "no revision", "the revision equals the original"):
        return "use a judge that follows instructions, or give the constitution `examples` of revisions"
    return "use a judge that answers with the template's labels, or another label.mode.template"
