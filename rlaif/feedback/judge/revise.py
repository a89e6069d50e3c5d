"""Critique and revise: the model improves a response by one principle after another (Constitutional AI, section 3.1).

Nothing is compared: that a revision is better than the original is `mode.confidence`, not a verdict. The revisions
are demonstrations for fine-tuning as well as preferences. See prompts/judge/revise.jinja for the two turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ReviseMode
from rlaif.constitution import Constitution, Example, Principle
from rlaif.errors import ConfigError
from rlaif.feedback.judge.asking import NoVerdict, ask, no_text, provenance, shown_tags
from rlaif.feedback.judge.result import Cost, JudgeResult
from rlaif.feedback.sample import Progress
from rlaif.feedback.verdict import draw
from rlaif.models.chat import ChatModel, ChatRequest, Reply
from rlaif.records import (
    Demonstration,
    Failure,
    Judgment,
    Message,
    Messages,
    Prompt,
    Provenance,
    Response,
    Revision,
    Round,
    derive_seed,
    oriented,
)
from rlaif.templates import JudgeTemplate, load_template


@dataclass
class _Draft:
    """One response on its way, round by round, until it is revised or something fails."""

    response: Response
    principles: tuple[Principle, ...]
    """Those that can be drawn for it."""
    rounds: list[Round] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def text(self) -> str:
        return self.rounds[-1].revision if self.rounds else self.response.text.strip()

    def fail(self, why: NoVerdict, principle: str | None = None) -> None:
        self.failure = Failure(
            stage="label", id=self.response.id, reason=why.reason, detail=why.detail, principle=principle
        )


class _Reviser(NamedTuple):
    """What all requests share."""

    model: ChatModel
    mode: ReviseMode
    constitution: Constitution
    template: JudgeTemplate
    seed: int


def first_responses(responses: Iterable[Response], per_prompt: int) -> list[Response]:
    """The responses to revise: of each prompt the first by index, empty and repeated texts passed over.

    In the order in which the prompts first come, then by index.
    """
    of_prompt: dict[str, dict[str, Response]] = {}
    for response in responses:
        of_prompt.setdefault(response.prompt_id, {})
    for response in sorted(responses, key=lambda response: response.index):
        if response.text.strip():
            of_prompt[response.prompt_id].setdefault(response.text.strip(), response)
    return [response for texts in of_prompt.values() for response in list(texts.values())[:per_prompt]]


def revise_responses(
    model: ChatModel,
    mode: ReviseMode,
    responses: Sequence[Response],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """Each response critiqued and revised `mode.rounds` times; see `first_responses` for which to give.

    In each round a principle with critique and revise texts that applies to the response's tags is drawn by weight,
    independently of other rounds and responses. The critique is one request; the revision is a second one in the same
    conversation, and the next round begins from it. A round is two calls of the model with all responses in each.

    A response ends as a Revision (all rounds), a Judgment (the last revision against the original, p of the revision
    being `mode.confidence`) and a Demonstration for each round; or, where any reply failed or the last revision
    equals the original, as one Failure under its id and nothing else. `progress` counts responses. Raises ConfigError,
    before anything is asked, when no principle can be used.
    """
    if not any(principle.revisable for principle in constitution.principles):
        raise ConfigError(
            f"constitution {constitution.id!r}: no principle has both `critique` and `revise`, which label.mode.kind "
            "'revise' needs"
        )
    reviser = _Reviser(model, mode, constitution, load_template(mode.template, "revise"), seed)
    drafts = [_draft(response, constitution) for response in responses]
    replies: list[Reply] = []
    for number in range(1, mode.rounds + 1):
        replies += _round(reviser, drafts, number, progress if number == mode.rounds else None)
    for draft in drafts:
        if not draft.failure and draft.text == draft.response.text.strip():
            draft.fail(NoVerdict("the revision equals the original", f"after round {mode.rounds}"))
    sampling: dict[str, float | int | str] = {
        "rounds": mode.rounds,
        "examples": len(constitution.examples),
        "temperature": mode.temperature,
        "max_tokens": mode.max_tokens,
        "confidence": mode.confidence,
        "seed": seed,
    }
    origin = provenance(model, constitution, reviser.template, section, sampling)
    return _result(reviser, drafts, origin, Cost.of(replies))


def _draft(response: Response, constitution: Constitution) -> _Draft:
    draft = _Draft(response, tuple(p for p in constitution.for_tags(response.tags) if p.revisable))
    if not draft.principles:
        detail = f"that has critique and revise texts; {shown_tags(response.tags)}"
        draft.fail(NoVerdict("no principle applies", detail))
    return draft


def _round(reviser: _Reviser, drafts: Sequence[_Draft], number: int, progress: Progress | None) -> list[Reply]:
    """All critiques in one call, then all revisions in another; what came of it is entered into the drafts."""
    alive = [index for index, draft in enumerate(drafts) if not draft.failure]
    # The race of `draw`, with a seed of its own for each round.
    drawn = {
        index: draw(drafts[index].principles, derive_seed(reviser.seed, "revise", number), drafts[index].response.id)
        for index in alive
    }
    first = {index: _critique_request(reviser, drafts[index], drawn[index], number) for index in alive}
    critiques = reviser.model.chat(list(first.values())) if first else []
    second: dict[int, ChatRequest] = {}
    texts: dict[int, str] = {}
    for index, reply in zip(alive, critiques, strict=True):
        if problem := no_text(reply, "critique"):
            drafts[index].fail(problem, drawn[index].id)
        else:
            texts[index] = reply.text.strip()
            second[index] = _revision_request(reviser, drafts[index], first[index], texts[index], drawn[index], number)
    revisions = ask(reviser.model, list(second.values()), list(second), len(drafts), progress)
    for index, reply in zip(second, revisions, strict=True):
        text = reviser.template.unwrapped(reply.text, drafts[index].text)
        if problem := no_text(reply.model_copy(update={"text": text}), "revision"):
            drafts[index].fail(problem, drawn[index].id)
        else:
            made = Round(principle=drawn[index].id, critique=texts[index], revision=text)
            drafts[index].rounds.append(made)
    return [*critiques, *revisions]


def _critique_request(reviser: _Reviser, draft: _Draft, principle: Principle, number: int) -> ChatRequest:
    """The examples as whole earlier conversations, then the request for a critique of the text as it stands now."""
    conversation: list[Message] = []
    for example in reviser.constitution.examples:
        conversation += _example(reviser, example, principle, opens=not conversation)
    conversation += _asked(reviser, draft.response.prompt, draft.text, principle, opens=not conversation)
    return _request(reviser, tuple(conversation), draft, number, "critique")


def _revision_request(
    reviser: _Reviser, draft: _Draft, first: ChatRequest, critique: str, principle: Principle, number: int
) -> ChatRequest:
    follow_up = reviser.template.follow_up(principle.revise or "")
    messages = (*first.messages, reviser.template.neutral(critique), follow_up)
    return _request(reviser, messages, draft, number, "revision")


def _request(reviser: _Reviser, messages: Messages, draft: _Draft, number: int, turn: str) -> ChatRequest:
    mode = reviser.mode
    # Seeded only where it is sampled: a greedy reply does not depend on a seed, and neither should its cache key.
    seed = derive_seed(reviser.seed, "revise", draft.response.id, number, turn) if mode.temperature > 0 else 0
    return ChatRequest(messages=messages, max_tokens=mode.max_tokens, temperature=mode.temperature, seed=seed)


def _example(reviser: _Reviser, example: Example, drawn: Principle, opens: bool) -> Iterator[Message]:
    """Four turns: critique asked and given, revision asked and given."""
    principle = next((p for p in reviser.constitution.principles if p.id == example.principle), drawn)
    prompt = (Message(role="user", content=example.prompt),)
    yield from _asked(reviser, prompt, example.response, principle, opens)
    yield reviser.template.neutral(example.critique)
    yield reviser.template.follow_up(principle.revise or "")
    yield reviser.template.neutral(example.revision)


def _asked(reviser: _Reviser, prompt: Messages, text: str, principle: Principle, opens: bool) -> Iterator[Message]:
    """The request for a critique. The preamble and a system turn stand only where a conversation opens."""
    messages = reviser.template.render(
        prompt=prompt,
        responses=(text,),
        preamble=reviser.constitution.preamble if opens else "",
        principle=principle.critique or "",
    )
    return (message for message in messages if opens or message.role != "system")


def _result(reviser: _Reviser, drafts: Sequence[_Draft], origin: Provenance, cost: Cost) -> JudgeResult:
    revised = [draft for draft in drafts if not draft.failure]
    annotator = f"{reviser.model.name}:revise"
    return JudgeResult(
        judgments=tuple(_judgment(reviser, draft, annotator, origin) for draft in revised),
        failures=tuple(draft.failure for draft in drafts if draft.failure),
        cost=cost,
        revisions=tuple(
            Revision(
                id=draft.response.id,
                prompt_id=draft.response.prompt_id,
                prompt=draft.response.prompt,
                tags=draft.response.tags,
                original=draft.response.text.strip(),
                rounds=tuple(draft.rounds),
                annotator=annotator,
                provenance=origin,
            )
            for draft in revised
        ),
        demonstrations=tuple(row for draft in revised for row in _demonstrations(draft)),
    )


def _judgment(reviser: _Reviser, draft: _Draft, annotator: str, origin: Provenance) -> Judgment:
    response, confidence = draft.response, reviser.mode.confidence
    prompt = Prompt(id=response.prompt_id, messages=response.prompt, tags=response.tags)
    pair = oriented(prompt, response.text.strip(), draft.text, reviser.seed)
    return Judgment(
        pair=pair,
        source="ai",
        annotator=annotator,
        p_a=confidence if pair.a == draft.text else 1 - confidence,
        provenance=origin,
    )


def _demonstrations(draft: _Draft) -> Iterator[Demonstration]:
    for number, made in enumerate(draft.rounds, start=1):
        yield Demonstration(
            prompt=draft.response.prompt,
            completion=(Message(role="assistant", content=made.revision),),
            source="ai",
            prompt_id=draft.response.prompt_id,
            round=number,
            tags=draft.response.tags,
        )
