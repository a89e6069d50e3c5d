"""The model that `backend: client` names: many requests in flight, bounded retries, each reply handed on at once.

The bytes are `wire`'s; which server is asked is `replicas`'; starting a server is `server`'s. A request that the
server refuses or that keeps failing gives a Reply with `error`; only what makes every request fail (no server, no
such model, a wrong key, no log-probabilities) raises. So that this is found out before the others are sent, the first
request of a call goes alone until one of its kind was answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

import aiohttp
from tenacity.wait import wait_base

from rlaif.config.models import ClientModel
from rlaif.errors import ModelError
from rlaif.models.chat import ChatRequest, OnReplies, Reply
from rlaif.models.client.labels import find_label_ids
from rlaif.models.client.likelihood import AnswerReader
from rlaif.models.client.refusals import Unfit, unwelcome
from rlaif.models.client.replicas import HttpResponse, Replicas, Transient, encode
from rlaif.models.client.tries import Tries
from rlaif.models.dialect import UNSUPPORTED, USUAL, Dialect, refused_parameter
from rlaif.models.reasoning import template_words
from rlaif.models.wire import BadReply, LabelIds, NoLogprobs, Tokens, parse_reply, request_body, tokenized
from rlaif.records import Message, content_id

T = TypeVar("T")
NEUTRAL = (Message(role="user", content="Hello."),)
Kind = Literal["text", "labels", "answer"]
"""What is asked for."""


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
        self._label_ids: dict[frozenset[str], LabelIds | None] = {}
        self._dialect = USUAL
        self._reader = AnswerReader(config, self._replicas)
        self._answered: set[Kind] = set()
        """The kinds of requests of which one was answered."""
        self._tried = asyncio.Event()
        """Whether the first request of a call has met the server, so that the others may."""

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
        tried = self._tried = asyncio.Event()
        self._reader.forget()

        async def work(session: aiohttp.ClientSession) -> None:
            for index, request in waiting:  # shared by all workers: whoever is free takes the next
                replies[index] = await self._answer(session, request)
                tried.set()
                if on_replies is not None:
                    await _hand_on(arrived, (index, replies[index]), on_replies)

        async with self._replicas.session() as session:
            await self._find_labels(session, requests)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._config.concurrency, len(requests))):
                        group.create_task(work(session))
                        if _kind(requests[0]) not in self._answered:
                            await tried.wait()
            except BaseExceptionGroup as failures:
                # One cause stops the call; what its neighbours met while being stopped is not news.
                raise failures.exceptions[0] from None
        return [replies[index] for index in range(len(requests))]

    async def _answer(self, session: aiohttp.ClientSession, request: ChatRequest) -> Reply:
        """One request with its retries. Raises ModelError where no server is there, or none can answer its kind."""
        answers_before = self._replicas.answers
        reached, again = True, False

        async def once() -> Reply:
            nonlocal answers_before, reached, again
            if reached:
                answers_before = self._replicas.answers
            try:
                this, again = again, True
                return await self._exchange(session, request, again=this)
            except Transient as failure:
                reached = not failure.unreachable
                self._tried.set()  # the others need not wait for what may last
                raise

        try:
            return await self._tries.of(once)
        except Unfit as unfit:
            if _kind(request) not in self._answered and (unfit.certain or await self._also_unfit(session, request)):
                raise ModelError(unfit.line) from None
            return Reply(error=str(unfit))
        except Transient as failure:
            # Not this request's fault when nobody else had an answer either since no server could be reached.
            if not reached and self._replicas.answers == answers_before and self._replicas.all_avoided():
                raise self._nobody(failure) from None
            return Reply(error=f"failed after {self._tries}: {failure}")

    async def _exchange(self, session: aiohttp.ClientSession, request: ChatRequest, *, again: bool = False) -> Reply:
        """One request in the server's dialect, asked again in others for as long as it is refused for its form.

        Raises Transient, Unfit, and ModelError where the server has no such model.
        """
        if request.answer is not None:
            read = await self._reader.read(session, request, again=again)
            self._answered |= set() if read.error else {"answer"}
            return read
        dialect = self._dialect
        while True:
            ids = self._label_ids.get(frozenset(request.labels)) if dialect.by_id else None
            asked = request_body(request, self.name, ids, self._config.extra_body, dialect, self._config.thinking)
            response = await self._replicas.post(session, "/chat/completions", encode(asked))
            if response.status != 200:
                if (other := await self._after_refusal(session, response, dialect, asked)) is not None:
                    dialect = other
                    continue
                response.server.failed()  # perhaps it fails all, and another server would not
                return Reply(error=response.error)
            try:
                reply = self._replicas.parsed(
                    response.data, partial(parse_reply, request=request, label_ids=ids, begun=self._begun)
                )
            except NoLogprobs as bad:
                if bad.by_id and "labels" not in self._answered:
                    dialect = dialect._replace(by_id=False)
                    continue
                response.server.failed()
                raise Unfit(str(bad), self._no_logprobs(response)) from None
            except BadReply as bad:
                response.server.failed()
                if bad.whole:
                    return Reply(error=str(bad))
                raise Transient(str(bad)) from None
            self._dialect = dialect
            self._answered.add(_kind(request))
            return reply

    async def _after_refusal(
        self, session: aiohttp.ClientSession, response: HttpResponse, dialect: Dialect, asked: Mapping[str, Any]
    ) -> Dialect | None:
        """The dialect to try next; None where the refusal concerns this request. Raises as `_exchange`."""
        if response.status == 404:
            await self._replicas.check_model(session, response.server, self.name)
        if (unfit := unwelcome(response)) is not None:
            raise unfit
        parameter = refused_parameter(response.data, response.error, asked)
        other = dialect.after(response.error, parameter, asked)
        if other is None and parameter is not None and UNSUPPORTED.search(response.error):
            raise Unfit(response.error, f"{response.server.url}: {response.error}", certain=True)
        return other

    async def _also_unfit(self, session: aiohttp.ClientSession, request: ChatRequest) -> bool:
        """Whether a request of this kind that nobody could object to fails in this way too."""
        try:
            answer = None if request.answer is None else NEUTRAL[0].content
            await self._exchange(session, request.model_copy(update={"messages": NEUTRAL, "answer": answer}))
        except Unfit:
            return True
        except Transient:
            return False
        return False

    # ----------------------------------------------------------------------------------------------- labels

    async def _find_labels(self, session: aiohttp.ClientSession, requests: Sequence[ChatRequest]) -> None:
        """The ids of the labels by vLLM's /tokenize, where the server has such a thing."""

        async def tokenize(body: dict[str, Any]) -> Tokens:
            data = encode({"model": self.name, "return_token_strs": True, **body})
            try:
                response = await self._tries.of(lambda: self._replicas.post(session, "/tokenize", data, at_root=True))
            except Transient as failure:
                raise self._nobody(failure) from None
            return tokenized(response.data) if response.status == 200 else Tokens()

        told = self._config.extra_body.get("chat_template_kwargs", template_words(False))
        for request in requests:
            if request.labels and (labels := frozenset(request.labels)) not in self._label_ids:
                self._label_ids[labels] = await find_label_ids(tokenize, request, {"chat_template_kwargs": told})

    def _no_logprobs(self, response: HttpResponse) -> str:
        return (
            f"{response.server.url} tells no log-probabilities of {self.name}, and a verdict is read from them: use a "
            "server that tells them (`logprobs`), or label.mode.kind=revise"
        )

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


def _kind(request: ChatRequest) -> Kind:
    return "answer" if request.answer is not None else "labels" if request.labels else "text"
