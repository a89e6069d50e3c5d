"""Token ids on the wire: how likely given ones are, and which ones a model writes.

Written against vLLM 0.32, whose `prompt_logprobs` tell them. A prompt's own tokens are of no interest, and requests
beside one another share it, but POST /v1/completions reads each from its beginning: what vLLM has in its prefix cache
has no logits. POST /inference/v1/generate lets a request say that it will do without those.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from rlaif.models.engine import Likelihood, is_logprob
from rlaif.models.labels import BLANK, NOTHING
from rlaif.models.wire import BadReply, NoLogprobs, Tokens, from_json
from rlaif.records import Message

QUESTION = Message(role="user", content="Why?")
WORDS = ("Yes", "no", "1", "2")
"""Answers to it that no template trims and whose last tokens differ."""
OF_THE_TEMPLATE = ("chat_template", "chat_template_kwargs", "add_special_tokens", "tools")
"""What `extra_body` may say that shapes the prompt, which is rendered before it is sent."""
OF_THE_REPLY = ("return_token_ids", "return_tokens_as_token_ids", "return_prompt_text")
"""What it may say that only makes the reply longer."""


class CacheOverlap(BadReply):
    """The server had read a part of the answer before, and tells nothing of that."""


class Continuation(NamedTuple):
    """The tokens written, the end token included, and the log-probability of each as the server tells it."""

    tokens: list[int]
    logprobs: list[float]


class AnswerFrame(NamedTuple):
    """How the model's chat template frames an answer: as `models.local.tokens.Turn`, from what a server tells."""

    opening: list[int]
    """The tokens before an answer to QUESTION."""
    end: list[int]
    """What is written after an answer."""
    written: list[int]
    """As far as a model writes it: up to the first token of it that is no white space."""


class AnswerRow(NamedTuple):
    """A conversation as it is read."""

    tokens: list[int]
    """Of the prompt, of the answer, and of what ends it."""
    answer: int
    """Where the answer begins."""
    end: int
    """Where its end begins."""


class _TokenLogprob(BaseModel):
    logprob: float


_PromptLogprobs = list[dict[int, _TokenLogprob] | None]


class _WrittenLogprobs(BaseModel):
    token_logprobs: list[float]


class _Completion(BaseModel):
    """The one choice of POST /v1/completions."""

    prompt_logprobs: _PromptLogprobs | None = None
    token_ids: list[int] | None = None
    logprobs: _WrittenLogprobs | None = None


class _Completions(BaseModel):
    choices: list[_Completion]


class _Details(BaseModel):
    cached_tokens: int | None = None


class _PromptUsage(BaseModel):
    prompt_tokens_details: _Details | None = None


class _Generation(BaseModel):
    prompt_logprobs: _PromptLogprobs | None = None
    usage: _PromptUsage | None = None


# ------------------------------------------------------------------------------------------------- tokens


def frame_of(opening: list[int], wholes: Sequence[Tokens]) -> AnswerFrame:
    """From the conversations of QUESTION and each of WORDS. ValueError where they do not show how an answer ends."""
    first = wholes[0]
    other = next((whole.tokens for whole in wholes if whole.tokens != first.tokens), None)
    if other is None:
        raise ValueError("leaves out what the assistant says")
    end = list(os.path.commonprefix([first.tokens[::-1], other[::-1]]))[::-1]  # noqa: RUF071 (token by token)
    texts = (first.token_strs or [])[len(first.tokens) - len(end) :]
    blank = next((place for place, text in enumerate(texts) if text.strip(BLANK) not in {"", "<0x0A>"}), None)
    if blank is None:
        raise ValueError("has no token that ends the assistant's turn")
    return AnswerFrame(opening, end, end[: blank + 1])


def answer_tokens(turn: AnswerFrame, whole: Sequence[int]) -> list[int] | None:
    """Those of an answer to QUESTION; None where the template writes the question, or the answer's end, in another
    way around this answer."""
    first, last = len(turn.opening), len(whole) - len(turn.end)
    framed = first <= last and list(whole[:first]) == turn.opening and list(whole[last:]) == turn.end
    return list(whole[first:last]) if framed else None


def row_of(prompt: Sequence[int], answer: Sequence[int], turn: AnswerFrame) -> AnswerRow:
    """The prompt, its answer, and the end of the turn as a model writes it."""
    return AnswerRow([*prompt, *answer, *turn.written], len(prompt), len(prompt) + len(answer))


# ------------------------------------------------------------------------------------------------ requests


def reading_body(model: str, row: Sequence[int], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of POST /v1/completions that reads a row from its beginning. One token must be written."""
    return _added(extra) | {"model": model, "prompt": list(row), **_only_read()}


def sharing_body(model: str, row: Sequence[int], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of POST /inference/v1/generate that reads on from what the prefix cache holds of a row."""
    # Rows of the cached tokens hold whatever was in memory, which no tokenizer should be given.
    told = {**_only_read(), "skip_reading_prefix_cache": False, "detokenize": False}
    return _added(extra) | {"model": model, "token_ids": list(row), "sampling_params": told}


def _only_read() -> dict[str, Any]:
    return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


def _added(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in extra.items() if key not in OF_THE_TEMPLATE + OF_THE_REPLY}


# ------------------------------------------------------------------------------------------------- replies


def _completion(data: bytes) -> _Completion:
    choices = from_json(_Completions, data).choices
    if len(choices) != 1:
        raise BadReply(f"the reply has {len(choices) or 'no'} choices")
    return choices[0]


def parse_continuation(data: bytes, max_tokens: int, end_tokens: Collection[int]) -> Continuation:
    """What was written after a prompt: at most `max_tokens`, the last of them an end token where there are fewer.
    Raises BadReply where it is not."""
    choice = _completion(data)
    tokens, logprobs = choice.token_ids, choice.logprobs.token_logprobs if choice.logprobs else []
    if not tokens:
        raise BadReply("the reply has no token ids")
    if len(logprobs) != len(tokens):
        raise BadReply(f"the reply has {len(logprobs)} log-probabilities for {len(tokens)} tokens")
    if len(tokens) > max_tokens:
        raise BadReply(f"the reply has {len(tokens)} tokens, {max_tokens} were asked for")
    if len(tokens) < max_tokens and tokens[-1] not in end_tokens:
        raise BadReply(f"the reply stops after {len(tokens)} of {max_tokens} tokens without an end token")
    return Continuation(tokens, checked_logprobs(logprobs))


def read_logprobs(data: bytes, row: Sequence[int], begin: int = 1) -> list[float]:
    """What a completion says of the row's tokens from `begin` on. Raises BadReply where it does not."""
    told = _completion(data).prompt_logprobs
    if told is None:
        raise NoLogprobs("the reply has no log-probabilities of the prompt")
    if len(told) != len(row):
        raise BadReply(f"the reply has log-probabilities of {len(told)} tokens, not of {len(row)}")
    return _of_tokens(row[begin:], told[begin:])


def parse_likelihood(data: bytes, row: AnswerRow) -> Likelihood:
    """What POST /v1/completions says of an answer. Raises BadReply where it does not."""
    return _likelihood(read_logprobs(data, row.tokens, row.answer), row)


def parse_shared(data: bytes, row: AnswerRow) -> Likelihood | None:
    """What POST /inference/v1/generate says of it; None where it does not say how much came from the cache, so that
    no log-probability is known to be one. Raises BadReply, CacheOverlap where that reaches into the answer."""
    generated = from_json(_Generation, data)
    details = generated.usage.prompt_tokens_details if generated.usage else None
    if details is None or details.cached_tokens is None:
        return None
    cached, told = details.cached_tokens, generated.prompt_logprobs
    # The first token that is known is the one after the first that was computed.
    if not 0 <= cached < row.answer:
        raise CacheOverlap(f"{cached} tokens came from the cache, {row.answer} are before the answer")
    # vLLM's first model runner leaves places for the cached tokens, the second leaves them out.
    if told is None or len(told) not in {len(row.tokens), len(row.tokens) - cached}:
        raise BadReply("the reply has log-probabilities of other tokens")
    own = row.tokens[row.answer :]
    return _likelihood(_of_tokens(own, told[-len(own) :]), row)


def checked_logprobs(logprobs: Sequence[float]) -> list[float]:
    """At most 0: rounding may leave a hair above. Raises BadReply for what is none."""
    for logprob in logprobs:
        if not is_logprob(logprob) or logprob <= NOTHING:
            raise BadReply(f"the reply has a log-probability of {logprob}")
    return [min(logprob, 0.0) for logprob in logprobs]


def _of_tokens(tokens: Sequence[int], told: _PromptLogprobs) -> list[float]:
    found = []
    for token, known in zip(tokens, told, strict=True):
        if known is None or token not in known:
            raise BadReply(f"the reply has no log-probability of token {token}")
        found.append(known[token].logprob)
    return checked_logprobs(found)


def _likelihood(logprobs: Sequence[float], row: AnswerRow) -> Likelihood:
    count = row.end - row.answer
    return Likelihood(logprob=math.fsum(logprobs[:count]), end_logprob=math.fsum(logprobs[count:]), tokens=count)
