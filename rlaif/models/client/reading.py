"""What a vLLM server reads: which tokens say a label or are an answer (its /tokenize), and how likely an answer is.

The tokens are those of `models.local.tokens`: of the prompt as a model would write after it, of the answer as the chat
template writes it after any question. Each prompt and each answer is made tokens once for all requests around it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import takewhile
from typing import Any

from rlaif.config.models import ClientModel
from rlaif.errors import ModelError
from rlaif.models.client.background import Call
from rlaif.models.client.replicas import HttpResponse, Replicas, Transient, encode
from rlaif.models.client.tries import Unfit, unwelcome
from rlaif.models.engine import ChatRequest, Likelihood, Reply
from rlaif.models.labels import BLANK, speaker, ways_to_write
from rlaif.models.reasoning import closing, template_words
from rlaif.models.wire import BadReply, LabelIds, NoLogprobs, Tokens, from_json
from rlaif.models.wire_tokens import (
    OF_THE_TEMPLATE,
    QUESTION,
    WORDS,
    AnswerFrame,
    AnswerRow,
    CacheOverlap,
    answer_tokens,
    frame_of,
    parse_likelihood,
    parse_shared,
    reading_body,
    row_of,
    sharing_body,
)
from rlaif.records import Message, Messages, plain

Ask = Callable[[dict[str, Any]], Awaitable[Tokens]]
"""A request to /tokenize."""

BYTES_PER_TOKEN = 256
"""Of a reply, at most: some eighty are usual."""


class AnswerReader:
    """One server, or several of one model, for one `HttpChatModel`. Nothing is asked twice here but what one server can
    do and another cannot: tries are `model`'s."""

    def __init__(self, config: ClientModel, replicas: Replicas) -> None:
        self._config = config
        self._replicas = replicas
        self._turn: AnswerFrame | None = None
        self._shares: bool | None = None
        """Whether the servers read on from a prefix cache and say how far that reached; None until one was asked."""

    async def read(self, call: Call, request: ChatRequest, *, again: bool = False) -> Reply:
        """The reply's likelihood, or its error. `again`: the first try failed, so the cache is left alone.

        Raises Transient, Unfit, and ModelError where the server has no such model.
        """
        assert request.answer is not None
        ask = partial(self._tokens, call)
        if self._turn is None:
            self._turn = await call.lookups.of(("turn",), partial(self._find_turn, ask))
        (prompt, limit), answer = await asyncio.gather(
            call.lookups.of(("prompt", request.messages), partial(self._prompt, ask, request.messages)),
            call.lookups.of(("answer", request.answer), partial(self._answer, ask, self._turn, request.answer)),
        )
        row = row_of(prompt, answer, self._turn)
        count = len(row.tokens)
        if limit is not None and count + 1 > limit:  # one token must be written
            error = f"prompt of {count} tokens does not fit a context of {limit}"
            return Reply(error=error, prompt_tokens=count, refused="length")
        likely = None if again or self._shares is False else await self._shared(call, row)
        if likely is None:
            try:
                likely = await self._alone(call, row)
            except BadReply as bad:
                return Reply(error=str(bad))
            self._shares = bool(self._shares)
        return Reply(likelihood=likely, prompt_tokens=count)

    # ------------------------------------------------------------------------------------------------ reading

    async def _shared(self, call: Call, row: AnswerRow) -> Likelihood | None:
        """Read on from the prefix cache; None where that told nothing of this row. Raises Transient."""
        body = sharing_body(self._config.model, row.tokens, self._config.extra_body)
        response = await self._post(call, "/inference/v1/generate", body, row, at_root=True)
        if response.status != 200:
            self._shares = False if response.status in {404, 405} else self._shares
            return None
        try:
            likely = self._replicas.parsed(response.data, partial(parse_shared, row=row))
        except CacheOverlap:
            self._shares = True
            return None
        except BadReply:
            return None
        self._shares = likely is not None
        return likely

    async def _alone(self, call: Call, row: AnswerRow) -> Likelihood:
        """Read from the beginning. Raises Transient, Unfit, BadReply."""
        body = reading_body(self._config.model, row.tokens, self._config.extra_body)
        response = await self._post(call, "/completions", body, row)
        if response.status != 200:
            response.server.failed()  # perhaps it fails all, and another server would not
            raise await self._unfit(call, response)
        try:
            return self._replicas.parsed(response.data, partial(parse_likelihood, row=row))
        except BadReply as bad:
            response.server.failed()
            if isinstance(bad, NoLogprobs):
                raise Unfit(str(bad), self._tells_none(response, str(bad))) from None
            if not bad.whole:
                raise Transient(str(bad)) from None
            raise

    async def _post(
        self, call: Call, path: str, body: dict[str, Any], row: AnswerRow, *, at_root: bool = False
    ) -> HttpResponse:
        more = BYTES_PER_TOKEN * len(row.tokens)
        return await self._replicas.post(call.session, path, encode(body), at_root=at_root, more_bytes=more)

    # ------------------------------------------------------------------------------------------------- tokens

    async def _find_turn(self, ask: Ask) -> AnswerFrame:
        """How the chat template frames an answer. Raises Transient, Unfit."""
        opening, _ = await self._prompt(ask, (QUESTION,))
        wholes = await asyncio.gather(*(ask(_answered(word) | {"return_token_strs": True}) for word in WORDS))
        try:
            return frame_of(opening, wholes)
        except ValueError as error:
            reason = f"the chat template of {self._config.model} {error}"
            line = f"{reason}, so no answer's likelihood can be read from a server: use the local backend"
            raise Unfit(reason, line, certain=True) from None

    async def _prompt(self, ask: Ask, messages: Messages) -> tuple[list[int], int | None]:
        """The tokens before an answer, with no reasoning between; and the most that the model reads."""
        prompt = await ask({"messages": plain(messages), "add_generation_prompt": True, "return_token_strs": True})
        rest = closing(prompt.ending)
        after = (await ask({"prompt": rest, "add_special_tokens": False})).tokens if rest else []
        return [*prompt.tokens, *after], prompt.max_model_len

    async def _answer(self, ask: Ask, turn: AnswerFrame, text: str) -> list[int]:
        """As the template writes it, or as it is by itself where the template does something else with it."""
        framed = answer_tokens(turn, (await ask(_answered(text))).tokens)
        if framed is not None or not text:
            return framed or []
        return (await ask({"prompt": text, "add_special_tokens": False})).tokens

    async def _tokens(self, call: Call, asked: dict[str, Any]) -> Tokens:
        """What /tokenize makes of it. Raises Transient, Unfit."""
        extra = self._config.extra_body
        if "messages" in asked:
            words = {**(extra.get("chat_template_kwargs") or {}), **template_words(False)}
            asked = (
                {key: extra[key] for key in OF_THE_TEMPLATE if key in extra} | asked | {"chat_template_kwargs": words}
            )
        data = encode({"model": self._config.model, **asked})
        response = await self._replicas.post(call.session, "/tokenize", data, at_root=True)
        if response.status != 200:
            raise await self._unfit(call, response)
        try:
            found = self._replicas.parsed(response.data, partial(from_json, Tokens))
        except BadReply as bad:
            if not bad.whole and response.data.lstrip().startswith(b"{"):  # JSON that was cut off, and no page
                raise Transient(str(bad)) from None
            found = Tokens()
        if not found.tokens:
            reason = "its /tokenize tells no tokens"
            raise Unfit(reason, self._tells_none(response, reason))
        return found

    # ----------------------------------------------------------------------------------------------- refusals

    async def _unfit(self, call: Call, response: HttpResponse) -> Unfit:
        """What a refusal means. Raises Transient, and ModelError where the server has no such model."""
        if response.status == 404:
            await self._replicas.check_model(call.session, response.server, self._config.model)
        return unwelcome(response) or Unfit(response.error, self._tells_none(response, response.error))

    def _tells_none(self, response: HttpResponse, reason: str) -> str:
        return (
            f"{response.server.url} tells no log-probabilities of given text ({reason}), and contrast reads them: use "
            "vLLM, the local backend, or label.mode.kind=compare"
        )


def _answered(text: str) -> dict[str, Any]:
    """A request to /tokenize for a conversation that the assistant ends."""
    turns = plain((QUESTION, Message(role="assistant", content=text)))
    return {"messages": turns, "add_generation_prompt": False}


# ------------------------------------------------------------------------------------------------- labels


async def find_label_ids(tokenize: Ask, request: ChatRequest, template: dict[str, Any]) -> LabelIds | None:
    """The ids of the tokens that say each label of `request`; None where the server tells no tokens.

    `template` is what the chat template is told besides. ModelError for a label that is several tokens, after this
    very prompt where the server can tell.
    """
    labels = request.labels
    said = speaker(labels)
    # Each spelling on a line of its own: a tokenizer that puts a blank before a text must not put it before each.
    spellings = "\n" + "\n".join(way for label in labels for way in ways_to_write(label))
    lines = await tokenize({"prompt": spellings, "add_special_tokens": False})
    if not lines.tokens:
        return None
    ids: dict[str, set[int]] = {label: set() for label in labels}
    for token, text in zip(lines.tokens, lines.token_strs or (), strict=False):
        if (label := said(text)) is not None:
            ids[label].add(token)
    for label in labels:
        if not ids[label]:
            alone = (await tokenize({"prompt": label, "add_special_tokens": False})).tokens
            _check_one(label, len(alone))
            ids[label].update(alone)
    await _check_begins(tokenize, request, template)
    return {label: tuple(sorted(found)) for label, found in ids.items()}


async def _check_begins(tokenize: Ask, request: ChatRequest, template: dict[str, Any]) -> None:
    """ModelError where an answer by a label begins, after this prompt, with a token that is a part of the label."""
    turns, labels = plain(request.messages), request.labels
    prompt, *answered = await asyncio.gather(
        tokenize({"messages": turns, "add_generation_prompt": True, **template}),
        *(
            tokenize(
                {"messages": [*turns, {"role": "assistant", "content": label}], "add_generation_prompt": False}
                | template
            )
            for label in labels
        ),
    )
    for label, its in zip(labels, answered, strict=True):
        start = len(prompt.tokens)
        if start and its.tokens[:start] == prompt.tokens:
            _check_one(label, tokens_of_label(label, (its.token_strs or [])[start:]))


def tokens_of_label(label: str, texts: list[str]) -> int:
    """How many of an answer's first tokens it takes to say the label, blank ones before it aside; 1 where they cannot
    tell."""
    blank = len(list(takewhile(lambda text: not text.strip(BLANK), texts)))
    text = ""
    for count, piece in enumerate(texts[blank:], start=1):
        text += piece
        if speaker((label,))(text) == label:
            return count
        if not label.startswith(text.strip(BLANK)):
            return 1
    return 1


def _check_one(label: str, count: int) -> None:
    if count > 1:
        raise ModelError(
            f"label {label!r} is {count} tokens for this model; a label must be exactly one (a template's block "
            "`labels` names others)"
        )
