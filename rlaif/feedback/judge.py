"""The judge: pairs and a constitution in, judgments with provenance (and failures) out.

All questions of a run go to the model in one call; the mathematics of the replies is in `verdict.py`.
Nothing here retries or caches (the models do) and nothing here guesses: a reply that is no verdict leaves
its pair unlabelled.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rlaif.config.sections import LabelSection, SampleOne
from rlaif.constitution import Constitution, Principle
from rlaif.errors import JudgeError
from rlaif.feedback.sample import Progress
from rlaif.feedback.verdict import aggregate, checked, draw, judged
from rlaif.models.chat import ChatModel, ChatRequest, Reply
from rlaif.records import Failure, Judgment, Pair, PrincipleJudgment, Provenance, Side, Verdict
from rlaif.templates import JudgeTemplate

ORDERS: tuple[Side, Side] = ("a", "b")
"""Which response is shown first; both orders are always asked."""


class JudgeResult(NamedTuple):
    """Judgments and failures, each in pair order. A pair has a judgment, or failures, never both."""

    judgments: tuple[Judgment, ...]
    failures: tuple[Failure, ...]
    calls: int
    prompt_tokens: int
    completion_tokens: int


class _Plan(NamedTuple):
    """What one pair needs: the principles that count, what code already decided, what the judge is asked."""

    principles: tuple[Principle, ...]
    checked: dict[str, PrincipleJudgment]
    asked: tuple[Principle, ...]


class _Question(NamedTuple):
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
    counts, plus the checks of veto principles, which cost nothing. A pair with any failed question, or to
    which no principle applies, stays unlabelled. `progress` counts pairs. Raises ValueError for a pair of
    one text.
    """
    plans = [_plan(pair, constitution, section, seed) for pair in pairs]
    # All principles of one (pair, order) stand together: the engine caches the text before the principle.
    questions = [
        _Question(index, principle, first)
        for index, plan in enumerate(plans)
        for first in ORDERS
        for principle in plan.asked
    ]
    requests = _with_shared_prefix([_request(pairs[q.pair], q, constitution, template) for q in questions], questions)
    replies = _ask(model, requests, [q.pair for q in questions], len(pairs), progress)

    verdicts: dict[tuple[int, str], list[Verdict]] = {}
    failures: dict[int, list[Failure]] = {
        index: [Failure(stage="label", id=pairs[index].id, reason="no principle applies", detail=_tags(pairs[index]))]
        for index, plan in enumerate(plans)
        if not plan.principles
    }
    for question, reply in zip(questions, replies, strict=True):
        outcome = _verdict(reply, question, template.labels, section.min_label_mass)
        if isinstance(outcome, Verdict):
            verdicts.setdefault((question.pair, question.principle.id), []).append(outcome)
        else:
            reason, detail = outcome
            failure = Failure(
                stage="label",
                id=pairs[question.pair].id,
                reason=reason,
                detail=detail,
                principle=question.principle.id,
                first=question.first,
            )
            failures.setdefault(question.pair, []).append(failure)

    provenance = _provenance(model, constitution, template, section, seed)
    judgments = []
    for index, (pair, plan) in enumerate(zip(pairs, plans, strict=True)):
        if index in failures:
            continue
        decided = [
            (p, plan.checked[p.id] if p.id in plan.checked else judged(p.id, *verdicts[index, p.id]))
            for p in plan.principles
        ]
        judgments.append(
            Judgment(
                pair=pair,
                source="ai",
                annotator=f"{model.name}:{template.name}",
                p_a=aggregate(decided, section.aggregation, section.check_margin, seed, pair.id),
                principles=tuple(judgment for _, judgment in decided),
                provenance=provenance,
            )
        )
    answered = [reply for reply in replies if reply.error is None]
    return JudgeResult(
        judgments=tuple(judgments),
        failures=tuple(failure for index in sorted(failures) for failure in failures[index]),
        calls=len(requests),
        prompt_tokens=sum(reply.prompt_tokens for reply in answered),
        completion_tokens=sum(reply.completion_tokens for reply in answered),
    )


def check_failure_cap(result: JudgeResult, n_pairs: int, section: LabelSection) -> None:
    """Raise JudgeError when more than `section.max_failures` of the pairs have no judgment."""
    failed = len({failure.id for failure in result.failures})
    if failed <= section.max_failures * n_pairs:
        return
    first = result.failures[0]
    detail = f" ({first.detail})" if first.detail else ""
    raise JudgeError(
        f"label: {failed} of {n_pairs} pairs have no judgment ({failed / n_pairs:.1%}, limit "
        f"{section.max_failures:.1%}); first: {first.reason}{detail}; {_advice(first.reason)}, or raise "
        "label.max_failures"
    )


def _plan(pair: Pair, constitution: Constitution, section: LabelSection, seed: int) -> _Plan:
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
        passes_a, passes_b = p.passes(pair.a), p.passes(pair.b)
        if passes_a != passes_b or not (p.judged and p in ask):
            by_code[p.id] = checked(p.id, passes_a, passes_b, section.check_margin)
    return _Plan(candidates, by_code, tuple(p for p in ask if p.id not in by_code))


def _request(pair: Pair, question: _Question, constitution: Constitution, template: JudgeTemplate) -> ChatRequest:
    shown = pair if question.first == "a" else pair.swapped()
    messages = template.render(
        prompt=pair.prompt,
        first=shown.a,
        second=shown.b,
        preamble=constitution.preamble,
        principle=question.principle.compare or "",
    )
    return ChatRequest(messages=messages, labels=template.labels)


def _with_shared_prefix(requests: Sequence[ChatRequest], questions: Sequence[_Question]) -> list[ChatRequest]:
    """The requests, each told how much of its text is the same in all questions about its pair in its order."""
    together: dict[tuple[int, Side], list[str]] = {}
    for request, question in zip(requests, questions, strict=True):
        together.setdefault((question.pair, question.first), []).append(request.messages[-1].content)
    shared = {key: len(os.path.commonprefix(t)) for key, t in together.items() if len(t) > 1}  # noqa: RUF071 (by character)
    return [
        request.model_copy(update={"shared_prefix": shared.get((question.pair, question.first), 0)})
        for request, question in zip(requests, questions, strict=True)
    ]


def _ask(
    model: ChatModel,
    requests: Sequence[ChatRequest],
    pair_of_request: Sequence[int],
    n_pairs: int,
    progress: Progress | None,
) -> list[Reply]:
    """All replies in order. A pair is finished with its last reply, or at once if it asks nothing."""
    waiting = Counter(pair_of_request)

    def on_replies(replies: Sequence[tuple[int, Reply]]) -> None:
        waiting.subtract(pair_of_request[index] for index, _ in replies)
        done = [pair for pair in {pair_of_request[index] for index, _ in replies} if not waiting[pair]]
        if progress is not None and done:
            progress(len(done))

    if progress is not None and len(waiting) < n_pairs:
        progress(n_pairs - len(waiting))
    return model.chat(requests, on_replies) if requests else []


def _verdict(reply: Reply, question: _Question, labels: tuple[str, str], min_mass: float) -> Verdict | tuple[str, str]:
    """The reply as a verdict, or (reason, detail) why it is none."""
    if reply.error is not None:
        return "model error", reply.error
    logprobs = reply.label_logprobs or {}
    if not all(label in logprobs and math.isfinite(logprobs[label]) for label in labels):
        return "no label log-probabilities", f"got {logprobs} for labels {labels}"
    first, second = (logprobs[label] for label in labels)
    mass = math.exp(first) + math.exp(second)
    if mass < min_mass:
        return (
            "too little probability on the labels",
            f"{mass:.2g} in all, label.min_label_mass is {min_mass:g}",
        )
    return Verdict(first=question.first, logprob_first=first, logprob_second=second)


def _provenance(
    model: ChatModel, constitution: Constitution, template: JudgeTemplate, section: LabelSection, seed: int
) -> Provenance:
    knobs = section.aggregation.model_dump(exclude={"kind"})
    shown = ", ".join(f"{key}={value}" for key, value in knobs.items())
    return Provenance(
        constitution=constitution.id,
        constitution_version=constitution.version,
        constitution_hash=constitution.hash,
        judge=model.name,
        judge_revision=model.revision,
        template=template.name,
        template_hash=template.hash,
        sampling={
            "labels": " ".join(template.labels),
            "temperature": 0.0,
            "max_tokens": 1,
            "check_margin": section.check_margin,
            "seed": seed,
        },
        aggregation=f"{section.aggregation.kind}({shown})" if shown else section.aggregation.kind,
    )


def _tags(pair: Pair) -> str:
    return f"prompt tags: {', '.join(pair.tags) or 'none'}"


def _advice(reason: str) -> str:
    if reason == "no principle applies":
        return "give the constitution a principle without tags or for these tags"
    if reason == "model error":
        return "see failures.jsonl and the judge's log; a new run asks only what is missing"
    return "use a judge that answers with the template's labels, or another label.template"
