"""Work that asks: a generator that yields requests, is sent their replies in the same order, and returns its result.

A mode of judging is such a work for one unit (a pair, a prompt, a response). `together` makes one work of many,
`drive` runs works against a model. Neither knows what is asked.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Generic, NamedTuple, TypeVar, cast

from rlaif.errors import ModelError
from rlaif.feedback.judge.result import Cost
from rlaif.models.engine import ChatRequest, Engine, Reply, streaming
from rlaif.records import Messages

T = TypeVar("T")
Work = Generator[list[ChatRequest], Sequence[Reply], T]


class Inquiry(Generic[T]):
    """What one work asks, and the replies that have come."""

    def __init__(self, number: int, work: Work[T], requests: list[ChatRequest], cost: Cost) -> None:
        self.number = number
        """Of the work."""
        self.work = work
        self.requests = requests
        self.cost = cost
        """Of the work's turns before."""
        self.first = 0
        """The number of its first request among those of all works."""
        self.missing = len(requests)
        self.replies: list[Reply | None] = [None] * self.missing

    def whole_with(self, number: int, reply: Reply) -> bool:
        """Whether, with this one, all replies are there."""
        self.replies[number - self.first] = reply
        self.missing -= 1
        return not self.missing


class WorkEnd(NamedTuple, Generic[T]):
    """What a work came to."""

    number: int
    result: T
    cost: Cost


class Works(Generic[T]):
    """Works side by side: what those that are not finished ask next, and those that have ended."""

    def __init__(self, works: Iterable[Work[T]]) -> None:
        self._to_begin = enumerate(works)
        self._asking: dict[int, Inquiry[T]] = {}
        self._ended: list[WorkEnd[T]] = []

    def turns(self) -> Iterator[Inquiry[T]]:
        """What is asked now, in the order of the works, whichever of them was ready first. A work begins when it is
        come to."""
        asking, self._asking = self._asking, {}
        yield from (asking[number] for number in sorted(asking))
        for number, work in self._to_begin:
            self._resume(number, work, None, Cost())
            if (turn := self._asking.pop(number, None)) is not None:
                yield turn

    def resume(self, turn: Inquiry[T], replies: Sequence[Reply]) -> None:
        """A work goes on to what it asks next, or to its end."""
        self._resume(turn.number, turn.work, replies, turn.cost.plus(Cost.of(replies)))

    def _resume(self, number: int, work: Work[T], replies: Sequence[Reply] | None, cost: Cost) -> None:
        try:
            asked = work.send(replies)  # type: ignore[arg-type]  # None begins a generator
            self._asking[number] = Inquiry(number, work, asked, cost)
        except StopIteration as end:
            self._ended.append(WorkEnd(number, end.value, cost))

    def ended(self) -> list[WorkEnd[T]]:
        """Those since the last call."""
        ended, self._ended = self._ended, []
        return ended


def together(works: Iterable[Work[T]]) -> Work[list[T]]:
    """All works side by side: each turn asks what all of them ask now. Their results, in order."""
    running = Works(works)
    while turns := list(running.turns()):
        replies = iter((yield [request for turn in turns for request in turn.requests]))
        for turn in turns:
            running.resume(turn, [next(replies) for _ in turn.requests])
    return [one.result for one in sorted(running.ended(), key=lambda one: one.number)]


def drive(
    model: Engine, works: Iterable[Work[T]], finished: Callable[[int], None] | None = None
) -> tuple[list[T], Cost]:
    """The works' results, in order, and what they cost; see `driven`. `finished` gets the number of each work that
    ends, at once."""
    results, cost = dict[int, T](), Cost()
    for number, result, own in driven(model, works):
        results[number], cost = result, cost.plus(own)
        if finished is not None:
            finished(number)
    return [results[number] for number in range(len(results))], cost


def driven(model: Engine, works: Iterable[Work[T]]) -> Iterator[WorkEnd[T]]:
    """The works as they end. Each turn of all works is one stream of the model.

    Works begin as the model reads their requests. A work goes on as soon as its last reply is there; one that asks
    nothing in a turn, after the stream. ModelError where the model does not answer each request once.
    """
    running = Works(works)
    while True:
        idle: list[Inquiry[T]] = []
        requests = _asked(running, idle)
        first = next(requests, None)
        if first is not None:
            yield from _answered(model, running, chain([first], requests))
        for turn in idle:
            running.resume(turn, [])
        yield from running.ended()
        if first is None and not idle:
            return


Question = tuple[Inquiry[T], ChatRequest]


def _asked(running: Works[T], idle: list[Inquiry[T]]) -> Iterator[Question[T]]:
    """What all works ask in this turn; which of them ask nothing."""
    first = 0
    for turn in running.turns():
        turn.first = first
        first += len(turn.requests)
        if not turn.requests:
            idle.append(turn)
        for request in turn.requests:
            yield turn, request
        turn.requests = []  # from here on they are the model's


def _answered(model: Engine, running: Works[T], asked: Iterator[Question[T]]) -> Iterator[WorkEnd[T]]:
    """The works that end with the model's replies in this turn."""
    turns: dict[int, Inquiry[T]] = {}
    """Who waits for the reply to each request."""
    count = 0

    def requests() -> Iterator[ChatRequest]:
        nonlocal count
        for turn, request in asked:
            turns[count] = turn
            count += 1
            yield request

    unread = requests()
    with streaming(model, unread) as replies:
        for number, reply in replies:
            if number not in turns:
                raise ModelError(f"model {model.name}: a reply to request {number}, which waits for none")
            turn = turns.pop(number)
            if turn.whole_with(number, reply):
                running.resume(turn, cast("list[Reply]", turn.replies))
                yield from running.ended()
    deque(unread, maxlen=0)  # what the model did not read has no reply either
    if turns:
        raise ModelError(f"model {model.name}: {count - len(turns)} replies to {count} requests")


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
