"""What is in flight is worked on together: trainers send one sample per call, and a model reads a batch as fast.

Nobody waits for a batch to fill: a worker that is free takes all that waits. While it works, the next batch gathers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from rlaif.errors import ModelError, RlaifError

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class QueueFull(RlaifError, RuntimeError):
    """More is asked than may wait."""


class Waiting(NamedTuple, Generic[Asked, Answered]):
    """One item, and where its answer goes."""

    item: Asked
    answer: asyncio.Future[Answered]


class Batcher(Generic[Asked, Answered]):
    """Answers items by `work`, which is given up to `largest` of them and answers each, in a thread.

    `workers` batches are in work at once: one for a model in this process, many for a server that batches itself. At
    most `waiting` items wait. All but the threads happens on one event loop.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Asked]], Sequence[Answered]],
        workers: int = 1,
        largest: int = 256,
        waiting: int = 4096,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`seen` is told the size of each batch."""
        self._work, self._seen = work, seen
        self._workers, self._largest, self._most = workers, largest, waiting
        self._waiting: deque[Waiting[Asked, Answered]] = deque()
        self._busy: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(workers, "batch")

    @property
    def waiting(self) -> int:
        """Items that no worker has taken."""
        return len(self._waiting)

    async def ask(self, items: Sequence[Asked]) -> list[Answered]:
        """The items' answers, in order. QueueFull, and nothing is begun, where too many wait; what the work raises,
        where it could not be done at all. An item whose asker has gone is not begun."""
        if items and len(self._waiting) + len(items) > max(self._most, len(items) if not self._waiting else 0):
            raise QueueFull(f"{len(self._waiting)} items wait already, and at most {self._most} may; ask again later")
        loop = asyncio.get_running_loop()
        asked = [Waiting(item, loop.create_future()) for item in items]
        self._waiting.extend(asked)
        self._begin()
        answers = asyncio.gather(*(one.answer for one in asked))
        return list(await answers)

    def close(self) -> None:
        """Begin nothing more. What is in work ends by itself."""
        for one in self._waiting:
            one.answer.cancel()
        self._waiting.clear()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        while self._waiting and len(self._busy) < self._workers:
            batch: list[Waiting[Asked, Answered]] = []
            while self._waiting and len(batch) < self._largest:
                one = self._waiting.popleft()
                if not one.answer.done():
                    batch.append(one)
            if batch:
                task = asyncio.create_task(self._answer(batch))
                self._busy.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._begin()

    async def _answer(self, batch: Sequence[Waiting[Asked, Answered]]) -> None:
        self._seen(len(batch))
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, self._work, [one.item for one in batch])
            answers: list[Answered | Exception] = list(found)
        except ModelError as error:  # the model, not an item
            answers = [error] * len(batch)
        except Exception as error:
            if len(batch) > 1:  # one item may be at fault, and costs no other its answer
                for one in batch:
                    await self._answer([one])
                return
            answers = [error]
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)
