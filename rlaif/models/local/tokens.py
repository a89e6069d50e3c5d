"""Between text and token ids, in one place, so that sampling, reward model and PPO see the same tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from rlaif.errors import ModelError
from rlaif.models.day import strftime_now
from rlaif.models.reasoning import Written, closing, template_words, written
from rlaif.records import Messages, Response, plain


def encode_prompt(
    tokenizer: Any, messages: Messages, max_tokens: int | None = None, thinking: bool = False
) -> list[int]:
    """Token ids up to where the response begins; the oldest are cut beyond `max_tokens`.

    Unless `thinking`, no reasoning comes before the response: the template is told so, and one that opens a block of
    it all the same has it closed. ModelError where the template refuses, as some do a system turn.
    """
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            plain(messages),
            add_generation_prompt=True,
            return_dict=False,
            strftime_now=strftime_now,
            **template_words(thinking),
        )
    except TemplateError as error:
        raise ModelError(f"the model's chat template refuses this conversation: {error}") from None
    if not thinking and (rest := closing(prompt_end(tokenizer, ids))):
        ids = [*ids, *tokenizer.encode(rest, add_special_tokens=False)]
    return ids if max_tokens is None else ids[-max_tokens:]


def prompt_end(tokenizer: Any, ids: Sequence[int]) -> str:
    """The last few tokens as text, special ones included."""
    return str(tokenizer.decode(ids[-24:], skip_special_tokens=False))


def answer_of(tokenizer: Any, tokens: Sequence[int], finished: bool, begun: bool | None = None) -> Written:
    """The answer in what a model wrote; `begun`: see `models.reasoning`.

    Some families' markers are special tokens, so these are looked for before special tokens are dropped.
    """
    whole = tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=False)
    found = written(whole, "stop" if finished else "length", tuple(tokens), begun=begun)
    if found["token_ids"]:
        found["text"] = tokenizer.decode(tokens, skip_special_tokens=True)
    elif found["text"]:
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        found["text"] = re.sub("|".join(map(re.escape, special)) or "(?!)", "", found["text"]).strip()
    return found


def encode_response(tokenizer: Any, text: str, finished: bool = True) -> list[int]:
    """Token ids of a response, with the end-of-turn token unless the response was cut off."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return [*ids, tokenizer.eos_token_id] if finished else ids


def response_tokens(tokenizer: Any, response: Response) -> list[int]:
    """The very tokens that the policy chose, where the model told them; else those of the text."""
    return list(response.token_ids) or encode_response(tokenizer, response.text, response.finished)


def label_token(tokenizer: Any, label: str) -> int:
    """The id of a label that must be exactly one token; ModelError when it is not."""
    ids = tokenizer.encode(label, add_special_tokens=False)
    if len(ids) != 1:
        raise ModelError(f"label {label!r} is {len(ids)} tokens for this model; a label must be exactly one")
    return int(ids[0])
