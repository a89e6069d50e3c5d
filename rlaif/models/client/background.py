"""An event loop in a thread of its own, fed by whoever reads what comes out of it; and what tasks in a loop share.

A client has one loop for all its streams: a service asks for one reply at a time, and to begin a thread and a loop for
each takes longer than many a server does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread, current_thread
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


class Loop:
    """The loop of one client, from its first stream to `close`, or until nobody holds the client any more."""

    def __init__(self) -> None:
        self._changing = Lock()
        self._process = 0
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event

    @property
    def mine(self) -> bool:
        """Whether this is its own thread, which must not wait for itself."""
        return self._thread is current_thread()

    def call(self, function: Callable[[asyncio.AbstractEventLoop], object]) -> asyncio.AbstractEventLoop:
        """Call it in the loop, which is begun where there is none: a process that was forked has none of its parent's.

        OSError where none can be made.
        """
        with self._changing:
            if self._thread is None or self._process != os.getpid() or not self._thread.is_alive():
                self._begin()
            self._loop.call_soon_threadsafe(function, self._loop)
            return self._loop

    def close(self) -> None:
        """Cancel what is under way and end. Twice does no harm, and the next call begins another."""
        with self._changing:
            thread, self._thread = self._thread, None
        if thread is None or self._process != os.getpid():
            return
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._over.set)
        if thread is not current_thread():
            thread.join()

    def _begin(self) -> None:
        began: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon: a client that nobody closed must not keep the interpreter from ending.
        thread = Thread(target=_run, args=(began,), name="rlaif client", daemon=True)
        thread.start()
        self._loop, self._over = began.result()
        self._thread, self._process = thread, os.getpid()


def _run(began: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    """A loop until its event is set."""

    async def main() -> None:
        over = asyncio.Event()
        began.set_result((asyncio.get_running_loop(), over))
        await over.wait()

    try:
        asyncio.run(main())
    except BaseException as error:  # there is no loop: no file descriptor is left
        if began.done():
            raise
        began.set_exception(error)


def in_background(loop: Loop, serve: Serve[A, B], items: Iterable[A], most: int) -> Iterator[list[B]]:
    """What `serve`, in this loop, makes of the items, what came together in one list.

    Items are read in the caller's thread, at most `most` ahead of the results. What `serve` raises comes after the
    results that it had handed on. Closed early, this cancels `serve` and waits for its end.
    """
    work = _Background(loop, serve)
    waiting, ahead, over = iter(items), 0, False
    try:
        while not work.ended:
            if not over and ahead < most:
                room = min(CHUNK, most - ahead)
                fresh: list[A | None] = list(islice(waiting, room))
                ahead += len(fresh)
                over = len(fresh) < room
                work.put([*fresh, None] if over else fresh)
            if lot := work.results(wait=over or ahead >= most):
                ahead -= len(lot)
                yield lot
    finally:
        work.stop()
    if work.failure is not None:
        raise work.failure


class _Background(Generic[A, B]):
    """`serve` as a task of the loop, from construction to `stop`."""

    def __init__(self, loop: Loop, serve: Serve[A, B]) -> None:
        self.ended = False
        """Whether all results have been read."""
        self.failure: BaseException | None = None
        self._loop = loop
        self._arrived: SimpleQueue[B | None] = SimpleQueue()
        self._todo: asyncio.Queue[A | None] = asyncio.Queue()
        self._done = Event()

        def begin(running: asyncio.AbstractEventLoop) -> None:
            self._task = running.create_task(serve(self._todo, self._arrived.put))
            self._task.add_done_callback(self._end)

        self._running = loop.call(begin)

    def _end(self, task: asyncio.Task[None]) -> None:
        """Whatever it raised, the reader raises it. Who was cancelled has fewer results than items."""
        self.failure = None if task.cancelled() else task.exception()
        self._arrived.put(None)
        self._done.set()

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
        self._call(lambda: self._task.cancel())  # noqa: PLW0108 (the task is there once the loop has come to it)
        if not self._loop.mine:
            self._done.wait()

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended; `results` says so
            self._running.call_soon_threadsafe(function)


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
    """What the tasks of one stream share: a model may be in several streams at once."""

    session: aiohttp.ClientSession
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the first request has met the server, so that the others may."""
    lookups: Lookups = field(default_factory=Lookups)
