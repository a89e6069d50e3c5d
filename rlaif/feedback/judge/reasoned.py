"""Compare after a chain of thought: one call writes the reason, a second one makes the forced choice.

The protocol is RLAIF's (arXiv 2309.00267, section 2); the labels are clamped as in Constitutional AI. Several sampled
reasons are self-consistency. A reason that is missing or cut off is a failure, and its choice is never asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ReasonedMode
from rlaif.constitution import Constitution
from rlaif.feedback.judge.asking import NoVerdict, ask, label_logprobs, no_text, provenance
from rlaif.feedback.judge.compare import (
    Plan,
    Question,
    failure,
    judgments_of,
    messages,
    plan,
    questions_of,
    undecidable,
)
from rlaif.feedback.judge.result import Cost, JudgeResult
from rlaif.feedback.sample import Progress
from rlaif.feedback.verdict import Decided, reasoned
from rlaif.models.chat import ChatModel, ChatRequest, Reply
from rlaif.records import Failure, Pair, Verdict, derive_seed
from rlaif.templates import JudgeTemplate, load_template


class _Thought(NamedTuple):
    """One reason to be written: the question and which of its reasons it is."""

    question: Question
    number: int


Verdicts = Mapping[tuple[int, str, int, str], Verdict]
"""By index of the pair, principle, number of the reason, and which response stood first."""


def judge_reasoned(
    model: ChatModel,
    mode: ReasonedMode,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """As `judge_pairs`, with `mode.reasons` chains of thought for each principle and order before the choice.

    All reasons are asked in one call, then all choices in a second, which is the one that `progress` counts. A pair
    with a failed reason stays unlabelled whatever else is said about it, so none of its choices are asked. Within the
    default clamp no principle reaches `label.check_margin`, so of the vetoes only those with a check can speak.
    """
    template = load_template(mode.template, "reasoned")
    plans = [plan(pair, constitution, section, seed) for pair in pairs]
    thoughts = [_Thought(question, number) for question in questions_of(plans) for number in range(mode.reasons)]
    failures = undecidable(plans)

    first = [_reason_request(pairs, thought, constitution, template, mode, seed) for thought in thoughts]
    reasons = model.chat(first) if first else []
    usable = []
    for thought, request, reply in zip(thoughts, first, reasons, strict=True):
        problem = no_text(reply, "reason")
        if problem is None:
            usable.append((thought, _choice_request(request, reply, thought, template), reply.text.strip()))
        else:
            failures.setdefault(thought.question.pair, []).append(failure(pairs, thought.question, problem))
    usable = [item for item in usable if item[0].question.pair not in failures]

    choices = ask(
        model,
        [request for _, request, _ in usable],
        [thought.question.pair for thought, _, _ in usable],
        len(pairs),
        progress,
    )
    verdicts: dict[tuple[int, str, int, str], Verdict] = {}
    for (thought, _, reason), reply in zip(usable, choices, strict=True):
        question = thought.question
        found = label_logprobs(reply, template.labels, section.min_label_mass)
        if isinstance(found, NoVerdict):
            failures.setdefault(question.pair, []).append(failure(pairs, question, found))
        else:
            one, other = found.values()
            key = (question.pair, question.principle.id, thought.number, question.first)
            verdicts[key] = Verdict(first=question.first, logprob_first=one, logprob_second=other, reason=reason)

    decided = [
        None if index in failures else _decided(index, needs, verdicts, mode) for index, needs in enumerate(plans)
    ]
    origin = provenance(model, constitution, template, section, _sampling(mode, template, seed))
    return JudgeResult(
        judgments=judgments_of(pairs, decided, section, seed, f"{model.name}:{template.name}", origin),
        failures=tuple(row for index in sorted(failures) for row in _distinct(failures[index])),
        cost=Cost.of([*reasons, *choices]),
    )


def _reason_request(
    pairs: Sequence[Pair],
    thought: _Thought,
    constitution: Constitution,
    template: JudgeTemplate,
    mode: ReasonedMode,
    seed: int,
) -> ChatRequest:
    question, pair = thought.question, pairs[thought.question.pair]
    # Seeded by the text that stands first, not by its letter: the same questions whichever response is called a.
    shown_first = pair.a if question.first == "a" else pair.b
    sampled = mode.reasons > 1
    return ChatRequest(
        messages=messages(pair, question, constitution, template),
        max_tokens=mode.max_tokens,
        temperature=mode.temperature if sampled else 0.0,
        seed=derive_seed(seed, "reason", pair.id, question.principle.id, shown_first, thought.number) if sampled else 0,
    )


def _choice_request(request: ChatRequest, reason: Reply, thought: _Thought, template: JudgeTemplate) -> ChatRequest:
    follow_up = template.follow_up(thought.question.principle.compare or "")
    turns = (*request.messages, template.neutral(reason.text), follow_up)
    return ChatRequest(messages=turns, labels=template.labels)


def _decided(index: int, needs: Plan, verdicts: Verdicts, mode: ReasonedMode) -> list[Decided]:
    def judged_after_reasons(principle: str) -> list[tuple[Verdict, Verdict]]:
        return [
            (verdicts[index, principle, number, "a"], verdicts[index, principle, number, "b"])
            for number in range(mode.reasons)
        ]

    return [
        (p, needs.checked.get(p.id) or reasoned(p.id, judged_after_reasons(p.id), mode.clamp)) for p in needs.principles
    ]


def _distinct(failures: Sequence[Failure]) -> list[Failure]:
    """Several reasons of one question may fail alike: one row says it."""
    return list({(f.principle, f.first, f.reason, f.detail): f for f in failures}.values())


def _sampling(mode: ReasonedMode, template: JudgeTemplate, seed: int) -> dict[str, float | int | str]:
    return {
        "labels": " ".join(template.labels),
        "reasons": mode.reasons,
        "temperature": mode.temperature if mode.reasons > 1 else 0.0,
        "max_tokens": mode.max_tokens,
        "clamp": f"{mode.clamp[0]:g} to {mode.clamp[1]:g}",
        "seed": seed,
    }
