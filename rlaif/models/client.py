"""A model behind one or several OpenAI-compatible servers: many requests in flight, bounded retries.

The bytes are `wire`'s; starting a server is `server`'s. A request that the server refuses or that keeps
failing gives a Reply with `error`; only what makes every request fail (no server, no such model) raises.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import tenacity
from tenacity import wait_exponential, wait_random
from tenacity.wait import wait_base

from rlaif.config.sections import ClientModel
from rlaif.errors import ConfigError, ModelError
from rlaif.models.chat import ChatRequest, OnReplies, Reply
from rlaif.models.wire import BadReply, error_message, model_names, parse_reply, request_body, token_ids

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
MAX_RETRY_AFTER_S = 60.0
CONNECT_TIMEOUT_S = 10.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
AVOID_S = 30.0
"""How long a server that failed to answer is asked last."""

T = TypeVar("T")


class _Transient(Exception):
    """A failure that asking again may mend; its text becomes the reply's error."""

    def __init__(self, reason: str, *, unreachable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        self.retry_after_s = retry_after_s


@dataclass
class _Server:
    url: str
    in_flight: int = 0
    avoid_until: float = 0.0

    @property
    def root(self) -> str:
        """Where vLLM keeps what is not OpenAI's."""
        return self.url.removesuffix("/v1")


class HttpChatModel:
    """The client. `backoff` is the wait between tries where the server does not name one."""

    def __init__(self, config: ClientModel, backoff: wait_base | None = None) -> None:
        self.name = config.model
        self.revision = config.revision or "unknown"
        self._config = config
        self._backoff = backoff or wait_exponential(multiplier=0.5, max=30) + wait_random(0, 1)
        self._servers = [_Server(_checked_url(url)) for url in config.base_urls]
        self._headers = _authorization(config.api_key_env)
        self._label_ids: dict[str, int | None] = {}
        self._answers = 0

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        """Answer all, `concurrency` at a time; `on_replies` gets each reply as it arrives."""
        return _run(self._chat(requests, on_replies)) if requests else []

    def close(self) -> None:
        """Nothing is kept open between calls."""

    # ------------------------------------------------------------------------------------------ one call

    async def _chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None) -> list[Reply]:
        replies: dict[int, Reply] = {}
        waiting = iter(enumerate(requests))

        async def work(client: httpx.AsyncClient) -> None:
            for index, request in waiting:  # shared by all workers: whoever is free takes the next
                replies[index] = await self._answer(client, request)
                if on_replies is not None:
                    on_replies([(index, replies[index])])

        seconds, workers = self._config.timeout_s, min(self._config.concurrency, len(requests))
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT_S, seconds), pool=None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=workers)
        async with httpx.AsyncClient(
            headers=self._headers, timeout=timeout, limits=limits, trust_env=not self._all_here()
        ) as client:
            for label in sorted({label for request in requests for label in request.labels}):
                if label not in self._label_ids:
                    self._label_ids[label] = await self._find_label(client, label)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(workers):
                        group.create_task(work(client))
            except BaseExceptionGroup as failures:
                # One cause stops the call; what its neighbours met while being stopped is not news.
                raise failures.exceptions[0] from None
        return [replies[index] for index in range(len(requests))]

    async def _answer(self, client: httpx.AsyncClient, request: ChatRequest) -> Reply:
        """One request with its retries. Raises ModelError where no server is there, or none has the model."""
        label_ids = self._ids_of(request.labels)
        body = request_body(request, self.name, label_ids, self._config.extra_body)
        answers_before = self._answers

        async def once() -> Reply:
            server, response = await self._post(client, "/chat/completions", body)
            if response.status_code == 404:
                await self._check_model(client, server)
            if response.status_code != 200:
                return Reply(error=_http_error(response))
            try:
                return parse_reply(response.content, request, label_ids)
            except BadReply as bad:
                if bad.whole:
                    return Reply(error=str(bad))
                raise _Transient(str(bad)) from None

        try:
            return await self._retry(once)
        except _Transient as failure:
            # Not this request's fault when nobody else had an answer either while it was tried.
            if failure.unreachable and self._answers == answers_before and self._all_avoided():
                raise ModelError(f"cannot reach {self._urls()} ({self._tries()}): {failure}") from None
            return Reply(error=f"failed after {self._tries()}: {failure}")

    # ------------------------------------------------------------------------------- labels and model names

    async def _find_label(self, client: httpx.AsyncClient, label: str) -> int | None:
        """The label's token id by vLLM's /tokenize; None where the server has no such thing."""
        body = {"model": self.name, "prompt": label, "add_special_tokens": False}
        try:
            _, response = await self._retry(lambda: self._post(client, "/tokenize", body, at_root=True))
        except _Transient as failure:
            raise ModelError(f"cannot reach {self._urls()} ({self._tries()}): {failure}") from None
        tokens = token_ids(response.content) if response.status_code == 200 else []
        if len(tokens) > 1:
            raise ModelError(f"label {label!r} is {len(tokens)} tokens of {self.name}; it must be one")
        return tokens[0] if tokens else None

    def _ids_of(self, labels: Sequence[str]) -> dict[str, int] | None:
        """Token ids of all labels, or None where any is unknown."""
        ids = {label: found for label in labels if (found := self._label_ids[label]) is not None}
        return ids if len(ids) == len(labels) else None

    async def _check_model(self, client: httpx.AsyncClient, server: _Server) -> None:
        """After a 404: raise ModelError unless the server says that it has the model."""
        response = await client.get(f"{server.url}/models")
        served = model_names(response.content) if response.status_code == 200 else []
        if not served:
            raise ModelError(f"{server.url} is not an OpenAI-compatible server: HTTP 404; see base_urls")
        if self.name not in served:
            names = ", ".join(served[:10])
            raise ModelError(f"{server.url} has no model {self.name!r}; it has {names}")

    # ---------------------------------------------------------------------------------- tries and servers

    async def _post(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any], *, at_root: bool = False
    ) -> tuple[_Server, httpx.Response]:
        """POST to the least busy server, those lately unreachable last. Raises _Transient."""
        now = time.monotonic()
        server = min(self._servers, key=lambda one: (now < one.avoid_until, one.in_flight))
        server.in_flight += 1
        try:
            response = await client.post((server.root if at_root else server.url) + path, json=body)
        except httpx.RequestError as error:
            server.avoid_until = time.monotonic() + AVOID_S
            unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise _Transient(self._reason(error), unreachable=unreachable) from None
        finally:
            server.in_flight -= 1
        self._answers += 1
        server.avoid_until = 0.0
        if response.status_code in TRANSIENT:
            raise _Transient(_http_error(response), retry_after_s=_retry_after(response))
        return server, response

    async def _retry(self, once: Callable[[], Awaitable[T]]) -> T:
        tries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            stop=tenacity.stop_after_attempt(self._config.max_tries),
            wait=self._wait,
            reraise=True,
        )

        async def attempt() -> T:  # tenacity awaits coroutine functions only, and `once` may be a lambda
            return await once()

        return await tries(attempt)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, _Transient) and failure.retry_after_s is not None:
            return failure.retry_after_s
        return self._backoff(state)

    def _reason(self, error: httpx.RequestError) -> str:
        if isinstance(error, httpx.ReadTimeout):
            return f"no reply within {self._config.timeout_s:g} s"
        return f"{type(error).__name__}: {error}".removesuffix(": ")

    def _all_avoided(self) -> bool:
        now = time.monotonic()
        return all(now < server.avoid_until for server in self._servers)

    def _all_here(self) -> bool:
        """Whether all servers are on this machine, where no proxy from the environment may come between."""
        return all(httpx.URL(server.url).host in LOOPBACK for server in self._servers)

    def _urls(self) -> str:
        return ", ".join(server.url for server in self._servers)

    def _tries(self) -> str:
        return f"{self._config.max_tries} {'try' if self._config.max_tries == 1 else 'tries'}"


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where an event loop already runs in this thread (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, work).result()
    return asyncio.run(work)


def _checked_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"base_urls: '{url}' must begin with http:// or https://")
    return url.rstrip("/")


def _authorization(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(f"api_key_env: the environment variable {variable} is not set")
    return {"Authorization": f"Bearer {key}"}


def _http_error(response: httpx.Response) -> str:
    return f"HTTP {response.status_code}: {error_message(response.content)}"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds (or the date) that the server asks to wait, at most a minute; None where it says nothing."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
