"""Compare the two responses of a pair, principle by principle, in both orders: one forced choice a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlaif.config.feedback import LabelSection, SampleOne
from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge.asking import (
    Bench,
    NoVerdict,
    Way,
    alone,
    choice_sampling,
    failed,
    label_logprobs,
    no_end,
    no_principle,
)
from rlaif.feedback.judge.drive import Work, shared_prefix
from rlaif.feedback.judge.result import Outcome
from rlaif.feedback.verdict import Decided, aggregate, checked, draw, judged
from rlaif.models.chat import ChatRequest, Reply
from rlaif.patterns import Endless
from rlaif.records import Failure, Judgment, Pair, PrincipleJudgment, Side, Verdict
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


def compare(bench: Bench[Any], pair: Pair) -> Work[Outcome]:
    """Judge the pair on every principle that applies to its tags, in both orders.

    A principle with a check is decided by code when exactly one response passes; when both or neither do, it
    is judged if it has a `compare` text and is even otherwise. With `sample`, only the drawn principle
    counts, plus the checks of veto principles, which cost nothing. A pair with any failed question, to
    which no principle applies, or on which a check comes to no end, stays unlabelled. Raises ValueError for a pair of
    one text.
    """
    needs = plan(pair, bench.constitution, bench.section, bench.seed)
    if needs.failure:
        return [needs.failure]
    # Those of one order stand together: the engine caches the text before the principle.
    replies = yield [
        request
        for first in ORDERS
        for request in questions(bench.template, bench.constitution, pair, needs.asked, first)
    ]
    asked = [(principle, first) for first in ORDERS for principle in needs.asked]
    found = [verdict(bench, pair, *each, reply) for each, reply in zip(asked, replies, strict=True)]
    if failures := [one for one in found if isinstance(one, Failure)]:
        return failures
    said = {(p.id, first): one for (p, first), one in zip(asked, found, strict=True) if isinstance(one, Verdict)}
    return judgment(
        bench,
        pair,
        [
            (p, needs.checked.get(p.id) or judged(p.id, *(said[p.id, first] for first in ORDERS)))
            for p in needs.principles
        ],
    )


def question(
    template: JudgeTemplate, constitution: Constitution, pair: Pair, principle: Principle, first: Side
) -> ChatRequest:
    """One of `questions`."""
    return questions(template, constitution, pair, (principle,), first)[0]


def questions(
    template: JudgeTemplate, constitution: Constitution, pair: Pair, principles: Sequence[Principle], first: Side
) -> list[ChatRequest]:
    """The forced choices: the pair in this order, each principle's `compare` text last."""
    responses = (pair.a, pair.b) if first == "a" else (pair.b, pair.a)
    about = template.about(prompt=pair.prompt, responses=responses, preamble=constitution.preamble)
    conversations = [about(principle.compare or "") for principle in principles]
    shared = shared_prefix(conversations)
    return [ChatRequest(messages=messages, labels=template.labels, shared_prefix=shared) for messages in conversations]


def verdict(
    bench: Bench[Any], pair: Pair, principle: Principle, first: Side, reply: Reply, reason: str = ""
) -> Verdict | Failure:
    """What the reply to a forced choice says, or why it says nothing."""
    found = label_logprobs(reply, bench.template.labels, bench.section.min_label_mass)
    if isinstance(found, NoVerdict):
        return failed(pair.id, principle, found, first)
    one, other = found.values()
    return Verdict(first=first, logprob_first=one, logprob_second=other, reason=reason)


def judgment(bench: Bench[Any], pair: Pair, decided: Sequence[Decided]) -> Judgment:
    """Of a pair all of whose principles are decided."""
    section = bench.section
    return Judgment(
        pair=pair,
        source="ai",
        annotator=bench.annotator(),
        p_a=aggregate(decided, section.aggregation, section.check_margin, bench.seed, pair.id),
        principles=tuple(one for _, one in decided),
        provenance=bench.provenance(),
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


WAY = Way(alone(compare), "compare", choice_sampling)
