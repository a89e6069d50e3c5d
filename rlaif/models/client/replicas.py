"""The servers that share the load: which one is asked next, and what one try brings back.

One try, no more: asking again is `model`'s. What a reply means is `wire`'s.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import aiohttp

from rlaif.config.models import ClientModel
from rlaif.errors import ModelError, masker
from rlaif.models.client.endpoint import endpoint_of, key_in
from rlaif.models.wire import BadReply, error_message, model_names, shorten

T = TypeVar("T")

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
MAX_RETRY_AFTER_S = 60.0
CONNECT_TIMEOUT_S = 10.0
AVOID_S = 30.0
"""How long a server that failed is asked last; then one request tries it again."""
PAUSE_S = 0.5
"""How long a server that is too busy for anything is left alone, unless it asks for longer."""
LOOK_AGAIN_S = 0.05
"""How often a request for which no server has room looks again."""
MOST_BYTES = 4 << 20
"""Of a reply, unpacked: some ten times what the longest text with its token ids takes."""
TOO_LARGE = 0
"""In place of the status of a reply that is larger."""
KEEP_ALIVE_S = 4.0
"""How long an idle connection is kept: less than the 5 s after which uvicorn, vLLM's server, closes it."""


class Transient(Exception):
    """A failure that asking again may mend; its text becomes the reply's error."""

    def __init__(self, reason: str, *, unreachable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        """No connection could be made."""
        self.retry_after_s = retry_after_s


@dataclass
class Replica:
    """One server, and how it does."""

    url: str
    proxy: str | None
    in_flight: int = 0
    avoid_until: float = 0.0
    room: float = math.inf
    """How many requests it takes at once: as many as it was serving when it last refused one for being too busy,
    and one more each time that so many were answered."""
    paused_until: float = 0.0
    """Until then it takes none."""

    def failed(self) -> None:
        """Ask it last for a while."""
        self.avoid_until = time.monotonic() + AVOID_S

    def busy(self, pause_s: float) -> None:
        """It refused a request: if it serves others it is full, and may soon say so of more; else it wants a pause."""
        self.room = max(1, self.in_flight)
        self.paused_until = time.monotonic() + (LOOK_AGAIN_S if self.in_flight else pause_s)

    def answered(self) -> None:
        """It is well, and may have room for more."""
        self.avoid_until = 0.0
        self.room += 1 / self.room


class HttpResponse(NamedTuple):
    """What one try brought back, whatever its status."""

    server: Replica
    status: int
    data: bytes

    @property
    def error(self) -> str:
        """The status and the server's own words, on one short line."""
        words = error_message(self.data)
        return words if self.status == TOO_LARGE else f"HTTP {self.status}: {words}"


class Replicas:
    """All servers of one model. `answers` counts what any of them answered, errors included; `most_bytes` a reply may
    have."""

    def __init__(self, config: ClientModel, most_bytes: int = MOST_BYTES) -> None:
        self.answers = 0
        self._most_bytes = most_bytes
        self._servers = [Replica(*endpoint_of(url)) for url in config.base_urls]
        self._timeout_s = config.timeout_s
        self._connect_s = min(CONNECT_TIMEOUT_S, config.timeout_s)
        self._key = key_in(config.api_key_env)
        self._headers = {"Content-Type": "application/json"}
        self.masked: Callable[[bytes], bytes] = masker(self._key) if self._key else bytes
        """A text without our key, which some servers repeat: for whatever becomes a message."""
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"

    def __str__(self) -> str:
        return ", ".join(server.url for server in self._servers)

    def session(self) -> aiohttp.ClientSession:
        """The connections of one call, to be closed by the caller. Their number is not limited: `model` does that."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            # `total` holds for the whole reply: one that trickles in for ever must end too.
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=self._connect_s),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def post(
        self, session: aiohttp.ClientSession, path: str, body: bytes, *, at_root: bool = False, more_bytes: int = 0
    ) -> HttpResponse:
        """POST to the least busy server, those that lately failed last, once one has room. Raises Transient.

        `at_root` is where vLLM keeps what is not OpenAI's. The reply may have so many bytes more than others.
        """
        while (server := self._free()) is None:
            await asyncio.sleep(LOOK_AGAIN_S)  # no try: who asks a busy server only uses up tries
        url = (server.url.removesuffix("/v1") if at_root else server.url) + path
        server.in_flight += 1
        try:
            # A redirected POST would come back as a GET of something else.
            async with session.post(url, data=body, proxy=server.proxy, allow_redirects=False) as answer:
                response = await self._read(server, answer, self._most_bytes + more_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            server.failed()
            raise self._transient(error) from None
        finally:
            server.in_flight -= 1
        self.answers += 1
        if response.status not in TRANSIENT:
            server.answered()
            return response
        wait_s = retry_after_s(answer.headers.get("Retry-After"))
        if response.status == 429 or wait_s is not None:
            server.busy(max(wait_s or 0.0, PAUSE_S))
        else:
            server.failed()
        raise Transient(response.error, retry_after_s=wait_s)

    async def check_model(self, session: aiohttp.ClientSession, server: Replica, name: str) -> None:
        """After a 404: ModelError unless the server says that it has the model. Raises Transient."""
        try:
            async with session.get(f"{server.url}/models", proxy=server.proxy, allow_redirects=False) as answer:
                response = await self._read(server, answer, self._most_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._transient(error) from None
        served = model_names(response.data) if response.status == 200 else []
        if not served:
            raise ModelError(f"{server.url} is not an OpenAI-compatible server: HTTP 404; see base_urls")
        if name not in served:
            shown = self.masked(", ".join(served[:10]).encode(errors="replace")).decode()
            raise ModelError(f"{server.url} has no model {name!r}; it has {shorten(shown)}")

    def parsed(self, data: bytes, parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of a reply; the reason of its BadReply does not repeat our key."""
        try:
            return parse(data)
        except BadReply as bad:
            if (masked := self.masked(data)) != data:
                bad.args = ("the reply is none",)
                try:
                    parse(masked)
                except BadReply as shown:
                    bad.args = shown.args
            raise

    async def _read(self, server: Replica, answer: aiohttp.ClientResponse, most_bytes: int) -> HttpResponse:
        """The whole reply, unpacked as it comes; of one that is too large no more than the limit is ever here.

        Raises what aiohttp raises.
        """
        data = bytearray()
        async for part in answer.content.iter_any():
            data += part
            if len(data) > most_bytes:
                answer.close()
                reason = f"the reply is larger than {most_bytes >> 20} MiB (HTTP {answer.status})"
                return HttpResponse(server, TOO_LARGE, reason.encode())
        found = bytes(data)
        return HttpResponse(server, answer.status, found if answer.status == 200 else self.masked(found))

    def all_avoided(self) -> bool:
        """Whether every server lately failed to answer."""
        now = time.monotonic()
        return all(now < server.avoid_until for server in self._servers)

    def _free(self) -> Replica | None:
        """The server to be asked next; None while those that are well are busy."""
        now = time.monotonic()
        well = [server for server in self._servers if now >= server.avoid_until] or self._servers
        free = [server for server in well if now >= server.paused_until and server.in_flight < server.room]
        if not free:
            return None
        server = min(free, key=lambda one: one.in_flight)
        if server.avoid_until:
            server.failed()  # until this one has its answer the others keep away
        return server

    def _transient(self, error: Exception) -> Transient:
        unreachable = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        return Transient(self._reason(error), unreachable=unreachable)

    def _reason(self, error: Exception) -> str:
        match error:
            case aiohttp.ConnectionTimeoutError():
                return f"no connection within {self._connect_s:g} s"
            case asyncio.TimeoutError():
                return f"no reply within {self._timeout_s:g} s"
            case aiohttp.ClientConnectorError():
                number = error.os_error.errno
                return os.strerror(number) if number and number > 0 else str(error)
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                return "the server hung up"
            case aiohttp.ClientPayloadError():
                packed = "content-encoding" in str(error)
                return "the reply cannot be unpacked" if packed else "the server hung up in the middle of its reply"
        # The text of a ClientResponseError names the proxy, password and all.
        words = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        # What is no HTTP is quoted after what is wrong with it, and may be an echo of our headers.
        words = re.split(r":\s*(?:b['\"]|\n)", words, maxsplit=1)[0]
        words = self.masked(words.encode(errors="replace")).decode()
        return shorten(f"{type(error).__name__}: {words}".removesuffix(": "))


def encode(body: dict[str, Any]) -> bytes:
    """The body of a request."""
    return json.dumps(body, ensure_ascii=False).encode()


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a Retry-After header (seconds or a date) asks to wait, at most a minute; None for another text."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
