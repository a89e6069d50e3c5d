"""The one way any part of rlaif asks a model for text: a stream of requests in, numbered replies in any order out.

Nothing here imports a model. Implementations: `scripted`, `local`, `client`, `server`; `cache` wraps any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from pydantic import ConfigDict, Field

from rlaif.errors import ModelError, shown
from rlaif.models.decoding import Shape
from rlaif.records import Messages, Record
from rlaif.records.core import absent

T = TypeVar("T")
R = TypeVar("R")

Refused = Literal["length", "form"]
ROUNDING = 0.01
"""So far above 0 a server's log-probability may be."""


class ChatRequest(Record):
    """One conversation to continue.

    With `labels`, nothing is sampled: the reply carries, for each label, the natural-log probability that the
    assistant's turn begins with a token that says the label, in any spelling (see `labels`). Each label must be one
    token of the model. Of one that a server does not tell it is the highest that it can be.
    """

    messages: Messages
    max_tokens: int = 1
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    shape: Shape | None = Field(default=None, exclude_if=absent)
    """What is done to logits besides; None: nothing."""
    seed: int = 0
    """The reply depends on this seed and the conversation, not on which other requests run beside it."""
    labels: tuple[str, ...] = ()
    answer: str | None = None
    """With it, nothing is sampled either: the reply's `likelihood` says how likely the model is to answer just this."""
    shared_prefix: int = Field(default=0, exclude=True)
    """A hint, part of neither identity nor wire format: so many characters of the last message are the same in
    requests beside this one. A model in this process reads them once; a server's prefix cache needs no hint."""
    second: bool = Field(default=False, exclude=True)
    """As little part of them: of a judge made of two models, whether the second is asked."""


class Likelihood(Record):
    """How likely a given text is as the assistant's turn, at temperature 1. Its tokens are those of the whole
    conversation as the model's chat template renders it."""

    model_config = ConfigDict(allow_inf_nan=True)  # as in `Reply`

    logprob: float
    """Natural log, summed over the text's tokens; 0 of an empty text."""
    end_logprob: float
    """Of the token that ends the turn after them."""
    tokens: int = Field(ge=0)
    """How many tokens the text has, its end aside."""


class Reply(Record):
    """What came back. With `error` set there is no answer, and the other fields mean nothing."""

    model_config = ConfigDict(allow_inf_nan=True)  # whatever it is, `answers` says whether it is one

    text: str = ""
    finish_reason: Literal["stop", "length", "reasoning"] = "stop"
    """`reasoning`: the model thought and came to no answer, so `text` is empty. Reasoning that an answer follows is no
    part of `text` either; `completion_tokens` counts both."""
    label_logprobs: dict[str, float] | None = None
    likelihood: Likelihood | None = None
    """Of a request's `answer`."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    """What was sampled, end token included; empty where the server does not tell. Text read back as tokens can
    come out as others."""
    error: str | None = None
    """A short cause ('timed out after 5 tries: ...'); an errored reply is never cached."""
    refused: Refused | None = Field(default=None, exclude=True)
    """Of an error that is the request's own, so that asking again does not help: it is longer than the model reads, or
    of a form that it does not take."""


def no_answer(reply: Reply) -> str:
    """Why a reply that ends as `reasoning` has no text, for a failure's detail."""
    return f"{reply.completion_tokens} tokens of reasoning and no answer after it"


def is_logprob(value: float) -> bool:
    """Whether it is one, but for rounding: no infinity, and no more than certain."""
    return math.isfinite(value) and value <= ROUNDING


def excess(logprobs: Iterable[float]) -> str | None:
    """Why these are not the log-probabilities of different things; None where, but for rounding, they may be."""
    mass = math.fsum(math.exp(logprob) for logprob in logprobs)
    return f"the labels' probabilities sum to {mass:.3g}" if mass > 1 + 2 * ROUNDING else None


def answers(request: ChatRequest, reply: Reply) -> bool:
    """Whether it may be kept: there was no error, and what was to be read has log-probabilities."""
    found, likely = reply.label_logprobs or {}, reply.likelihood
    known = all(label in found and is_logprob(found[label]) for label in request.labels)
    if request.answer is not None:
        known = likely is not None and is_logprob(likely.logprob) and is_logprob(likely.end_logprob)
    return reply.error is None and known and excess(found[label] for label in request.labels) is None


def as_text(reply: Reply) -> Reply:
    """The reply, or one with an error where it holds half of a surrogate pair: JSON can spell that, no file can."""
    text = "".join((reply.text, reply.error or "", *(reply.label_logprobs or ())))
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return Reply(error="the reply is no text: it holds half of a surrogate pair")
    return reply


class Engine(Protocol):
    """A model that continues conversations.

    One bad request gives one reply with `error` set. ModelError is raised only when no request can be answered
    (the model is missing, the server cannot be reached, a label is not one token).
    """

    @property
    def name(self) -> str:
        """The model's name, as provenance records it."""
        ...

    @property
    def revision(self) -> str:
        """What tells two models of one name apart: a commit, a content hash, or 'unknown'."""
        ...

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply]]:
        """One reply for each request, in any order, with the request's number (from 0) in the order in which they were
        read. Requests are read as they are needed, in the thread that reads the replies. Closing the stream early stops
        what is under way."""
        ...

    def close(self) -> None:
        """Free memory, connections or the server process. Calling it twice does no harm."""
        ...


Lot = Sequence[tuple[int, Reply]]
"""Replies that came together."""


class Each(Protocol):
    """Does work beside the engine, wherever that is."""

    def __call__(self, work: Callable[[Engine, T], R], items: Iterable[T]) -> Iterator[R]:
        """`work(engine, item)` of each item, in their order. Work and results can be pickled. Items are read as they
        are needed; closing the iterator early stops what is under way."""
        ...


class Elsewhere(NamedTuple):
    """An engine to which work can be sent instead of requests."""

    each: Each
    requests: int
    """About so many an item should ask."""


class InLots:
    """A model whose replies come in lots: who keeps replies keeps each lot whole, or none of it."""

    window: int | None = None
    """Replies depend on which so many requests stand together; None: on no other request."""

    @property
    def shards(self) -> int:
        """How many shards of pairs at once keep it busy."""
        return 1

    @property
    def elsewhere(self) -> Elsewhere | None:
        """None where only requests can be sent."""
        return None

    def unmade(self, window: Sequence[tuple[int, ChatRequest]]) -> Iterator[Callable[[], Lot]]:
        """The lots of a window of numbered requests, each to be called for: several models may share them out."""
        raise NotImplementedError

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """As `stream`, lot by lot."""
        raise NotImplementedError

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply]]:
        """See `Engine`."""
        for lot in self.lots(requests):
            yield from lot


def lots_of(model: Engine, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
    """The model's replies, in lots of one where it knows no larger ones."""
    return model.lots(requests) if isinstance(model, InLots) else ([one] for one in model.stream(requests))


@contextmanager
def streaming(model: Engine, requests: Iterable[ChatRequest]) -> Iterator[Iterator[tuple[int, Reply]]]:
    """The model's replies, closed at the end of the block, whatever happens in it. ModelError at what is none."""
    replies = iter(model.stream(requests) or ())
    try:
        yield (_numbered(model, item) for item in replies)
    finally:
        if isinstance(replies, Generator):
            replies.close()


def _numbered(model: Engine, item: Any) -> tuple[int, Reply]:
    """An engine may be a user's object."""
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[1], Reply):
        number, reply = item
        if hasattr(number, "__index__"):  # numpy's too
            return number, reply
    raise ModelError(f"model {model.name}: its stream must give (number, Reply), not {shown(item)}")


def ask(model: Engine, requests: Sequence[ChatRequest], progress: Callable[[int], None] | None = None) -> list[Reply]:
    """The replies in the order of the requests. `progress` counts them. ModelError where some have none."""
    found: dict[int, Reply] = {}
    with streaming(model, requests) as replies:
        for number, reply in replies:
            if number in found or number not in range(len(requests)):
                raise ModelError(f"model {model.name}: a reply to request {number}, which waits for none")
            found[number] = reply
            if progress is not None:
                progress(1)
    if len(found) != len(requests):
        raise ModelError(f"model {model.name}: {len(found)} replies to {len(requests)} requests")
    return [found[number] for number in range(len(requests))]
