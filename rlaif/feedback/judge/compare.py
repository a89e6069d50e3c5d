"""Compare the two responses of a pair, principle by principle, in both orders: one forced choice per question, at once
or after a chain of thought.

The protocol of `reasoned` is RLAIF's (arXiv 2309.00267, section 2): one call writes the reason, a second one makes the
choice; the labels are clamped as in Constitutional AI. Several sampled reasons are self-consistency. A reason that is
missing or cut off is a failure, and its choice is never asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlaif.config.feedback import LabelSection, SampleOne
from rlaif.config.judging import ReasonedMode
from rlaif.constitution import Constitution, Principle
from rlaif.constitution.persona import Unfilled
from rlaif.feedback.judge.asking import (
    Bench,
    NoVerdict,
    Sampling,
    Way,
    alone,
    choice_sampling,
    failed,
    label_logprobs,
    no_principle,
    no_text,
    not_decided,
    unfilled,
)
from rlaif.feedback.judge.drive import Work, shared_prefix
from rlaif.feedback.judge.result import Outcome
from rlaif.feedback.verdict import Decided, aggregate, checked, draw, judged, reasoned
from rlaif.models.engine import ChatRequest, Reply
from rlaif.patterns import Undecided
from rlaif.records import Failure, Judgment, Pair, PrincipleJudgment, Side, Verdict, derive_seed
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

    A principle with a check or a classifier is decided by code when exactly one response passes; when both or neither
    do, it is judged if it has a `compare` text and is even otherwise. With `sample`, only the drawn principle
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
    p_a = aggregate(decided, section.aggregation, section.check_margin, bench.seed, pair.id)
    return bench.judgment(pair, p_a, tuple(one for _, one in decided))


def plan(pair: Pair, constitution: Constitution, section: LabelSection, seed: int, mode: str = "compare") -> Plan:
    """The principles for this pair's tags, and which of them code decides, where a judge of this mode is asked about
    the others. ValueError for a pair of one text."""
    if pair.a == pair.b:
        raise ValueError(f"pair {pair.id}: a and b are the same text; make_pairs never builds such a pair")
    try:
        candidates = constitution.asked_of(mode, pair.tags, pair.given)
    except Unfilled as error:
        return Plan((), {}, (), unfilled(pair.id, error))
    ask = candidates
    if isinstance(section.aggregation, SampleOne) and candidates:
        ask = (draw(candidates, seed, pair.id),)
        candidates = tuple(p for p in candidates if p in ask or (p.veto and p.coded))
    by_code: dict[str, PrincipleJudgment] = {}
    for p in candidates:
        if not p.coded:
            continue
        try:
            passes_a, passes_b = p.passes(pair.a, pair.prompt), p.passes(pair.b, pair.prompt)
        except Undecided as error:
            return Plan((), {}, (), not_decided(pair.id, p.id, error))
        if passes_a != passes_b or not (p.asked_in(mode) and p in ask):
            by_code[p.id] = checked(p.id, passes_a, passes_b, section.check_margin)
    failure = None if candidates else no_principle(pair.id, pair.tags)
    return Plan(candidates, by_code, tuple(p for p in ask if p.id not in by_code), failure)


def reason(bench: Bench[ReasonedMode], pair: Pair) -> Work[Outcome]:
    """As `compare`, with `mode.reasons` chains of thought for each principle and order before the choice.

    All reasons are one turn, all choices the next. A pair with a failed reason stays unlabelled whatever else is said
    about it, so none of its choices are asked. Within the default clamp no principle reaches `label.check_margin`, so
    of the vetoes only those with a check can speak.
    """
    needs = plan(pair, bench.constitution, bench.section, bench.seed)
    if needs.failure:
        return [needs.failure]
    template, numbers = bench.template, range(bench.mode.reasons)
    thoughts = [(principle, first, number) for first in ORDERS for principle in needs.asked for number in numbers]
    first_turns = [_reason_request(bench, pair, *thought) for thought in thoughts]
    reasons = yield first_turns
    bad = [(p, first, no_text(reply, "reason")) for (p, first, _), reply in zip(thoughts, reasons, strict=True)]
    if failures := [failed(pair.id, p, why, first) for p, first, why in bad if why]:
        return _distinct(failures)
    replies = yield [
        ChatRequest(
            messages=(*turn.messages, template.neutral(reply.text), template.follow_up(principle.compare or "")),
            labels=template.labels,
        )
        for turn, reply, (principle, _, _) in zip(first_turns, reasons, thoughts, strict=True)
    ]
    found = [
        verdict(bench, pair, principle, first, reply, before.text.strip())
        for (principle, first, _), before, reply in zip(thoughts, reasons, replies, strict=True)
    ]
    if failures := [one for one in found if isinstance(one, Failure)]:
        return _distinct(failures)
    said = {
        (p.id, first, number): one
        for (p, first, number), one in zip(thoughts, found, strict=True)
        if isinstance(one, Verdict)
    }

    def by_reason(principle: str) -> list[tuple[Verdict, Verdict]]:
        return [(said[principle, "a", number], said[principle, "b", number]) for number in numbers]

    clamp = bench.mode.clamp
    decided = [(p, needs.checked.get(p.id) or reasoned(p.id, by_reason(p.id), clamp)) for p in needs.principles]
    return judgment(bench, pair, decided)


def _reason_request(
    bench: Bench[ReasonedMode], pair: Pair, principle: Principle, first: Side, number: int
) -> ChatRequest:
    mode, sampled = bench.mode, bench.mode.reasons > 1
    # Seeded by the text that stands first, not by its letter: the same questions whichever response is called a.
    shown_first = pair.a if first == "a" else pair.b
    return ChatRequest(
        messages=question(bench.template, bench.constitution, pair, principle, first).messages,
        max_tokens=mode.max_tokens,
        temperature=mode.temperature if sampled else 0.0,
        seed=derive_seed(bench.seed, "reason", pair.id, principle.id, shown_first, number) if sampled else 0,
    )


def _distinct(failures: Sequence[Failure]) -> list[Failure]:
    """Several reasons of one question may fail alike: one row says it."""
    return list({(f.principle, f.first, f.reason, f.detail): f for f in failures}.values())


def _sampling(bench: Bench[ReasonedMode]) -> Sampling:
    mode = bench.mode
    return {
        "labels": " ".join(bench.template.labels),
        "reasons": mode.reasons,
        "temperature": mode.temperature if mode.reasons > 1 else 0.0,
        "max_tokens": mode.max_tokens,
        "clamp": f"{mode.clamp[0]:g} to {mode.clamp[1]:g}",
        "seed": bench.seed,
    }


COMPARE = Way(alone(compare), "compare", choice_sampling)
REASONED = Way(alone(reason), "reasoned", _sampling)
