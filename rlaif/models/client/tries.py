"""Asking again: a bounded number of tries, with a wait between them, for what may pass. What may is `Transient`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity
from tenacity import wait_exponential, wait_random
from tenacity.wait import wait_base

from rlaif.models.client.replicas import Transient

T = TypeVar("T")


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
