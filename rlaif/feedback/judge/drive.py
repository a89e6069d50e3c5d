"""Work that asks: a generator that yields requests, is sent their replies in the same order, and returns its result.

A mode of judging is such a work for one unit (a pair, a prompt, a response). `together` makes one work of many,
`drive` runs works against a model. Neither knows what is asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from rlaif.errors import ModelError
from rlaif.feedback.judge.result import Cost
from rlaif.models.chat import ChatModel, ChatRequest, Reply, streaming

T = TypeVar("T")
Work = Generator[list[ChatRequest], Sequence[Reply], T]


@dataclass(slots=True)
class Turn(Generic[T]):
    """What one work asks, and the replies that have come."""

    number: int
    """Of the work."""
    work: Work[T]
    requests: list[ChatRequest]
    replies: list[Reply | None] = field(init=False)
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.missing = len(self.requests)
        self.replies = [None] * self.missing


class Works(Generic[T]):
    """Works side by side: what those that are not finished ask next, and the results of the others."""

    def __init__(self, works: Iterable[Work[T]], finished: Callable[[int], None] | None = None) -> None:
        self._to_begin = enumerate(works)
        self._asking: dict[int, Turn[T]] = {}
        self._results: dict[int, T] = {}
        self._finished = finished

    def turns(self) -> Iterator[Turn[T]]:
        """What is asked now, in the order of the works, whichever of them was ready first. A work begins when it is
        come to."""
        asking, self._asking = self._asking, {}
        yield from (asking[number] for number in sorted(asking))
        for number, work in self._to_begin:
            self.resume(number, work, None)
            if (turn := self._asking.pop(number, None)) is not None:
                yield turn

    def resume(self, number: int, work: Work[T], replies: Sequence[Reply] | None) -> None:
        """To what it asks next, or to its end."""
        try:
            self._asking[number] = Turn(number, work, work.send(replies))  # type: ignore[arg-type]  # None begins it
        except StopIteration as end:
            self._results[number] = end.value
            if self._finished is not None:
                self._finished(number)

    def in_order(self) -> list[T]:
        """The results."""
        return [self._results[number] for number in range(len(self._results))]


def together(works: Iterable[Work[T]]) -> Work[list[T]]:
    """All works side by side: each turn asks what all of them ask now. Their results, in order."""
    running = Works(works)
    while turns := list(running.turns()):
        replies = iter((yield [request for turn in turns for request in turn.requests]))
        for turn in turns:
            running.resume(turn.number, turn.work, [next(replies) for _ in turn.requests])
    return running.in_order()


def drive(
    model: ChatModel, works: Iterable[Work[T]], finished: Callable[[int], None] | None = None
) -> tuple[list[T], Cost]:
    """The works' results, in order, and what they cost. Each turn is one stream of the model.

    Works begin as the model reads their requests. A work goes on as soon as its last reply is there; one that asks
    nothing in a turn, after the stream. `finished` gets the number of each work that ends, at once.
    """
    running, cost = Works(works, finished), Cost()
    while (turn := _Stream(running)).ask(model):
        cost = cost.plus(turn.cost)
    return running.in_order(), cost


class _Stream(Generic[T]):
    """One turn of all works: what they ask, and where each reply belongs."""

    def __init__(self, running: Works[T]) -> None:
        self.cost = Cost()
        self._running = running
        self._asked = 0
        self._places: dict[int, tuple[Turn[T], int]] = {}
        """Of the requests without a reply."""
        self._idle: list[Turn[T]] = []

    def ask(self, model: ChatModel) -> bool:
        """Ask it; whether there was anything to do. ModelError where it does not answer each request once."""
        requests = self._requests()
        for first in requests:
            with streaming(model, chain([first], requests)) as replies:
                for number, reply in replies:
                    if number not in self._places:
                        raise ModelError(f"model {model.name}: a reply to request {number}, which waits for none")
                    self._answer(*self._places.pop(number), reply)
            unread = sum(1 for _ in requests)
            if unread or self._places:
                answered = self._asked - len(self._places)
                raise ModelError(f"model {model.name}: {answered} replies to {self._asked} requests")
        for turn in self._idle:
            self._running.resume(turn.number, turn.work, [])
        return bool(self._asked or self._idle)

    def _requests(self) -> Iterator[ChatRequest]:
        for turn in self._running.turns():
            if not turn.requests:
                self._idle.append(turn)
            for place, request in enumerate(turn.requests):
                self._places[self._asked] = turn, place
                self._asked += 1
                yield request
            turn.requests = []  # from here on they are the model's

    def _answer(self, turn: Turn[T], place: int, reply: Reply) -> None:
        turn.replies[place] = reply
        turn.missing -= 1
        if not turn.missing:
            replies = [one for one in turn.replies if one is not None]
            self.cost = self.cost.plus(Cost.of(replies))
            self._running.resume(turn.number, turn.work, replies)


def sharing(requests: Sequence[ChatRequest]) -> list[ChatRequest]:
    """The requests, each told how much of its last message is the same in all of them."""
    if len(requests) < 2:
        return list(requests)
    shared = len(os.path.commonprefix([r.messages[-1].content for r in requests]))  # noqa: RUF071 (by character)
    return [request.model_copy(update={"shared_prefix": shared}) for request in requests]


def sharing_turns(work: Work[T]) -> Work[T]:
    """The work, the requests of each of its turns `sharing`."""
    replies: Sequence[Reply] | None = None
    while True:
        try:
            requests = work.send(replies)  # type: ignore[arg-type]  # None begins a generator
        except StopIteration as end:
            found: T = end.value
            return found
        replies = yield sharing(requests)
