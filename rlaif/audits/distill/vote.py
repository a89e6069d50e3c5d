"""What each candidate, as a constitution of its own, says of labelled pairs that it was not made from.

All candidates are asked about a pair together, so that an engine with a prefix cache reads the pair once; each is still
judged by itself, in both orders. Next: `select.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlaif.audits.distill.merge import Candidate
from rlaif.config.feedback import LabelSection, Mean
from rlaif.config.judging import CompareMode
from rlaif.constitution import Constitution, Principle
from rlaif.constitution.schema import SCHEMA
from rlaif.feedback.judge import judge_pairs
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.sample import Progress
from rlaif.models.chat import ChatModel
from rlaif.records import Judgment
from rlaif.templates import JudgeTemplate


class Votes(NamedTuple):
    """`p` holds, for each labelled pair (rows) and candidate (columns), the candidate's probability that the response
    that people preferred is the better one; nan where the judge gave no verdict."""

    p: NDArray[np.float64]
    cost: Cost

    @classmethod
    def none(cls, pairs: int) -> Votes:
        """Where there was no candidate to ask about."""
        return cls(np.full((pairs, 0), np.nan), Cost())


def vote(
    model: ChatModel,
    candidates: Sequence[Candidate],
    labels: Sequence[Judgment],
    template: JudgeTemplate,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> Votes:
    """The votes of the candidates on these labelled pairs (different pairs, no ties). `progress` counts pairs."""
    alone = section.model_copy(update={"aggregation": Mean(), "mode": CompareMode(), "audit": None})
    pairs = [label.pair for label in labels]
    row_of = {pair.id: row for row, pair in enumerate(pairs)}
    column_of = {candidate.id: column for column, candidate in enumerate(candidates)}
    p = np.full((len(labels), len(candidates)), np.nan)

    def put(judgments: Sequence[Judgment]) -> None:
        for judgment in judgments:
            row = row_of[judgment.pair.id]
            for principle in judgment.principles:
                p_a = principle.p_a
                p[row, column_of[principle.principle]] = p_a if labels[row].p_a > 0.5 else 1 - p_a

    together = judge_pairs(model, pairs, constitution_of(candidates), template, alone, seed, progress)
    put(together.judgments)
    # A pair on which the judge fails one candidate has no judgment at all: the others are asked again, one by one.
    failed = {failure.id for failure in together.failures}
    again = [pair for pair in pairs if pair.id in failed]
    cost = together.cost
    for candidate in candidates if again else ():
        single = judge_pairs(model, again, constitution_of([candidate]), template, alone, seed)
        put(single.judgments)
        cost = cost.plus(single.cost)
    return Votes(p, cost)


def constitution_of(
    candidates: Sequence[Candidate], name: str = "candidates", title: str = "Candidates of a distillation"
) -> Constitution:
    """The candidates as a constitution, in this order, each with weight 1."""
    principles = tuple(Principle(id=candidate.id, compare=candidate.text) for candidate in candidates)
    head = {"schema": SCHEMA, "id": name, "version": "1.0.0", "title": title}
    return Constitution.model_validate(head | {"principles": principles})
