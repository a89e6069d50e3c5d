"""Responses of the policy to prompts, each from its own seed.

A response depends on the run seed, the stage, the prompt and its index, not on what else is sampled.
Resuming is the reply cache's business (`rlaif.models.cache`); here are pure functions. `origin.py` writes under
two instructions. Next: `pairs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rlaif.config.feedback import SampleSection
from rlaif.config.rollouts import Dialogue
from rlaif.errors import DataError
from rlaif.formats.turns import as_text, bare
from rlaif.models.engine import ChatRequest, Engine, Reply, ask, no_answer
from rlaif.models.user import user_says
from rlaif.records import Failure, Message, Messages, Origin, OwnTurn, Prompt, Response, content_id, derive_seed, plain

NO_PRINCIPLE = "no principle applies"
"""To a prompt whose responses are to be written under two instructions."""
NO_USER = "no answer of the user"
Progress = Callable[[int], None]
"""Called with the number of units finished since the last call."""


class SampleResult(NamedTuple):
    """Responses and failures in prompt order, then by index; tokens of all replies that came."""

    responses: tuple[Response, ...]
    failures: tuple[Failure, ...]
    prompt_tokens: int
    completion_tokens: int


class Place(NamedTuple):
    """Where one response belongs, and what the model reads before it writes it."""

    prompt: Prompt
    number: int
    """Which of the prompt's responses it is, from 0."""
    messages: Messages
    """The prompt's own, or those that instruct."""
    origin: Origin | None = None

    def seed(self, seed: int, stage: str, *names: object) -> int:
        """Of what is drawn here."""
        return derive_seed(seed, stage, self.prompt.id, self.number, *names)


class Speakers(NamedTuple):
    """Who writes a response."""

    model: Engine
    user: Engine | None = None
    """Who talks with it, as `sample.dialogue` says; none: a response is one turn, whatever that says."""
    progress: Progress | None = None
    """Told of the model's turns."""


def sample_responses(
    speakers: Speakers,
    prompts: Sequence[Prompt],
    section: SampleSection,
    seed: int,
    stage: str,
    n: int | None = None,
) -> SampleResult:
    """`n` responses to each prompt alone (`section.responses_per_prompt` unless given); see `write_responses`.

    `section.contrast` is not looked at: evaluation samples by the same section, and never under an instruction.
    """
    count = section.responses_per_prompt if n is None else n
    places = [Place(prompt, index, prompt.messages) for prompt in prompts for index in range(count)]
    return write_responses(speakers, places, section, seed, stage)


def write_responses(
    speakers: Speakers, places: Sequence[Place], section: SampleSection, seed: int, stage: str
) -> SampleResult:
    """A response or a failure for each place, in order, asked in one stream.

    A response's text is stripped; `finished` means the model ended it itself. A reply with an error, or with reasoning
    alone, becomes a failure, never a response. With a user a response is a conversation, each of its turns asked in
    a stream of its own.
    """
    model, user, progress = speakers
    told = section.dialogue if user is not None else None
    talks = [_Talk(place) for place in places]
    for turn in range(told.turns if told else 1):
        if user is not None and told and turn:
            _user_answers(user, told, [talk for talk in talks if not talk.lost], (seed, stage), turn)
        going_on = [talk for talk in talks if not talk.lost]
        requests = [talk.request(section, seed, stage, turn) for talk in going_on]
        for talk, reply in zip(going_on, ask(model, requests, progress), strict=True):
            talk.takes(reply, bare if told else str.strip)
    answered = [reply for talk in talks for reply in talk.replies if reply.error is None]
    knobs = [section.max_tokens, section.temperature, section.top_p]
    with_user = [told.model_dump(mode="json"), user.revision] if user is not None and told else []
    return SampleResult(
        responses=tuple(
            _response(model, talk, [knobs, talk.place.seed(seed, stage), *with_user]) for talk in talks if not talk.lost
        ),
        failures=tuple(talk.failure(stage, *talk.lost) for talk in talks if talk.lost),
        prompt_tokens=sum(reply.prompt_tokens for reply in answered),
        completion_tokens=sum(reply.completion_tokens for reply in answered),
    )


@dataclass
class _Talk:
    """A response as it is written."""

    place: Place
    later: list[Message] = field(default_factory=list)
    """What came after the prompt."""
    replies: list[Reply] = field(default_factory=list)
    """The model's."""
    lost: tuple[str, str] | None = None
    """Why it is no response: reason and detail."""

    def request(self, section: SampleSection, seed: int, stage: str, turn: int) -> ChatRequest:
        """For the model's turn of this number, from 0."""
        return ChatRequest(
            messages=(*self.place.messages, *self.later),
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            seed=self.place.seed(seed, stage, *([turn] if turn else [])),
        )

    def takes(self, reply: Reply, said: Callable[[str], str]) -> None:
        """The model's reply, of which `said` is said."""
        self.replies.append(reply)
        if (reason := _no_response(reply)) is not None:
            self.lost = (reason, reply.error or no_answer(reply))
        else:
            self.later.append(Message(role="assistant", content=said(reply.text)))

    def failure(self, stage: str, reason: str, detail: str) -> Failure:
        told = f"response {self.place.number}: {detail}"
        return Failure(stage=stage, id=self.place.prompt.id, reason=reason, detail=told)


def _user_answers(user: Engine, told: Dialogue, talks: Sequence[_Talk], of: tuple[int, str], turn: int) -> None:
    """A turn of the user more for each; one whose user fails or says nothing is lost."""
    so_far = [(*talk.place.prompt.messages, *talk.later) for talk in talks]
    seeds = [talk.place.seed(*of, "user", turn) for talk in talks]
    for talk, said in zip(talks, user_says(user, told, so_far, seeds), strict=True):
        if said.text:
            talk.later.append(Message(role="user", content=said.text))
        else:
            talk.lost = (NO_USER, f"after turn {turn}: {said.error or 'it said nothing'}")


def _response(model: Engine, talk: _Talk, drawn_by: Sequence[object]) -> Response:
    place, replies = talk.place, talk.replies
    ended = [reply.finish_reason == "stop" for reply in replies]
    several = len(replies) > 1
    told = [] if place.origin is None else [place.origin.model_dump(), plain(place.messages)]
    turns = [
        OwnTurn(text=r.text.strip(), finished=e, token_ids=r.token_ids) for r, e in zip(replies, ended, strict=True)
    ]
    return Response(
        id=content_id(place.prompt.id, place.number, model.name, model.revision, *drawn_by, *told),
        prompt_id=place.prompt.id,
        prompt=place.prompt.messages,
        tags=place.prompt.tags,
        index=place.number,
        text=as_text(talk.later) if several else talk.later[0].content,
        finished=all(ended),
        tokens=sum(reply.completion_tokens for reply in replies),
        token_ids=() if several else replies[0].token_ids,
        model=model.name,
        origin=place.origin,
        given=place.prompt.given,
        turns=tuple(turns) if several else (),
    )


def _no_response(reply: Reply) -> str | None:
    """Why a reply is none."""
    if reply.error is not None:
        return "model error"
    return "no answer after reasoning" if reply.finish_reason == "reasoning" else None


def check_sample_failures(result: SampleResult, limit: float, place: str) -> None:
    """Raise DataError, with advice, when more than `limit` of the responses failed, or all did.

    `place` says which responses these are: the beginning of the message.
    """
    failed, total = len(result.failures), len(result.responses) + len(result.failures)
    if failed <= limit * total and (result.responses or not failed):
        return
    first = result.failures[0]
    advice = "run again to ask only for what is missing"
    if first.reason == "no answer after reasoning":
        advice = "raise sample.max_tokens or set policy.thinking=false"
    elif first.reason == NO_USER:
        advice = "look at sample.dialogue.user"
    elif first.reason == NO_PRINCIPLE:
        advice = "give a principle with a `contrast` no tags, or these"
    elif "context" in first.detail:
        advice = "shorten the prompts or sample.max_tokens, or raise policy.max_model_len where the model allows it"
    raise DataError(
        f"{place}: {failed} of {total} responses failed ({failed / total:.1%}, limit {limit:.1%}); "
        f"first: {first.reason} ({first.detail}); {advice}, or raise label.max_failures"
    )
