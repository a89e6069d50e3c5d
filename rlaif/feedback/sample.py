"""Responses of the policy to prompts, each from its own seed.

A response depends on the run seed, the stage, the prompt and its index, not on what else is sampled.
Resuming is the reply cache's business (`rlaif.models.cache`); here are pure functions. `origin.py` writes under
two instructions. Next: `pairs.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rlaif.config.feedback import SampleSection
from rlaif.errors import DataError
from rlaif.models.engine import ChatRequest, Engine, Reply, ask, no_answer
from rlaif.records import Failure, Messages, Origin, Prompt, Response, content_id, derive_seed, plain

NO_PRINCIPLE = "no principle applies"
"""To a prompt whose responses are to be written under two instructions."""
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


def sample_responses(
    model: Engine,
    prompts: Sequence[Prompt],
    section: SampleSection,
    seed: int,
    stage: str,
    progress: Progress | None = None,
    n: int | None = None,
) -> SampleResult:
    """`n` responses to each prompt alone (`section.responses_per_prompt` unless given); see `write_responses`.

    `section.contrast` is not looked at: evaluation samples by the same section, and never under an instruction.
    """
    count = section.responses_per_prompt if n is None else n
    places = [Place(prompt, index, prompt.messages) for prompt in prompts for index in range(count)]
    return write_responses(model, places, section, seed, stage, progress)


def write_responses(
    model: Engine,
    places: Sequence[Place],
    section: SampleSection,
    seed: int,
    stage: str,
    progress: Progress | None = None,
) -> SampleResult:
    """A response or a failure for each place, in order, asked in one stream.

    A response's text is stripped; `finished` means the model ended it itself. A reply with an error, or with reasoning
    alone, becomes a failure, never a response. `progress` counts responses.
    """
    requests = [
        ChatRequest(
            messages=place.messages,
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            seed=derive_seed(seed, stage, place.prompt.id, place.number),
        )
        for place in places
    ]
    replies = ask(model, requests, progress)
    responses = []
    failures = []
    for place, request, reply in zip(places, requests, replies, strict=True):
        if (reason := _no_response(reply)) is not None:
            detail = f"response {place.number}: {reply.error or no_answer(reply)}"
            failures.append(Failure(stage=stage, id=place.prompt.id, reason=reason, detail=detail))
            continue
        responses.append(
            Response(
                id=_id(model, place, request),
                prompt_id=place.prompt.id,
                prompt=place.prompt.messages,
                tags=place.prompt.tags,
                index=place.number,
                text=reply.text.strip(),
                finished=reply.finish_reason == "stop",
                tokens=reply.completion_tokens,
                token_ids=reply.token_ids,
                model=model.name,
                origin=place.origin,
                given=place.prompt.given,
            )
        )
    answered = [reply for reply in replies if reply.error is None]
    return SampleResult(
        responses=tuple(responses),
        failures=tuple(failures),
        prompt_tokens=sum(reply.prompt_tokens for reply in answered),
        completion_tokens=sum(reply.completion_tokens for reply in answered),
    )


def _id(model: Engine, place: Place, request: ChatRequest) -> str:
    knobs = [request.max_tokens, request.temperature, request.top_p]
    told = [] if place.origin is None else [place.origin.model_dump(), plain(place.messages)]
    return content_id(place.prompt.id, place.number, model.name, model.revision, knobs, request.seed, *told)


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
    elif first.reason == NO_PRINCIPLE:
        advice = "give a principle with a `contrast` no tags, or these"
    elif "context" in first.detail:
        advice = "shorten the prompts or sample.max_tokens, or raise policy.max_model_len where the model allows it"
    raise DataError(
        f"{place}: {failed} of {total} responses failed ({failed / total:.1%}, limit {limit:.1%}); "
        f"first: {first.reason} ({first.detail}); {advice}, or raise label.max_failures"
    )
