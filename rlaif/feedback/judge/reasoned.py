"""Compare after a chain of thought: one call writes the reason, a second one makes the forced choice.

The protocol is RLAIF's (arXiv 2309.00267, section 2); the labels are clamped as in Constitutional AI. Several sampled
reasons are self-consistency. A reason that is missing or cut off is a failure, and its choice is never asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config.judging import ReasonedMode
from rlaif.constitution import Principle
from rlaif.feedback.judge.asking import Bench, Sampling, Way, alone, failed, no_text
from rlaif.feedback.judge.compare import ORDERS, judgment, plan, question, verdict
from rlaif.feedback.judge.drive import Work
from rlaif.feedback.judge.result import Outcome
from rlaif.feedback.verdict import reasoned
from rlaif.models.chat import ChatRequest, Reply
from rlaif.records import Failure, Pair, Side, Verdict, derive_seed


def reason(bench: Bench[ReasonedMode], pair: Pair) -> Work[Outcome]:
    """As `compare`, with `mode.reasons` chains of thought for each principle and order before the choice.

    All reasons are one turn, all choices the next. A pair with a failed reason stays unlabelled whatever else is said
    about it, so none of its choices are asked. Within the default clamp no principle reaches `label.check_margin`, so
    of the vetoes only those with a check can speak.
    """
    needs = plan(pair, bench.constitution, bench.section, bench.seed)
    if needs.failure:
        return [needs.failure]
    numbers = range(bench.mode.reasons)
    thoughts = [(principle, first, number) for first in ORDERS for principle in needs.asked for number in numbers]
    first_turns = [_reason_request(bench, pair, *thought) for thought in thoughts]
    reasons = yield first_turns
    bad = [(p, first, no_text(reply, "reason")) for (p, first, _), reply in zip(thoughts, reasons, strict=True)]
    if failures := [failed(pair.id, p, why, first) for p, first, why in bad if why]:
        return _distinct(failures)
    replies = yield [
        _choice_request(bench, turn, reply, principle)
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


def _choice_request(
    bench: Bench[ReasonedMode], request: ChatRequest, reply: Reply, principle: Principle
) -> ChatRequest:
    template = bench.template
    turns = (*request.messages, template.neutral(reply.text), template.follow_up(principle.compare or ""))
    return ChatRequest(messages=turns, labels=template.labels)


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


WAY = Way(alone(reason), "reasoned", _sampling)
