"""Who may talk to the annotation server, and what its page may do. No framework is imported here.

The server listens on 127.0.0.1, where every program and every web page on this machine can reach it. So:

    token     in the printed address; it becomes a cookie (HttpOnly, SameSite=Strict) and leaves the address bar.
              Kept in the run folder, so that open tabs go on after a restart; delete the file and all are locked out
    Host      must be this server's own name: a foreign name that resolves to 127.0.0.1 (DNS rebinding) is refused
    Origin    of every write must be this page, and a header must repeat a second token that only the page can read
    CSP       no script but the page's own files, no inline script, no text made into markup, nothing from elsewhere
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from rlaif.files import read_file
from rlaif.jsonl import write_atomic

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
CSRF_HEADER = "x-annotate"
COOKIE_S = 30 * 24 * 3600
MAX_BODY = 4 << 20
"""Bytes; far more than anybody types."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
SAFE = {"GET", "HEAD"}


def run_token(path: Path) -> str:
    """The token kept in this file, which only its owner can read; made if there is none."""
    if path.exists():
        known = read_file(path).decode("ascii", "replace").strip()
        os.chmod(path, 0o600)
        if len(known) >= 32 and known.isascii():
            return known
    token = secrets.token_urlsafe(32)
    before = os.umask(0o077)
    try:
        write_atomic(path, token.encode())
    finally:
        os.umask(before)
    return token


def derived(token: str, purpose: str) -> str:
    """A text that only who knows the token can make, and that does not give the token away."""
    return hmac.new(token.encode(), purpose.encode(), hashlib.sha256).hexdigest()[:32]


class Refusal(NamedTuple):
    """Why a request is not served."""

    status: int
    reason: str


TOO_LONG = Refusal(413, f"A body has at most {MAX_BODY} bytes.")
NO_TOKEN = Refusal(
    403,
    "This page opens with the whole address that `rlaif annotate` printed, token included.\n"
    "If you have just opened that address from another page, reload this one.",
)


class AccessGuard:
    """Stands before the application: refuses what may not be served, and puts the headers on every reply."""

    def __init__(self, app: App, token: str, port: int) -> None:
        self._app = app
        self._token = token
        self._csrf = derived(token, "csrf")
        self._cookie = f"rlaif-annotate-{port}"  # cookies do not know ports, and two runs may be open at once
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower().decode() not in HEADERS]
                message = {**message, "headers": [*kept, *ours]}
            await send(message)

        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        if refusal := self._wrong_place(headers):
            await _reply(with_headers, refusal.status, refusal.reason)
        elif self._enters(scope):
            cookie = f"{self._cookie}={self._token}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Strict"
            await _reply(with_headers, 303, "", {"location": "/", "set-cookie": cookie})
        elif refusal := self._refusal(scope["method"], headers):
            await _reply(with_headers, refusal.status, refusal.reason)
        elif (body := await whole_body(receive)) is None:
            await _reply(with_headers, TOO_LONG.status, TOO_LONG.reason)
        else:
            await self._app(scope, replayed(body, receive), with_headers)

    def _wrong_place(self, headers: Iterable[tuple[str, str]]) -> Refusal | None:
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) == 1 and hosts[0] in self._hosts:
            return None
        return Refusal(421, f"This server is http://{sorted(self._hosts)[0]} and answers to no other name.")

    def _enters(self, scope: Scope) -> bool:
        """Whether this is the printed address."""
        if scope["method"] != "GET" or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return len(given) == 1 and same(given[0], self._token)

    def _refusal(self, method: str, headers: list[tuple[str, str]]) -> Refusal | None:
        cookies = (part.strip() for name, value in headers if name == "cookie" for part in value.split(";"))
        named = [part.partition("=")[2] for part in cookies if part.partition("=")[0] == self._cookie]
        if not any(same(value, self._token) for value in named):
            return NO_TOKEN
        if method in SAFE:
            return None
        return self._refused_write(dict(headers)) if method == "POST" else Refusal(405, "Only GET and POST are served.")

    def _refused_write(self, headers: dict[str, str]) -> Refusal | None:
        if headers.get("origin") != f"http://{headers['host']}":
            return Refusal(403, "Only the annotation page itself may write here.")
        if not same(headers.get(CSRF_HEADER, ""), self._csrf):
            return Refusal(403, f"The header {CSRF_HEADER} does not have this page's token; reload the page.")
        size = headers.get("content-length", "0")
        if not size.isdecimal():
            return Refusal(400, "The body's length is no number.")
        return TOO_LONG if len(size) > 18 or int(size) > MAX_BODY else None


async def whole_body(receive: Receive, most: int = MAX_BODY) -> bytes | None:
    """The body as it comes, whatever its headers say of its length; None where it is too long."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":  # the client went away
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """What gives this body, and then whatever else comes."""
    left: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return again


def same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


async def _reply(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = f"{HTTPStatus(status).phrase}. {text}\n".encode() if text else b""
    given = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **(headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
