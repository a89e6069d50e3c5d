"""What every way of judging shares: ask many requests at once, read label tokens, say where a label came from.

Nothing here retries or caches (the models do) and nothing here guesses: a reply that is no verdict is a `NoVerdict`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from rlaif.config.feedback import LabelSection
from rlaif.constitution import Constitution, Principle
from rlaif.errors import ConfigError
from rlaif.feedback.rating import Scale
from rlaif.feedback.sample import Progress
from rlaif.models.chat import ChatModel, ChatRequest, Reply, excess, is_logprob, no_answer
from rlaif.patterns import Endless
from rlaif.records import Failure, PrincipleScore, Prompt, Provenance
from rlaif.templates import JudgeTemplate


class NoVerdict(NamedTuple):
    """Why a reply is none: a short fixed phrase, and the evidence."""

    reason: str
    detail: str


class Asking(NamedTuple):
    """How one mode asks about one response by one principle, and what it makes of the replies."""

    template: JudgeTemplate
    scale: Scale
    requests: Callable[[Prompt, str, Principle, Constitution], tuple[ChatRequest, ...]]
    read: Callable[[Principle, Sequence[Reply]], PrincipleScore | NoVerdict]
    """From the replies to these requests."""
    sampling: dict[str, float | int | str]
    """For the provenance."""


def ask(
    model: ChatModel,
    requests: Sequence[ChatRequest],
    unit_of_request: Sequence[int],
    n_units: int,
    progress: Progress | None,
) -> list[Reply]:
    """All replies in order. `progress` counts units (pairs, responses): one is finished with its last reply, or at
    once if it asks nothing."""
    waiting = Counter(unit_of_request)

    def on_replies(replies: Sequence[tuple[int, Reply]]) -> None:
        waiting.subtract(unit_of_request[index] for index, _ in replies)
        done = [unit for unit in {unit_of_request[index] for index, _ in replies} if not waiting[unit]]
        if progress is not None and done:
            progress(len(done))

    if progress is not None and len(waiting) < n_units:
        progress(n_units - len(waiting))
    return model.chat(requests, on_replies) if requests else []


def with_shared_prefix(requests: Sequence[ChatRequest], groups: Sequence[Hashable]) -> list[ChatRequest]:
    """The requests, each told how much of its last message is the same in all requests of its group."""
    together: dict[Hashable, list[str]] = {}
    for request, group in zip(requests, groups, strict=True):
        together.setdefault(group, []).append(request.messages[-1].content)
    shared = {key: len(os.path.commonprefix(t)) for key, t in together.items() if len(t) > 1}  # noqa: RUF071 (by character)
    return [
        request.model_copy(update={"shared_prefix": shared.get(group, 0)})
        for request, group in zip(requests, groups, strict=True)
    ]


def label_logprobs(reply: Reply, labels: Sequence[str], min_mass: float) -> dict[str, float] | NoVerdict:
    """The natural-log probabilities of the labels, as the model gave them, or why the reply has none to trust."""
    if reply.error is not None:
        return NoVerdict("model error", reply.error)
    logprobs = reply.label_logprobs or {}
    if not all(label in logprobs and is_logprob(logprobs[label]) for label in labels):
        return NoVerdict("no label log-probabilities", f"got {logprobs} for labels {tuple(labels)}")
    found = {label: logprobs[label] for label in labels}
    if too_much := excess(found.values()):
        return NoVerdict("too much probability on the labels", too_much)
    mass = math.fsum(math.exp(value) for value in found.values())
    if mass < min_mass:
        return NoVerdict(
            "too little probability on the labels",
            f"{mass:.2g} in all, label.min_label_mass is {min_mass:g}",
        )
    return found


def no_text(reply: Reply, what: str) -> NoVerdict | None:
    """Why nothing can follow a reply that should be a text (a reason, a critique); None where something can."""
    if reply.error is not None:
        return NoVerdict("model error", reply.error)
    if reply.finish_reason == "reasoning":
        return NoVerdict(f"the {what} was cut off", f"{no_answer(reply)}; see judge.thinking and label.mode.max_tokens")
    if reply.finish_reason == "length":
        return NoVerdict(
            f"the {what} was cut off", f"after {reply.completion_tokens} tokens; see label.mode.max_tokens"
        )
    if not reply.text.strip():
        return NoVerdict(f"no {what}", "the reply is empty")
    return None


def provenance(
    model: ChatModel,
    constitution: Constitution,
    template: JudgeTemplate,
    section: LabelSection,
    sampling: dict[str, float | int | str],
) -> Provenance:
    """Where a judgment came from; `sampling` is what the mode adds to the margin of checked principles."""
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
        sampling=sampling | {"check_margin": section.check_margin},
        aggregation=f"{section.aggregation.kind}({shown})" if shown else section.aggregation.kind,
    )


def check_texts(constitution: Constitution, mode: str) -> None:
    """ConfigError for a principle that lacks the text by which a judge of this mode is asked about it."""
    for principle in constitution.principles:
        if principle.check is None and not principle.asked_in(mode):
            field, others = ("contrast", "compare") if mode == "contrast" else ("compare", "contrast")
            raise ConfigError(
                f"constitution {constitution.id!r}: principle {principle.id!r} has no `{field}`, which "
                f"label.mode.kind={mode} asks by: add it, or judge by label.mode.kind={others}"
            )
        if mode in {"score", "checklist"} and principle.asked_in(mode) and principle.question is None:
            raise ConfigError(
                f"constitution {constitution.id!r}: principle {principle.id!r} has no `question`, and {mode} "
                "looks at one response at a time: add `question` and `desired`, or judge by compare (a fit cannot)"
            )


def choice_sampling(template: JudgeTemplate, seed: int) -> dict[str, float | int | str]:
    """How one forced choice among the template's labels is asked, for `provenance`."""
    return {"labels": " ".join(template.labels), "temperature": 0.0, "max_tokens": 1, "seed": seed}


def no_principle(identity: str, tags: Sequence[str]) -> Failure:
    """The row of a pair or a response to which no principle applies."""
    return Failure(stage="label", id=identity, reason="no principle applies", detail=shown_tags(tags))


def no_end(identity: str, principle: str, error: Endless) -> Failure:
    """The row of a pair or a response on which a check comes to no end."""
    return Failure(stage="label", id=identity, reason="a check came to no end", detail=str(error), principle=principle)


def shown_tags(tags: Sequence[str]) -> str:
    """The tags of a prompt, for a failure's detail."""
    return f"prompt tags: {', '.join(tags) or 'none'}"
