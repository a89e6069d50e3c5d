"""Work that asks: a generator that yields requests, is sent their replies in the same order, and returns its result.

A mode of judging is such a work for one unit (a pair, a prompt, a response). `together` makes one work of many,
`drive` runs works against a model. Neither knows what is asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

from rlaif.errors import ModelError
from rlaif.feedback.judge.result import Cost
from rlaif.models.chat import ChatModel, ChatRequest, Reply

T = TypeVar("T")
Work = Generator[list[ChatRequest], Sequence[Reply], T]


def together(works: Iterable[Work[T]]) -> Work[list[T]]:
    """All works side by side: each turn asks what all of them ask now. Their results, in order."""
    running = _Running(works)
    while running.asking:
        turn = running.turn()
        replies = iter((yield [request for requests in turn.values() for request in requests]))
        for number, requests in turn.items():
            running.resume(number, [next(replies) for _ in requests])
    return running.in_order()


def drive(
    model: ChatModel, works: Iterable[Work[T]], finished: Callable[[int], None] | None = None
) -> tuple[list[T], Cost]:
    """The works' results, in order, and what they cost. Each turn is one call of the model.

    A work goes on as soon as its last reply is there; one that asks nothing in a turn, after the call. `finished` gets
    the number of each work that ends, at once.
    """
    running, cost = _Running(works, finished), Cost()
    while running.asking:
        cost = cost.plus(_call(model, running))
    return running.in_order(), cost


def _call(model: ChatModel, running: _Running[T]) -> Cost:
    turn = running.turn()
    places = [(number, place) for number, requests in turn.items() for place in range(len(requests))]
    arrived: dict[int, dict[int, Reply]] = {number: {} for number in turn}

    def on_replies(lot: Sequence[tuple[int, Reply]]) -> None:
        for index, reply in lot:
            number, place = places[index]
            if number not in arrived:
                continue
            arrived[number][place] = reply
            if len(arrived[number]) == len(turn[number]):
                own = arrived.pop(number)
                running.resume(number, [own[place] for place in range(len(own))])

    requests = [request for own in turn.values() for request in own]
    replies = list(model.chat(requests, on_replies) or ()) if requests else []
    if len(replies) != len(requests):
        raise ModelError(f"model {model.name}: {len(replies)} replies to {len(requests)} requests")
    on_replies(list(enumerate(replies)))  # what an engine did not hand on as it came
    for number in [number for number, own in turn.items() if not own]:
        running.resume(number, [])
    return Cost.of(replies)


class _Running(list[Work[T]]):
    """Works that have begun, what those that are not finished ask next, and the results of the others."""

    def __init__(self, works: Iterable[Work[T]], finished: Callable[[int], None] | None = None) -> None:
        super().__init__(works)
        self.asking: dict[int, list[ChatRequest]] = {}
        self._results: dict[int, T] = {}
        self._finished = finished
        for number in range(len(self)):
            self.resume(number, None)

    def resume(self, number: int, replies: Sequence[Reply] | None) -> None:
        """To what it asks next, or to its end."""
        try:
            self.asking[number] = self[number].send(replies)  # type: ignore[arg-type]  # None begins a generator
        except StopIteration as end:
            self._results[number] = end.value
            if self._finished is not None:
                self._finished(number)

    def turn(self) -> dict[int, list[ChatRequest]]:
        """What is asked now, in the order of the works, whichever of them was ready first."""
        turn, self.asking = dict(sorted(self.asking.items())), {}
        return turn

    def in_order(self) -> list[T]:
        return [self._results[number] for number in range(len(self))]


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
