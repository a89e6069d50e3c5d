"""`RayChatModel`: several workers that have all opened the same engine. They answer windows of requests, or do whole
work with the engine (`elsewhere`): what is asked next, which depends on replies, is then decided beside the engine, and
the driver has little to do.

Plain actors, not Ray Data, which reads its blocks from a source of its own. The driver reads requests, or items, as
workers become free, so memory and what is in flight are bounded; a worker that is lost is replaced, and what it had is
done again. What a window holds changes no reply, save where the engine itself has windows: then these are sent whole,
and the workers share out the batches that one process would form.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, TypeVar

from rlaif.config.models import RayModel
from rlaif.errors import ModelError
from rlaif.models.engine import ChatRequest, Elsewhere, Engine, InLots, Lot
from rlaif.models.ray.cluster import connect, leave
from rlaif.models.ray.crew import AHEAD, TRIES, Crew, Hand, Lost
from rlaif.models.ray.worker import answered, packed, unpacked_replies

T = TypeVar("T")
R = TypeVar("R")
PER_SHARD = 8
"""Workers that one shard of pairs keeps busy."""
HELD = 4
"""So many times what is under way may wait for something that takes longer."""


@dataclass
class Task:
    """What a worker is given at a time: requests, an item of work, or its share of a window's batches."""

    number: int
    """Of the item, or of the first request."""
    item: Any
    """Its bytes; or a reference to these, which Ray holds for as long as this is held."""
    hand: Hand
    """Who has it."""
    stream: Any = None
    """Of the batches of a share."""
    lost: int = 0
    """Workers that were lost with it, one after the other, and can be blamed on it."""
    suspect: bool = False
    """A worker was lost that had other work too: the next has this alone."""

    @property
    def room(self) -> int:
        """Of what a worker may have at once."""
        return AHEAD if self.suspect else 1


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

    @property
    def elsewhere(self) -> Elsewhere | None:
        """See `InLots`."""
        return None if self.window else Elsewhere(self._each, self._size)

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """A lot is a window, or a batch of an engine that has windows."""
        assert self._crew is not None, "closed"
        waiting = enumerate(requests)
        windows = iter(lambda: list(islice(waiting, self.window or self._size)), [])
        items = ((some[0][0], packed(request for _, request in some)) for some in windows)
        if self.window is not None:
            for first, item in items:
                yield from self._batches(self._crew, first, self._ray.put(item))
            return
        with closing(self._done(self._crew, answered, items)) as done:
            for first, found in done:
                yield unpacked_replies(found, first)

    def _each(self, work: Callable[[Engine, T], R], items: Iterable[T]) -> Iterator[R]:
        assert self._crew is not None, "closed"
        ready: dict[int, R] = {}
        following = 0
        limit = HELD * AHEAD * self._workers
        done = self._done(self._crew, work, enumerate(items), lambda number: number < following + limit)
        with closing(done):
            for number, found in done:
                ready[number] = found
                while following in ready:
                    yield ready.pop(following)
                    following += 1

    def close(self) -> None:
        """Dismiss the workers; a cluster that was started for them ends."""
        crew, self._crew = self._crew, None
        if crew is not None:
            try:
                crew.close()
            finally:
                leave()

    def _done(
        self,
        crew: Crew,
        work: Callable[[Engine, Any], Any],
        items: Iterator[tuple[int, Any]],
        may_begin: Callable[[int], bool] = lambda number: True,
    ) -> Generator[tuple[int, Any]]:
        """What the work makes of each numbered item, as it comes. The next item is read when a worker takes the one
        before, and waits until it may begin."""
        asked: dict[Any, Task] = {}
        again: list[Task] = []
        coming = next(items, None)
        job = pickle.dumps(work, 5)
        try:
            while asked or again or coming is not None:
                while (hand := crew.free(again[-1].room if again else 1)) is not None:
                    if again:
                        task = again.pop()
                        task.hand = hand
                    elif coming is not None and may_begin(coming[0]):
                        task = Task(coming[0], pickle.dumps(coming[1], 5), hand)
                        coming = next(items, None)
                    else:
                        break
                    asked[crew.sent(hand, hand.actor.do.remote(job, task.item), task.room)] = task
                for one in crew.wait(asked):  # nobody may be ready: then for that
                    task = asked.pop(one)
                    if (found := self._found(crew, task, one)) is None:
                        again.append(task)
                    else:
                        yield task.number, pickle.loads(found)
        finally:
            for one in asked:
                self._ray.cancel(one)

    def _batches(self, crew: Crew, first: int, whole: Any) -> Iterator[Lot]:
        """In the order in which one process makes them, so that those that are kept are always the first."""
        crew.meet()
        shares = [Task(first, whole, hand) for hand in crew.ready]
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

    def _found(self, crew: Crew, task: Task, one: Any) -> bytes | None:
        """The replies; None where the worker is lost and its window is to be asked again. What an engine raises once
        there were replies counts as a loss: another may do better."""
        found = crew.outcome(one)
        if isinstance(found, bytes):
            self._answered, task.lost, task.suspect = True, 0, False
            return found
        if not isinstance(found, ModelError) or not (self._answered or isinstance(found, Lost)):
            raise found
        task.lost += task.suspect
        task.suspect = True
        crew.lose(task.hand)
        if task.lost == TRIES:
            raise ModelError(f"{found} (the last of {TRIES} that had nothing but this work)")
        return None
