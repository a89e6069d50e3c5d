"""Asking again: a bounded number of tries, with a wait between them, for what may pass; and what does not pass."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity
from tenacity import wait_exponential, wait_random
from tenacity.wait import wait_base

from rlaif.models.client.replicas import TOO_LARGE, HttpResponse, Transient
from rlaif.models.engine import Refused

T = TypeVar("T")
OF_THE_REQUEST = frozenset({400, 404, 409, 413, 414, 422, 431, 451, TOO_LARGE})
"""Refusals that may concern this request and no other."""
OF_ITS_TEXT = frozenset({400, 413, 414, 422, 431, 451})
"""Of these, those that the request is itself the cause of."""
LENGTH = re.compile(r"context|too (?:long|large|many)|longer than|tokens?\b.*(?:<|exceed|limit|maximum)", re.IGNORECASE)
"""How servers say that a request is longer than the model reads."""


class Tries:
    """At most `limit` of them. `backoff` is the wait between two where the server does not name one."""

    def __init__(self, limit: int, backoff: wait_base | None = None) -> None:
        self._limit = limit
        self._backoff = backoff or wait_exponential(multiplier=0.5, max=30) + wait_random(0, 1)

    def __str__(self) -> str:
        return f"{self._limit} {'try' if self._limit == 1 else 'tries'}"

    async def of(self, once: Callable[[], Awaitable[T]]) -> T:
        """The result of the first try that has one. Raises the last try's Transient where none has."""
        tries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(self._limit),
            wait=self._wait,
            reraise=True,
        )

        async def attempt() -> T:  # tenacity awaits coroutine functions only, and `once` may be a lambda
            return await once()

        return await tries(attempt)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, Transient) and failure.retry_after_s is not None:
            return failure.retry_after_s
        return self._backoff(state)


class Unfit(Exception):
    """A failure that may befall every request of its kind; for `certain` it does."""

    def __init__(self, reason: str, line: str, *, certain: bool = False) -> None:
        super().__init__(reason)
        self.line = line
        self.certain = certain


def refused(response: HttpResponse) -> Refused | None:
    """Whether the request is itself the cause of a refusal, and in what."""
    if response.status not in OF_ITS_TEXT:
        return None
    return "length" if response.status == 413 or LENGTH.search(response.error) else "form"


def unwelcome(response: HttpResponse) -> Unfit | None:
    """Whether a refusal is about who asks rather than what is asked."""
    if response.status >= 500 or response.status in OF_THE_REQUEST:
        return None
    key = "; api_key_env names the environment variable that holds the key" * (response.status in {401, 403})
    return Unfit(response.error, f"{response.server.url}: {response.error}{key}", certain=response.status == 401)
