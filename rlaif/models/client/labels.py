"""Which token ids say each label, found out by vLLM's /tokenize before anything is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import takewhile
from typing import Any

from rlaif.errors import ModelError
from rlaif.models.chat import ChatRequest
from rlaif.models.labels import BLANK, speaker, ways_to_write
from rlaif.models.wire import LabelIds, Tokens
from rlaif.records import plain

Tokenize = Callable[[dict[str, Any]], Awaitable[Tokens]]
"""The tokens of a request to /tokenize; none where the server does not answer with any."""


async def find_label_ids(tokenize: Tokenize, request: ChatRequest, template: dict[str, Any]) -> LabelIds | None:
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


async def _check_begins(tokenize: Tokenize, request: ChatRequest, template: dict[str, Any]) -> None:
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
