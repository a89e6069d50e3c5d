"""Conversations and responses as token rows for learning from given texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, encode_response
from rlaif.records import Messages


class Text(NamedTuple):
    """A response. One that a token limit cut off is not `finished`: it teaches its words, and not to stop there."""

    text: str
    finished: bool = True


def encode(tokenizer: Any, prompt: Messages, responses: Sequence[Text], max_length: int) -> tuple[Row, ...]:
    """A row for each response, all after the same prompt tokens; `max_length` bounds the longest of them.

    Too long: the oldest prompt tokens go (all but one, if need be), then the responses' last ones with the end token.
    """
    ids = [encode_response(tokenizer, r.text, r.finished)[: max_length - 1] for r in responses]
    before = tuple(encode_prompt(tokenizer, prompt, max_length - max(len(one) for one in ids)))
    return tuple(Row(before, tuple(one)) for one in ids)
