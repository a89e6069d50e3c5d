"""Between text and token ids, in one place, so that sampling, reward model and PPO see the same tokens."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from rlaif.errors import ModelError
from rlaif.models.day import strftime_now
from rlaif.records import Messages, Response, plain


def encode_prompt(tokenizer: Any, messages: Messages, max_tokens: int | None = None) -> list[int]:
    """Token ids up to where the assistant's turn begins; the oldest are cut beyond `max_tokens`.

    ModelError where the template refuses, as some do a system turn.
    """
    try:
        # Where a template knows of thinking, the turn begins with the response itself; others ignore the word.
        ids: list[int] = tokenizer.apply_chat_template(
            plain(messages),
            add_generation_prompt=True,
            return_dict=False,
            enable_thinking=False,
            strftime_now=strftime_now,
        )
    except TemplateError as error:
        raise ModelError(f"the model's chat template refuses this conversation: {error}") from None
    return ids if max_tokens is None else ids[-max_tokens:]


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
