"""The model that `backend: client` names: many requests in flight, bounded retries, each reply handed on at once.

The bytes are `wire`'s; which server is asked is `replicas`'; starting a server is `server`'s. A request that the
server refuses or that keeps failing gives a Reply with `error`; only what makes every request fail (no server, no
such model, a wrong key, no log-probabilities) raises. So that this is found out before the others are sent, the first
request of a call goes alone until one of its kind was answered.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, Literal

from tenacity.wait import wait_base

from rlaif.config.models import ClientModel
from rlaif.errors import ModelError
from rlaif.models.client.background import Call, Loop, in_background
from rlaif.models.client.reading import AnswerReader, find_label_ids
from rlaif.models.client.replicas import HttpResponse, Replicas, Transient, encode
from rlaif.models.client.tries import Tries, Unfit, refused, unwelcome
from rlaif.models.dialect import UNSUPPORTED, USUAL, Dialect, refused_parameter
from rlaif.models.engine import ChatRequest, InLots, Lot, Reply
from rlaif.models.reasoning import template_words
from rlaif.models.wire import BadReply, LabelIds, NoLogprobs, Tokens, parse_reply, request_body, tokenized
from rlaif.records import Message, content_id

NEUTRAL = (Message(role="user", content="Hello."),)
ReplyKind = Literal["text", "labels", "answer"]
"""What is asked for."""


class HttpChatModel(InLots):
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
        self._loop = Loop()
        weakref.finalize(self, self._loop.close)
        self._answered: set[ReplyKind] = set()
        """The kinds of requests of which one was answered."""

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """Answer all, `concurrency` at a time; as many more are read ahead."""
        waiting = enumerate(requests)
        for first in waiting:
            work = partial(self._work, _kind(first[1]))
            yield from in_background(self._loop, work, chain([first], waiting), 2 * self._config.concurrency)

    def close(self) -> None:
        """End its thread; another stream begins it anew."""
        self._loop.close()

    # ------------------------------------------------------------------------------------------ one call

    async def _work(
        self,
        first: ReplyKind,
        todo: asyncio.Queue[tuple[int, ChatRequest] | None],
        arrived: Callable[[tuple[int, Reply]], None],
    ) -> None:
        """Answer what is to do, up to None; its first request is of this kind."""

        room = asyncio.Semaphore(self._config.concurrency)

        async def one(call: Call, number: int, request: ChatRequest) -> None:
            arrived((number, await self._answer(call, request)))
            call.tried.set()
            room.release()

        async with self._replicas.session() as session:
            call = Call(session)
            try:
                async with asyncio.TaskGroup() as group:
                    while (item := await todo.get()) is not None:
                        await room.acquire()
                        group.create_task(one(call, *item))
                        if first not in self._answered:
                            await call.tried.wait()
            except BaseExceptionGroup as failures:
                # One cause stops the call; what its neighbours met while being stopped is not news.
                raise failures.exceptions[0] from None

    async def _answer(self, call: Call, request: ChatRequest) -> Reply:
        """One request with its retries. Raises ModelError where no server is there, or none can answer its kind."""
        if request.labels:
            await self._find_labels(call, request)
        answers_before = self._replicas.answers
        reached, again = True, False

        async def once() -> Reply:
            nonlocal answers_before, reached, again
            if reached:
                answers_before = self._replicas.answers
            try:
                this, again = again, True
                return await self._exchange(call, request, again=this)
            except Transient as failure:
                reached = not failure.unreachable
                call.tried.set()  # the others need not wait for what may last
                raise

        try:
            return await self._tries.of(once)
        except Unfit as unfit:
            if _kind(request) not in self._answered and (unfit.certain or await self._also_unfit(call, request)):
                raise ModelError(unfit.line) from None
            return Reply(error=str(unfit))
        except Transient as failure:
            # Not this request's fault when nobody else had an answer either since no server could be reached.
            if not reached and self._replicas.answers == answers_before and self._replicas.all_avoided():
                raise self._nobody(failure) from None
            return Reply(error=f"failed after {self._tries}: {failure}")

    async def _exchange(self, call: Call, request: ChatRequest, *, again: bool = False) -> Reply:
        """One request in the server's dialect, asked again in others for as long as it is refused for its form.

        Raises Transient, Unfit, and ModelError where the server has no such model.
        """
        if request.answer is not None:
            read = await self._reader.read(call, request, again=again)
            self._answered |= set() if read.error else {"answer"}
            return read
        dialect = self._dialect
        while True:
            ids = self._label_ids.get(frozenset(request.labels)) if dialect.by_id else None
            asked = request_body(request, self.name, ids, self._config.extra_body, dialect, self._config.thinking)
            response = await self._replicas.post(call.session, "/chat/completions", encode(asked))
            if response.status != 200:
                if (other := await self._after_refusal(call, response, dialect, asked)) is not None:
                    dialect = other
                    continue
                response.server.failed()  # perhaps it fails all, and another server would not
                return Reply(error=response.error, refused=refused(response))
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
        self, call: Call, response: HttpResponse, dialect: Dialect, asked: Mapping[str, Any]
    ) -> Dialect | None:
        """The dialect to try next; None where the refusal concerns this request. Raises as `_exchange`."""
        if response.status == 404:
            await self._replicas.check_model(call.session, response.server, self.name)
        if (unfit := unwelcome(response)) is not None:
            raise unfit
        parameter = refused_parameter(response.data, response.error, asked)
        other = dialect.after(response.error, parameter, asked)
        if other is None and parameter is not None and UNSUPPORTED.search(response.error):
            raise Unfit(response.error, f"{response.server.url}: {response.error}", certain=True)
        return other

    async def _also_unfit(self, call: Call, request: ChatRequest) -> bool:
        """Whether a request of this kind that nobody could object to fails in this way too."""
        try:
            answer = None if request.answer is None else NEUTRAL[0].content
            await self._exchange(call, request.model_copy(update={"messages": NEUTRAL, "answer": answer}))
        except Unfit:
            return True
        except Transient:
            return False
        return False

    # ----------------------------------------------------------------------------------------------- labels

    async def _find_labels(self, call: Call, request: ChatRequest) -> None:
        """The ids of the request's labels by vLLM's /tokenize, where the server has such a thing."""
        labels = frozenset(request.labels)
        if labels in self._label_ids:
            return

        async def tokenize(body: dict[str, Any]) -> Tokens:
            data = encode({"model": self.name, "return_token_strs": True, **body})
            try:
                response = await self._tries.of(
                    lambda: self._replicas.post(call.session, "/tokenize", data, at_root=True)
                )
            except Transient as failure:
                raise self._nobody(failure) from None
            return tokenized(response.data) if response.status == 200 else Tokens()

        told = {"chat_template_kwargs": self._config.extra_body.get("chat_template_kwargs", template_words(False))}
        self._label_ids[labels] = await call.lookups.of(labels, lambda: find_label_ids(tokenize, request, told))

    def _no_logprobs(self, response: HttpResponse) -> str:
        return (
            f"{response.server.url} tells no log-probabilities of {self.name}, and a verdict is read from them: use a "
            "server that tells them (`logprobs`), or label.mode.kind=revise"
        )

    def _nobody(self, failure: Transient) -> ModelError:
        return ModelError(f"cannot reach {self._replicas} ({self._tries}): {failure}")


def _revision(config: ClientModel) -> str:
    """As declared, and what is added to every request: it can change any reply, so it makes another model."""
    if config.revision is None:
        return "unknown"
    added = config.extra_body | ({} if config.thinking is None else {"thinking": config.thinking})
    return f"{config.revision}-{content_id(added)}" if added else config.revision


def _kind(request: ChatRequest) -> ReplyKind:
    return "answer" if request.answer is not None else "labels" if request.labels else "text"
