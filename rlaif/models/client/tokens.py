"""Token ids in, token ids and their log-probabilities out: a vLLM server as a policy that writes and is read.

Nothing is chat here, and no reply is spared: whoever asks needs all of them. Sending is `replicas`', asking again
`tries`'. Written against vLLM 0.32's POST /v1/completions and what it offers with VLLM_SERVER_DEV_MODE=1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import aiohttp
from tenacity.wait import wait_base

from rlaif.config.models import ClientModel
from rlaif.errors import ModelError
from rlaif.models.client.replicas import HttpResponse, Replicas, Transient, encode
from rlaif.models.client.tries import Tries
from rlaif.models.wire import BadReply
from rlaif.models.wire_tokens import Continuation, parse_continuation, read_logprobs, reading_body

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""Of a reply: reading tells every token of the prompt, at some hundred bytes each."""


class TokenRequest(NamedTuple):
    """One continuation: it ends with the first of `end_tokens`, or is cut off at `max_tokens`."""

    prompt: Sequence[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    end_tokens: Sequence[int]


class Lost(NamedTuple):
    """A request that failed for good."""

    reason: str


class TokenClient:
    """The client of one server. `config` names it and bounds requests in flight, time and tries."""

    def __init__(self, config: ClientModel, backoff: wait_base | None = None) -> None:
        self._config = config
        self._tries = Tries(config.max_tries, backoff)
        self._replicas = Replicas(config, MOST_BYTES)

    def write(self, requests: Sequence[TokenRequest]) -> list[Continuation | Lost]:
        """Continue all prompts, in order."""
        return self._ask(
            [_writing(self._config.model, request) for request in requests],
            lambda data, body: parse_continuation(data, body["max_tokens"], body["stop_token_ids"]),
        )

    def read(self, rows: Sequence[Sequence[int]]) -> list[list[float] | Lost]:
        """The raw log-probability (temperature 1) of every token of each row but its first."""
        bodies = [reading_body(self._config.model, row, {}) for row in rows]
        return self._ask(bodies, lambda data, body: read_logprobs(data, body["prompt"]))

    def control(self, path: str, body: dict[str, Any]) -> bytes:
        """POST to a path beside /v1 that commands the server; its answer. Raises ModelError with the server's words."""

        async def call() -> HttpResponse | Lost:
            async with self._replicas.session() as session:
                return await self._post(session, path, body, at_root=True)

        answer = run(call())
        if isinstance(answer, Lost):
            raise ModelError(f"the vLLM server failed at {path}: {answer.reason}")
        if answer.status != 200:
            raise ModelError(f"the vLLM server refused {path}: {answer.error}")
        return answer.data

    def _ask(self, bodies: Sequence[dict[str, Any]], parse: Callable[[bytes, dict[str, Any]], T]) -> list[T | Lost]:
        async def all_of_them() -> list[T | Lost]:
            room = asyncio.Semaphore(self._config.concurrency)

            async def one(body: dict[str, Any]) -> T | Lost:
                async with room:
                    answer = await self._post(session, "/completions", body)
                if isinstance(answer, Lost):
                    return answer
                if answer.status != 200:
                    return Lost(answer.error)
                try:
                    return parse(answer.data, body)
                except BadReply as bad:
                    return Lost(str(bad))

            async with self._replicas.session() as session:
                return list(await asyncio.gather(*(one(body) for body in bodies)))

        return run(all_of_them()) if bodies else []

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: dict[str, Any], *, at_root: bool = False
    ) -> HttpResponse | Lost:
        data = encode(body)
        try:
            return await self._tries.of(lambda: self._replicas.post(session, path, data, at_root=at_root))
        except Transient as failure:
            return Lost(f"failed after {self._tries}: {failure}")


def _writing(model: str, request: TokenRequest) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": list(request.prompt),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        # The end tokens asked for, and no other that the server knows of.
        "stop_token_ids": list(request.end_tokens),
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
    }


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where an event loop already runs in this thread (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
