"""Critique and revise: the model improves a response by one principle after another (Constitutional AI, section 3.1).

Nothing is compared: that a revision is better than the original is `mode.confidence`, not a verdict. The revisions
are demonstrations for fine-tuning as well as preferences. See prompts/judge/revise.jinja for the two turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ReviseMode
from rlaif.constitution import Constitution, Principle
from rlaif.constitution.persona import Unfilled
from rlaif.errors import ConfigError
from rlaif.feedback.judge.asking import Bench, NoVerdict, Sampling, Way, failed, no_text, shown_tags, unfilled
from rlaif.feedback.judge.drive import Work, drive
from rlaif.feedback.judge.result import JudgeResult, UnitResult
from rlaif.feedback.sample import Progress
from rlaif.feedback.verdict import draw
from rlaif.models.engine import ChatRequest, Engine
from rlaif.records import (
    Demonstration,
    Message,
    Messages,
    Response,
    Revision,
    Round,
    derive_seed,
    oriented,
    prompt_of,
)


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
    model: Engine,
    mode: ReviseMode,
    responses: Sequence[Response],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """Each response as `revise` says; see `first_responses` for which to give. `progress` counts responses. Raises
    ConfigError, before anything is asked, when no principle can be used."""
    if not any(principle.revisable for principle in constitution.principles):
        raise ConfigError(
            f"constitution {constitution.id!r}: no principle has both `critique` and `revise`, which label.mode.kind "
            "'revise' needs"
        )
    bench = WAY.bench(model, mode, constitution, section, seed)
    works = (revise(bench, response) for response in responses)
    parts, cost = drive(model, works, lambda _: progress(1) if progress else None)
    return JudgeResult.of(parts, (outcome for part in parts for outcome in part.outcomes), cost)


def revise(bench: Bench[ReviseMode], response: Response) -> Work[UnitResult]:
    """The response critiqued and revised `mode.rounds` times.

    In each round a principle with critique and revise texts that applies to the response's tags is drawn by weight,
    independently of other rounds and responses. The critique is one request; the revision is a second one in the same
    conversation, and the next round begins from it.

    The response ends as a Revision (all rounds), a Judgment (the last revision against the original, p of the revision
    being `mode.confidence`) and a Demonstration for each round; or, where any reply failed or the last revision
    equals the original, as one Failure under its id and nothing else.
    """
    original = text = response.text.strip()
    try:
        found = bench.constitution.asked_of(bench.mode.kind, response.tags, response.given)
    except Unfilled as error:
        return UnitResult([[unfilled(response.id, error)]])
    principles = tuple(p for p in found if p.revisable)
    if not principles:
        detail = f"that has critique and revise texts; {shown_tags(response.tags)}"
        return UnitResult([[failed(response.id, None, NoVerdict("no principle applies", detail))]])
    rounds: list[Round] = []
    for number in range(1, bench.mode.rounds + 1):
        # The race of `draw`, with a seed of its own for each round.
        principle = draw(principles, derive_seed(bench.seed, "revise", number), response.id)
        asked = _conversation(bench, response.prompt, text, principle)
        (critique,) = yield [_request(bench, asked, response.id, number, "critique")]
        if problem := no_text(critique, "critique"):
            return UnitResult([[failed(response.id, principle, problem)]])
        follow_up = bench.template.follow_up(principle.revise or "")
        asked = (*asked, bench.template.neutral(critique.text.strip()), follow_up)
        (revision,) = yield [_request(bench, asked, response.id, number, "revision")]
        revision = revision.model_copy(update={"text": bench.template.unwrapped(revision.text, text)})
        if problem := no_text(revision, "revision"):
            return UnitResult([[failed(response.id, principle, problem)]])
        text = revision.text
        rounds.append(Round(principle=principle.id, critique=critique.text.strip(), revision=text))
    if text == original:
        problem = NoVerdict("the revision equals the original", f"after round {bench.mode.rounds}")
        return UnitResult([[failed(response.id, None, problem)]])
    return _revised(bench, response, rounds)


def _request(bench: Bench[ReviseMode], messages: Messages, identity: str, number: int, turn: str) -> ChatRequest:
    mode = bench.mode
    # Seeded only where it is sampled: a greedy reply does not depend on a seed, and neither should its cache key.
    seed = derive_seed(bench.seed, "revise", identity, number, turn) if mode.temperature > 0 else 0
    return ChatRequest(messages=messages, max_tokens=mode.max_tokens, temperature=mode.temperature, seed=seed)


def _conversation(bench: Bench[ReviseMode], prompt: Messages, text: str, principle: Principle) -> Messages:
    """The examples as whole earlier conversations, then the request for a critique of the text as it stands now."""
    turns: list[Message] = []
    for example in bench.constitution.examples:
        by = next((p for p in bench.constitution.principles if p.id == example.principle), principle)
        asked = (Message(role="user", content=example.prompt),)
        turns += _critique(bench, asked, example.response, by, opens=not turns)
        turns += [bench.template.neutral(example.critique), bench.template.follow_up(by.revise or "")]
        turns.append(bench.template.neutral(example.revision))
    return (*turns, *_critique(bench, prompt, text, principle, opens=not turns))


def _critique(
    bench: Bench[ReviseMode], prompt: Messages, text: str, principle: Principle, opens: bool
) -> Iterator[Message]:
    """The request for a critique. The preamble and a system turn stand only where a conversation opens."""
    messages = bench.template.render(
        prompt=prompt,
        responses=(text,),
        preamble=bench.constitution.preamble if opens else "",
        principle=principle.critique or "",
    )
    return (message for message in messages if opens or message.role != "system")


def _revised(bench: Bench[ReviseMode], response: Response, rounds: Sequence[Round]) -> UnitResult:
    original, text = response.text.strip(), rounds[-1].revision
    pair = oriented(prompt_of(response), original, text, bench.seed)
    judgment = bench.judgment(pair, bench.mode.confidence if pair.a == text else 1 - bench.mode.confidence)
    revision = Revision(
        id=response.id,
        prompt_id=response.prompt_id,
        prompt=response.prompt,
        tags=response.tags,
        original=original,
        rounds=tuple(rounds),
        annotator=bench.annotator(),
        provenance=bench.provenance(),
    )
    demonstrations = (
        Demonstration(
            prompt=response.prompt,
            completion=(Message(role="assistant", content=made.revision),),
            source="ai",
            prompt_id=response.prompt_id,
            round=number,
            tags=response.tags,
        )
        for number, made in enumerate(rounds, start=1)
    )
    return UnitResult([judgment], revisions=(revision,), demonstrations=tuple(demonstrations))


def _sampling(bench: Bench[ReviseMode]) -> Sampling:
    mode = bench.mode
    return {
        "rounds": mode.rounds,
        "examples": len(bench.constitution.examples),
        "temperature": mode.temperature,
        "max_tokens": mode.max_tokens,
        "confidence": mode.confidence,
        "seed": bench.seed,
    }


WAY = Way(revise, "revise", _sampling, title="revise")
