"""Compare the two responses of a pair, principle by principle, in both orders: one forced choice a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlaif.config.feedback import LabelSection, SampleOne
from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge.asking import (
    NoVerdict,
    ask,
    choice_sampling,
    label_logprobs,
    no_end,
    no_principle,
    provenance,
    with_shared_prefix,
)
from rlaif.feedback.judge.result import Cost, JudgeResult
from rlaif.feedback.sample import Progress
from rlaif.feedback.verdict import Decided, aggregate, checked, draw, judged
from rlaif.models.chat import ChatModel, ChatRequest
from rlaif.patterns import Endless
from rlaif.records import Failure, Judgment, Messages, Pair, PrincipleJudgment, Provenance, Side, Verdict
from rlaif.templates import JudgeTemplate

ORDERS: tuple[Side, Side] = ("a", "b")
"""Which response is shown first; both orders are always asked."""


class Plan(NamedTuple):
    """What one pair needs: the principles that count, what code already decided, what the judge is asked; or why
    nothing can be said of it."""

    principles: tuple[Principle, ...]
    checked: dict[str, PrincipleJudgment]
    asked: tuple[Principle, ...]
    failure: Failure | None = None


class Question(NamedTuple):
    """What one request asks."""

    pair: int
    principle: Principle
    first: Side


def judge_pairs(
    model: ChatModel,
    pairs: Sequence[Pair],
    constitution: Constitution,
    template: JudgeTemplate,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """Judge each pair on every principle that applies to its tags, in both orders.

    A principle with a check is decided by code when exactly one response passes; when both or neither do, it
    is judged if it has a `compare` text and is even otherwise. With `sample`, only the drawn principle
    counts, plus the checks of veto principles, which cost nothing. A pair with any failed question, to
    which no principle applies, or on which a check comes to no end, stays unlabelled. `progress` counts pairs. Raises
    ValueError for a pair of one text.
    """
    plans = [plan(pair, constitution, section, seed) for pair in pairs]
    questions = questions_of(plans)
    requests = with_shared_prefix(
        [
            ChatRequest(messages=messages(pairs[q.pair], q, constitution, template), labels=template.labels)
            for q in questions
        ],
        [(q.pair, q.first) for q in questions],
    )
    replies = ask(model, requests, [q.pair for q in questions], len(pairs), progress)

    verdicts: dict[tuple[int, str], list[Verdict]] = {}
    failures = undecidable(plans)
    for question, reply in zip(questions, replies, strict=True):
        found = label_logprobs(reply, template.labels, section.min_label_mass)
        if isinstance(found, NoVerdict):
            failures.setdefault(question.pair, []).append(failure(pairs, question, found))
        else:
            first, second = found.values()
            verdict = Verdict(first=question.first, logprob_first=first, logprob_second=second)
            verdicts.setdefault((question.pair, question.principle.id), []).append(verdict)

    origin = provenance(model, constitution, template, section, choice_sampling(template, seed))
    decided = [
        None
        if index in failures
        else [(p, needs.checked.get(p.id) or judged(p.id, *verdicts[index, p.id])) for p in needs.principles]
        for index, needs in enumerate(plans)
    ]
    return JudgeResult(
        judgments=judgments_of(pairs, decided, section, seed, f"{model.name}:{template.name}", origin),
        failures=tuple(row for index in sorted(failures) for row in failures[index]),
        cost=Cost.of(replies),
    )


def judgments_of(
    pairs: Sequence[Pair],
    decided: Sequence[Sequence[Decided] | None],
    section: LabelSection,
    seed: int,
    annotator: str,
    origin: Provenance,
) -> tuple[Judgment, ...]:
    """A judgment for each pair whose principles are all decided; None stands for a pair that failed."""
    return tuple(
        Judgment(
            pair=pair,
            source="ai",
            annotator=annotator,
            p_a=aggregate(principles, section.aggregation, section.check_margin, seed, pair.id),
            principles=tuple(judgment for _, judgment in principles),
            provenance=origin,
        )
        for pair, principles in zip(pairs, decided, strict=True)
        if principles is not None
    )


def plan(pair: Pair, constitution: Constitution, section: LabelSection, seed: int, mode: str = "compare") -> Plan:
    """The principles for this pair's tags, and which of them code decides, where a judge of this mode is asked about
    the others. ValueError for a pair of one text."""
    if pair.a == pair.b:
        raise ValueError(f"pair {pair.id}: a and b are the same text; make_pairs never builds such a pair")
    candidates = constitution.for_tags(pair.tags)
    ask = candidates
    if isinstance(section.aggregation, SampleOne) and candidates:
        ask = (draw(candidates, seed, pair.id),)
        candidates = tuple(p for p in candidates if p in ask or (p.veto and p.check is not None))
    by_code: dict[str, PrincipleJudgment] = {}
    for p in candidates:
        if p.check is None:
            continue
        try:
            passes_a, passes_b = p.passes(pair.a), p.passes(pair.b)
        except Endless as error:
            return Plan((), {}, (), no_end(pair.id, p.id, error))
        if passes_a != passes_b or not (p.asked_in(mode) and p in ask):
            by_code[p.id] = checked(p.id, passes_a, passes_b, section.check_margin)
    failure = None if candidates else no_principle(pair.id, pair.tags)
    return Plan(candidates, by_code, tuple(p for p in ask if p.id not in by_code), failure)


def questions_of(plans: Sequence[Plan]) -> list[Question]:
    """All questions. Those of one (pair, order) stand together: the engine caches the text before the principle."""
    return [
        Question(index, principle, first)
        for index, needs in enumerate(plans)
        for first in ORDERS
        for principle in needs.asked
    ]


def messages(pair: Pair, question: Question, constitution: Constitution, template: JudgeTemplate) -> Messages:
    """The judge's prompt: the pair in the question's order, the principle's `compare` text last."""
    shown = pair if question.first == "a" else pair.swapped()
    return template.render(
        prompt=pair.prompt,
        responses=(shown.a, shown.b),
        preamble=constitution.preamble,
        principle=question.principle.compare or "",
    )


def undecidable(plans: Sequence[Plan]) -> dict[int, list[Failure]]:
    """The failures that are known before anything is asked, by the pair's index."""
    return {index: [needs.failure] for index, needs in enumerate(plans) if needs.failure}


def failure(pairs: Sequence[Pair], question: Question, why: NoVerdict) -> Failure:
    """The row of a question that has no verdict."""
    return Failure(
        stage="label",
        id=pairs[question.pair].id,
        reason=why.reason,
        detail=why.detail,
        principle=question.principle.id,
        first=question.first,
    )
