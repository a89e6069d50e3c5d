"""The model that `backend: client` names: many requests in flight, bounded retries, each reply handed on at once.

The bytes are `wire`'s; which server is asked is `replicas`'; starting a server is `server`'s. A request that the
server refuses or that keeps failing gives a Reply with `error`; only what makes every request fail (no server, no
such model) raises.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import aiohttp
from tenacity.wait import wait_base

from rlaif.config.sections import ClientModel
from rlaif.errors import ModelError
from rlaif.models.chat import ChatRequest, OnReplies, Reply
from rlaif.models.client.replicas import Replicas, Transient
from rlaif.models.client.tries import Tries
from rlaif.models.wire import BadReply, parse_reply, request_body, token_ids
from rlaif.records import content_id

T = TypeVar("T")


class HttpChatModel:
    """The client. `backoff` is the wait between tries where the server does not name one; `begun` whether the prompts
    leave a block of reasoning open (see `models.reasoning`), where that is known."""

    def __init__(self, config: ClientModel, backoff: wait_base | None = None, *, begun: bool | None = None) -> None:
        self.name = config.model
        self.revision = _revision(config)
        self._config = config
        self._tries = Tries(config.max_tries, backoff)
        self._replicas = Replicas(config)
        self._begun = begun
        self._label_ids: dict[str, int | None] = {}

    def chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None = None) -> list[Reply]:
        """Answer all, `concurrency` at a time; `on_replies` gets what arrives together in one lot."""
        return run(self._chat(requests, on_replies)) if requests else []

    def close(self) -> None:
        """Nothing is kept open between calls."""

    # ------------------------------------------------------------------------------------------ one call

    async def _chat(self, requests: Sequence[ChatRequest], on_replies: OnReplies | None) -> list[Reply]:
        replies: dict[int, Reply] = {}
        waiting = iter(enumerate(requests))
        arrived: list[tuple[int, Reply]] = []

        async def work(session: aiohttp.ClientSession) -> None:
            for index, request in waiting:  # shared by all workers: whoever is free takes the next
                replies[index] = await self._answer(session, request)
                if on_replies is not None:
                    await _hand_on(arrived, (index, replies[index]), on_replies)

        async with self._replicas.session() as session:
            for label in sorted({label for request in requests for label in request.labels}):
                if label not in self._label_ids:
                    self._label_ids[label] = await self._find_label(session, label)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._config.concurrency, len(requests))):
                        group.create_task(work(session))
            except BaseExceptionGroup as failures:
                # One cause stops the call; what its neighbours met while being stopped is not news.
                raise failures.exceptions[0] from None
        return [replies[index] for index in range(len(requests))]

    async def _answer(self, session: aiohttp.ClientSession, request: ChatRequest) -> Reply:
        """One request with its retries. Raises ModelError where no server is there, or none has the model."""
        label_ids = self._ids_of(request.labels)
        body = encode(request_body(request, self.name, label_ids, self._config.extra_body, self._config.thinking))
        answers_before = self._replicas.answers
        reached = True

        async def once() -> Reply:
            nonlocal answers_before, reached
            if reached:
                answers_before = self._replicas.answers
            try:
                response = await self._replicas.post(session, "/chat/completions", body)
            except Transient as failure:
                reached = not failure.unreachable
                raise
            if response.status == 404:
                await self._replicas.check_model(session, response.server, self.name)
            if response.status != 200:
                response.server.failed()  # perhaps it fails all, and another server would not
                return Reply(error=response.error)
            try:
                return parse_reply(response.data, request, label_ids, self._begun)
            except BadReply as bad:
                response.server.failed()
                if bad.whole:
                    return Reply(error=str(bad))
                raise Transient(str(bad)) from None

        try:
            return await self._tries.of(once)
        except Transient as failure:
            # Not this request's fault when nobody else had an answer either since no server could be reached.
            if not reached and self._replicas.answers == answers_before and self._replicas.all_avoided():
                raise self._nobody(failure) from None
            return Reply(error=f"failed after {self._tries}: {failure}")

    # ----------------------------------------------------------------------------------------------- labels

    async def _find_label(self, session: aiohttp.ClientSession, label: str) -> int | None:
        """The label's token id by vLLM's /tokenize; None where the server has no such thing."""
        body = encode({"model": self.name, "prompt": label, "add_special_tokens": False})
        try:
            response = await self._tries.of(lambda: self._replicas.post(session, "/tokenize", body, at_root=True))
        except Transient as failure:
            raise self._nobody(failure) from None
        tokens = token_ids(response.data) if response.status == 200 else []
        if len(tokens) > 1:
            raise ModelError(f"label {label!r} is {len(tokens)} tokens of {self.name}; it must be one")
        return tokens[0] if tokens else None

    def _ids_of(self, labels: Sequence[str]) -> dict[str, int] | None:
        """Token ids of all labels, or None where any is unknown."""
        ids = {label: found for label in labels if (found := self._label_ids[label]) is not None}
        return ids if len(ids) == len(labels) else None

    def _nobody(self, failure: Transient) -> ModelError:
        return ModelError(f"cannot reach {self._replicas} ({self._tries}): {failure}")


async def _hand_on(arrived: list[tuple[int, Reply]], item: tuple[int, Reply], on_replies: OnReplies) -> None:
    """Hand on this reply and those that arrive in the same moment: the first of them takes the others along.

    A receiver that writes to disk pays for a lot, not for a reply. Whoever is stopped still hands on what is there.
    """
    arrived.append(item)
    if len(arrived) > 1:
        return
    try:
        await asyncio.sleep(0)
    finally:
        lot = list(arrived)
        arrived.clear()
        on_replies(lot)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where an event loop already runs in this thread (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, work).result()
    return asyncio.run(work)


def _revision(config: ClientModel) -> str:
    """As declared, and what is added to every request: it can change any reply, so it makes another model."""
    if config.revision is None:
        return "unknown"
    added = config.extra_body | ({} if config.thinking is None else {"thinking": config.thinking})
    return f"{config.revision}-{content_id(added)}" if added else config.revision


def encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
