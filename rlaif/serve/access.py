"""Who may ask the service, and how much at once. No framework is imported here.

It listens on 127.0.0.1 unless told otherwise, where every program and every web page on this machine can reach it. So:

    token     where there is one: `Authorization: Bearer TOKEN`, or `/key/TOKEN/...` before the path, for trainers that
              are given a URL and nothing else. Any other address than the loopback needs one
    Host      without a token: must be this machine's own name (DNS rebinding)
    Origin    a request that a browser sends for a page is refused: no page has business here
    body      has at most so many bytes, whatever its headers say
    gone      where the client leaves, its question is dropped if nobody works on it yet
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, NamedTuple

from rlaif.annotate.guard import App, Receive, Refusal, Scope, Send, replayed, same, whole_body

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LARGEST_BODY = 32 << 20
OPEN = ("/health",)
"""What needs no token: who starts services asks it."""
NO_TOKEN = Refusal(401, "needs the service's token: `Authorization: Bearer TOKEN`, or /key/TOKEN before the path")
A_PAGE = Refusal(403, "a web page sent this; the service answers programs only")


class Access(NamedTuple):
    """Who may ask."""

    token: str | None = None
    largest_body: int = LARGEST_BODY


class ServiceGuard:
    """Stands before the application."""

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        scope, named = _without_key(scope)
        if refusal := self._refusal(str(scope["path"]), headers, named):
            await refuse(send, refusal)
            return
        body = await whole_body(receive, self._access.largest_body)
        if body is None:
            await refuse(send, Refusal(413, f"a body has at most {self._access.largest_body} bytes"))
            return
        await _unless_gone(self._app, scope, replayed(body, receive), receive, send)

    def _refusal(self, path: str, headers: list[tuple[str, str]], named: str) -> Refusal | None:
        said = dict(headers)
        if "origin" in said or said.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return A_PAGE
        token = self._access.token
        if token is None:
            return self._foreign(headers)
        scheme, _, given = said.get("authorization", "").partition(" ")
        known = same(named, token) or (scheme.lower() == "bearer" and same(given.strip(), token))
        return None if known or path in OPEN else NO_TOKEN

    def _foreign(self, headers: Iterable[tuple[str, str]]) -> Refusal | None:
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) == 1 and re.sub(r":\d+\Z", "", hosts[0]) in LOOPBACK:
            return None
        return Refusal(421, "this service answers to 127.0.0.1 and localhost alone")


def _without_key(scope: Scope) -> tuple[Scope, str]:
    """The request without `/key/TOKEN`, and the token."""
    path = str(scope["path"])
    if not path.startswith("/key/"):
        return scope, ""
    token, _, rest = path.removeprefix("/key/").partition("/")
    return {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}, token


async def _unless_gone(app: App, scope: Scope, again: Receive, receive: Receive, send: Send) -> None:
    """The application's reply; where the client leaves before it, the application is cancelled."""
    began = False

    async def telling(message: MutableMapping[str, Any]) -> None:
        nonlocal began
        began = True
        await send(message)

    async def leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    work, gone = asyncio.ensure_future(app(scope, again, telling)), asyncio.ensure_future(leaves())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not began:
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        gone.cancel()
        work.cancel()


async def refuse(send: Send, refusal: Refusal) -> None:
    """Say why, as JSON."""
    body = json.dumps({"error": {"message": refusal.reason, "type": HTTPStatus(refusal.status).phrase}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
