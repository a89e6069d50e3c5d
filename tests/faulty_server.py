"""A server in this process that fails as real ones do, by a schedule; what it answers depends on the question alone.

`schedule(content, nth)` names the fault (see FAULTS) that meets the nth try, counted from 1, of the question with
this text, or None. Unlike `fake_server` it can be killed, come back on its port, and keep a reply from ever ending.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Thread
from typing import Any

from rlaif.records import derive_seed
from tests.vocabulary import tokenized

Schedule = Callable[[str, int], str | None]
Good = Callable[[int], dict[str, Any]]
"""What a server without faults answers the nth time."""

PASSING = ("refuse", "hang", "busy", "error", "truncated", "cut", "trickle", "die")
"""Faults that another try may not meet: hangs up; never answers; 429; 500; half of the JSON; a connection that breaks
in the middle; bytes that never end; the whole server gone for a moment."""
LASTING = {
    "empty": "no choices",
    "no_logprobs": "no log-probabilities",
    "not_found": "HTTP 404: no such adapter",
}
"""Faults that another try would meet again, and the reason to be given."""
FAULTS = (*PASSING, *LASTING)
GONE_S = 0.03
"""How long a server that died stays away."""
TOKENS = {"A": 49, "B": 50, "<end>": 2}


def seeded(seed: int, share: float, faults: Sequence[str] = FAULTS, deaths: int = 2) -> Schedule:
    """This share of all tries meets a fault drawn from these; the server dies no more often than `deaths`."""
    died: list[str] = []

    def schedule(content: str, nth: int) -> str | None:
        rng = random.Random(derive_seed(seed, content, nth))
        if rng.random() >= share:
            return None
        fault = rng.choice(faults)
        if fault == "die":
            died.append(content)
            return fault if len(died) <= deaths else "refuse"
        return fault

    return schedule


class FaultyServer:
    """Use `faulty_server`. All that is public may be read from other threads."""

    def __init__(self, schedule: Schedule, delay_s: float, wavering: bool, lifetime: int | None) -> None:
        self.asked: Counter[str] = Counter()
        """How often each question came, whatever it met."""
        self.answered = 0
        """How many answers were sent whole."""
        self.met: Counter[str] = Counter()
        """How often each fault was met."""
        self.on_request: Callable[[], None] = lambda: None
        self._schedule, self._delay_s, self._wavering, self._lifetime = schedule, delay_s, wavering, lifetime
        self._loop = asyncio.new_event_loop()
        self._address = ("127.0.0.1", 0)
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._address[1]}/v1"

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Do it in the server's thread after so many seconds."""
        self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, work)

    # ------------------------------------------------------------------------------------- life and death

    async def _open(self) -> None:
        listening = socket.create_server(self._address, backlog=256)
        self._address = listening.getsockname()
        self._listener = await asyncio.start_server(self._accept, sock=listening)

    def _die(self) -> None:
        if self._listener is not None:
            # Those that are being accepted just now would be left open by a listener that is closed before them.
            self._loop.remove_reader(self._listener.sockets[0].fileno())
            self._loop.call_soon(self._listener.close)
            self._listener = None
        for connection in self._connections:
            connection.transport.abort()

    def _go_away_for_a_moment(self) -> None:
        if self._listener is not None:
            self._die()
            self._loop.call_later(GONE_S, lambda: self._spawn(self._open()))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _close(self) -> None:
        self._die()
        await asyncio.sleep(0)
        # Also those that are being accepted just now, which make tasks of their own before they are ours.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    # ------------------------------------------------------------------------------------------- requests

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._listener is None:
            writer.transport.abort()
            return
        self._connections.add(writer)
        self._spawn(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    await writer.drain()
        finally:
            writer.close()
            self._connections.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        lengths = [line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length")]
        body = json.loads(await reader.readexactly(int(lengths[0])) if lengths else b"{}")
        if " /tokenize" in head:
            writer.write(whole(200, tokenized(body, TOKENS)))
        elif " /v1/models" in head:
            writer.write(whole(200, {"data": [{"id": "judge"}]}))
        elif " /inference/" in head:
            writer.write(whole(404, {"detail": "Not Found"}))
        elif " /v1/completions" in head:
            return await self._judge(question(body["prompt"]), partial(likelihood, body["prompt"]), reader, writer)
        else:
            content = body["messages"][-1]["content"]
            return await self._judge(content, partial(verdict, content), reader, writer)
        return True

    async def _judge(
        self, content: str, good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self.asked[content] += 1
        self.on_request()
        fault = self._schedule(content, self.asked[content])
        if fault is None:
            await asyncio.sleep(self._delay_s)
            if self._listener is None:
                return False  # dead by now
            writer.write(whole(200, good(self.asked[content] if self._wavering else 0)))
            self.answered += 1
            if self.answered == self._lifetime:
                self._die()
            return True
        self.met[fault] += 1
        return await self._fail(fault, json.dumps(good(0)).encode(), reader, writer)

    async def _fail(self, fault: str, good: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        answers = {
            "busy": whole(429, {"error": {"message": "slow down"}}, "Retry-After: 0.01\r\n"),
            "error": whole(500, {"error": {"message": "oops"}}),
            "truncated": whole(200, good[: len(good) // 2]),
            "empty": whole(200, {"choices": []}),
            "no_logprobs": whole(200, {"choices": [{"message": {"content": "A"}, "text": "A"}]}),
            "not_found": whole(404, {"error": {"message": "no such adapter"}}),
        }
        if fault in answers:
            writer.write(answers[fault])
            return True
        if fault == "cut":
            writer.write(whole(200, good)[:-20])
        elif fault == "die":
            self._go_away_for_a_moment()
        elif fault == "hang":
            await reader.read()  # until the client has had enough
        elif fault == "trickle":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not reader.at_eof():
                writer.write(b"1\r\n \r\n")
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.02)
        return False


@contextmanager
def faulty_server(
    schedule: Schedule = lambda _content, _nth: None,
    *,
    delay_s: float = 0.0,
    wavering: bool = False,
    lifetime: int | None = None,
) -> Iterator[FaultyServer]:
    """Serve until the block ends. `wavering`: the same question gets another answer each time. `lifetime`: answers
    after which the server is gone for good."""
    server = FaultyServer(schedule, delay_s, wavering, lifetime)
    thread = Thread(target=server._loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server._open(), server._loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server._close(), server._loop).result()
        server._loop.call_soon_threadsafe(server._loop.stop)
        thread.join()
        server._loop.close()


def verdict(content: str, nth: int = 0) -> dict[str, Any]:
    """A label's log-probabilities as vLLM writes them, made from the question's text."""
    p = 0.01 + 0.98 * int(hashlib.sha256(f"{nth} {content}".encode()).hexdigest()[:8], 16) / 16**8
    top = [{"token": f"token_id:{TOKENS['A']}", "logprob": math.log(p)}]
    top += [{"token": f"token_id:{TOKENS['B']}", "logprob": math.log(1 - p)}]
    choice = {"message": {"content": "A"}, "finish_reason": "length", "logprobs": {"content": [{"top_logprobs": top}]}}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}


def question(row: Sequence[int]) -> str:
    """The user's text in a row of tokens, as `tokenized` makes them."""
    text = "".join(chr(token - 1000) for token in row if token > 1000)
    return text.rpartition("<user>")[2].partition("<assistant>")[0]


def likelihood(row: Sequence[int], nth: int = 0) -> dict[str, Any]:
    """The log-probabilities of a row's tokens as vLLM writes them, made from the row."""
    sha, told = hashlib.sha256(f"{nth}".encode()), list[Any]()
    for token in row:
        sha.update(b" %d" % token)
        told.append({str(token): {"logprob": -sha.digest()[0] / 32, "rank": 1}})
    return {"choices": [{"index": 0, "prompt_logprobs": [None, *told[1:]]}], "usage": {"prompt_tokens": len(row)}}


def whole(status: int, body: Any, headers: str = "") -> bytes:
    """A complete HTTP answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data
