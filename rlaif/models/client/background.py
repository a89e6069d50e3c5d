"""An event loop in a thread of its own, fed by whoever reads what comes out of it; and what tasks in a loop share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

import aiohttp

A = TypeVar("A")
B = TypeVar("B")
Serve = Callable[["asyncio.Queue[A | None]", Callable[[B], None]], Coroutine[Any, Any, None]]
"""Takes items from the queue up to None, and hands on a result for each, in whatever order."""
CHUNK = 64
"""Items that are read before the loop hears of them."""
REMEMBERED = 4096
"""Things found out that are kept."""


def in_background(serve: Serve[A, B], items: Iterable[A], most: int) -> Iterator[list[B]]:
    """What `serve` makes of the items, what came together in one list.

    Items are read in the caller's thread, at most `most` ahead of the results. What `serve` raises comes after the
    results that it had handed on. Closed early, this cancels `serve` and waits for its end.
    """
    loop = _Background(serve)
    waiting, ahead, over = iter(items), 0, False
    try:
        while not loop.ended:
            if not over and ahead < most:
                room = min(CHUNK, most - ahead)
                fresh: list[A | None] = list(islice(waiting, room))
                ahead += len(fresh)
                over = len(fresh) < room
                loop.put([*fresh, None] if over else fresh)
            if lot := loop.results(wait=over or ahead >= most):
                ahead -= len(lot)
                yield lot
    finally:
        loop.stop()
    if loop.failure is not None:
        raise loop.failure


class _Background(Generic[A, B]):
    """The loop and its thread, from construction to `stop`."""

    def __init__(self, serve: Serve[A, B]) -> None:
        self.ended = False
        """Whether all results have been read."""
        self.failure: BaseException | None = None
        self._serve = serve
        self._arrived: SimpleQueue[B | None] = SimpleQueue()
        self._todo: asyncio.Queue[A | None] = asyncio.Queue()
        self._began: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
        # A daemon: a stream that nobody closed must not keep the interpreter from ending.
        self._thread = Thread(target=self._run, name="rlaif client", daemon=True)
        self._thread.start()
        self._loop, self._task = self._began.result()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # whatever it is, the reader raises it
            if not self._began.done():  # there is no loop: no file descriptor is left
                self._began.set_exception(error)
            self.failure = error
        self._arrived.put(None)

    async def _main(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._began.set_result((asyncio.get_running_loop(), task))
        await self._serve(self._todo, self._arrived.put)

    def put(self, items: list[A | None]) -> None:
        """To the queue of `serve`."""

        def put() -> None:
            for item in items:
                self._todo.put_nowait(item)

        self._call(put)

    def results(self, *, wait: bool) -> list[B]:
        """All that there are, at least one (or the end) if it may wait."""
        found = [self._arrived.get()] if wait else []
        with suppress(Empty):
            while True:
                found.append(self._arrived.get_nowait())
        self.ended = None in found
        return [result for result in found if result is not None]

    def stop(self) -> None:
        """Twice does no harm."""
        self._call(self._task.cancel)
        self._thread.join()

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended; `results` says so
            self._loop.call_soon_threadsafe(function)


class Lookups:
    """The last few things that were found out, each once for all who want it while it is being found out."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    async def of(self, key: Hashable, find: Callable[[], Awaitable[Any]]) -> Any:
        """What `find` found for this key, perhaps before. A failure is met by all who wait; later ones find anew."""
        if key not in self._tasks:
            if len(self._tasks) >= REMEMBERED:
                del self._tasks[next(iter(self._tasks))]
            task = self._tasks[key] = asyncio.ensure_future(find())
            task.add_done_callback(partial(self._drop_failed, key))
        return await asyncio.shield(self._tasks[key])

    def _drop_failed(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._tasks.get(key) is task:
            del self._tasks[key]


@dataclass(frozen=True)
class Call:
    """What the tasks of one stream share: a model may be in several streams, each in a loop of its own."""

    session: aiohttp.ClientSession
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the first request has met the server, so that the others may."""
    lookups: Lookups = field(default_factory=Lookups)
