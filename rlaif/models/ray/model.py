"""`RayChatModel`: windows of requests, each answered by one of several workers that have all opened the same engine.

Plain actors, not Ray Data: what is asked next depends on replies, and only the driver has both. The driver reads
requests as workers become free, so memory and what is in flight are bounded; a worker that is lost is replaced, and its
window asked again. What a window holds changes no reply, save where the engine itself has windows: then these are sent
whole, and the workers share out the batches that one process would form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from rlaif.config.models import RayModel
from rlaif.errors import ModelError
from rlaif.models.engine import ChatRequest, InLots, Lot
from rlaif.models.ray.cluster import connect, leave
from rlaif.models.ray.crew import TRIES, Crew, Hand, Lost
from rlaif.models.ray.worker import packed, unpacked_replies

PER_SHARD = 8
"""Workers that one shard of pairs keeps busy."""


@dataclass
class Window:
    """Requests that are sent together; or a worker's share of their batches."""

    first: int
    packed: Any
    """Their reference: Ray's store on the driver's machine holds them for as long as this is held."""
    hand: Hand
    """Who has it."""
    stream: Any = None
    """Of the batches of a share."""
    lost: int = 0
    """Workers that were lost with it, one after the other."""


class RayChatModel(InLots):
    """See `Engine`. Name and revision are those of the engine that the workers open."""

    def __init__(self, config: RayModel) -> None:
        self._workers, self._size = config.workers, config.window
        self._ray = connect()
        try:
            self._crew: Crew | None = Crew(self._ray, config)
        except BaseException:
            leave()
            raise
        self.name, self.revision, self.window, _ = self._crew.opened
        self._answered = False
        """Whether any request was: before, what stops one worker would stop all."""

    @property
    def shards(self) -> int:
        """See `InLots`."""
        return 1 if self.window else -(-self._workers // PER_SHARD)

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """A lot is a window, or a batch of an engine that has windows."""
        assert self._crew is not None, "closed"
        waiting = enumerate(requests)
        if self.window is None:
            yield from self._windows(self._crew, waiting)
        while some := list(islice(waiting, self.window)):
            yield from self._batches(self._crew, some[0][0], self._put(some))

    def close(self) -> None:
        """Dismiss the workers; a cluster that was started for them ends."""
        crew, self._crew = self._crew, None
        if crew is not None:
            try:
                crew.close()
            finally:
                leave()

    def _put(self, some: Iterable[tuple[int, ChatRequest]]) -> Any:
        return self._ray.put(packed(request for _, request in some))

    def _windows(self, crew: Crew, waiting: Iterator[tuple[int, ChatRequest]]) -> Iterator[Lot]:
        """As each is answered."""
        asked: dict[Any, Window] = {}
        again: list[Window] = []
        try:
            while True:
                while (hand := crew.free()) is not None:
                    window = again.pop() if again else self._next(waiting, hand)
                    if window is None:
                        break
                    window.hand = hand
                    asked[crew.sent(hand, hand.actor.answer.remote(window.packed))] = window
                if hand is not None and not asked:
                    return
                for one in crew.wait(asked):
                    window = asked.pop(one)
                    if (found := self._found(crew, window, one)) is None:
                        again.append(window)
                    else:
                        yield unpacked_replies(found, window.first)
        finally:
            for one in asked:
                self._ray.cancel(one)

    def _next(self, waiting: Iterator[tuple[int, ChatRequest]], hand: Hand) -> Window | None:
        some = list(islice(waiting, self._size))
        return Window(some[0][0], self._put(some), hand) if some else None

    def _batches(self, crew: Crew, first: int, whole: Any) -> Iterator[Lot]:
        """In the order in which one process makes them, so that those that are kept are always the first."""
        crew.meet()
        shares = [Window(first, whole, hand) for hand in crew.ready]
        for number in count():
            share, found = shares[number % len(shares)], None
            while found is None:
                if share.stream is None:
                    ask = share.hand.actor.share.options(num_returns="streaming")
                    share.stream = ask.remote(whole, number, len(shares))
                    share.hand.has += 1
                if (one := next(share.stream, None)) is None:
                    for each in shares:
                        each.hand.has -= 1
                    return
                if (found := self._found(crew, share, one)) is None:
                    crew.meet()
                    share.stream, share.hand = None, min(crew.ready, key=lambda hand: hand.has)
            yield unpacked_replies(found, first)

    def _found(self, crew: Crew, window: Window, one: Any) -> bytes | None:
        """The replies; None where the worker is lost and its window is to be asked again. What an engine raises once
        there were replies counts as a loss: another may do better."""
        found = crew.outcome(one)
        if isinstance(found, bytes):
            self._answered, window.lost = True, 0
            return found
        if not isinstance(found, ModelError) or not (self._answered or isinstance(found, Lost)):
            raise found
        window.lost += 1
        crew.lose(window.hand)
        if window.lost == TRIES:
            raise ModelError(f"{found} (the last of {TRIES} with the requests from {window.first} on)")
        return None
