"""Work that asks: a generator that yields requests, is sent their replies in the same order, and returns its result.

A mode of judging is such a work for one unit (a pair, a prompt, a response). `together` makes one work of many,
`drive` runs works against a model. Neither knows what is asked.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar, cast

from rlaif.errors import ModelError
from rlaif.feedback.judge.result import Cost
from rlaif.models.chat import ChatModel, ChatRequest, Reply, streaming
from rlaif.records import Messages

T = TypeVar("T")
Work = Generator[list[ChatRequest], Sequence[Reply], T]


class Turn(Generic[T]):
    """What one work asks, and the replies that have come."""

    def __init__(self, number: int, work: Work[T], requests: list[ChatRequest]) -> None:
        self.number = number
        """Of the work."""
        self.work = work
        self.requests = requests
        self.first = 0
        """The number of its first request among those of all works."""
        self.missing = len(requests)
        self.replies: list[Reply | None] = [None] * self.missing


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
    """One turn of all works: what they ask, and whose each reply is."""

    def __init__(self, running: Works[T]) -> None:
        self.cost = Cost()
        self._running = running
        self._asked = 0
        self._open: dict[int, Turn[T]] = {}
        """Who waits for the reply to each request."""
        self._idle: list[Turn[T]] = []

    def ask(self, model: ChatModel) -> bool:
        """Ask it; whether there was anything to do. ModelError where it does not answer each request once."""
        requests = self._requests()
        for first in requests:
            with streaming(model, chain([first], requests)) as replies:
                for number, reply in replies:
                    turn = self._open.pop(number, None)
                    if turn is None:
                        raise ModelError(f"model {model.name}: a reply to request {number}, which waits for none")
                    turn.replies[number - turn.first] = reply
                    turn.missing -= 1
                    if not turn.missing:
                        self._resume(turn)
            unread = sum(1 for _ in requests)
            if unread or self._open:
                answered = self._asked - len(self._open)
                raise ModelError(f"model {model.name}: {answered} replies to {self._asked} requests")
        for turn in self._idle:
            self._resume(turn)
        return bool(self._asked or self._idle)

    def _requests(self) -> Iterator[ChatRequest]:
        for turn in self._running.turns():
            turn.first = self._asked
            if not turn.requests:
                self._idle.append(turn)
            for request in turn.requests:
                self._open[self._asked] = turn
                self._asked += 1
                yield request
            turn.requests = []  # from here on they are the model's

    def _resume(self, turn: Turn[T]) -> None:
        replies = cast("list[Reply]", turn.replies)  # all of them are there
        self.cost = self.cost.plus(Cost.of(replies))
        self._running.resume(turn.number, turn.work, replies)


def shared_prefix(conversations: Sequence[Messages]) -> int:
    """How many characters of the last message are the same in all of these, where there are several."""
    if len(conversations) < 2:
        return 0
    texts = [messages[-1].content for messages in conversations]
    one, other = min(texts), max(texts)  # any text is between these, and so begins like both
    longest = range(1, min(len(one), len(other)) + 1)
    return bisect(longest, False, key=lambda length: one[:length] != other[:length])


def sharing(requests: Sequence[ChatRequest]) -> list[ChatRequest]:
    """The requests, each told how much of its last message is the same in all of them."""
    shared = shared_prefix([request.messages for request in requests])
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
