"""Between text and token ids, in one place, so that sampling, reward model and PPO see the same tokens.

A turn ends as the chat template ends it. How that is, is found by rendering conversations, never by a token's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from rlaif.errors import ModelError
from rlaif.models.day import strftime_now
from rlaif.models.reasoning import ReplyFields, closing, template_words, written
from rlaif.records import Message, Messages, Response, plain

QUESTION = (Message(role="user", content="Why?"),)
OPENINGS = (
    QUESTION,
    (Message(role="system", content="Be brief."), *QUESTION),
    (*QUESTION, Message(role="assistant", content="So."), *QUESTION),
)
"""Prompts of every shape, on which a template shows its habits."""
WORDS = ("Yes", "no", "1", "2", "a", "b")
"""Responses that no template trims and whose last tokens differ, of whatever vocabulary."""


class Turn(NamedTuple):
    """How a chat template ends an assistant's turn."""

    end: tuple[int, ...]
    """What it writes after the message: a whole conversation is read at the last of these."""
    written: tuple[int, ...]
    """As far as a policy writes it: up to the first token that stops a generation, which is the tokenizer's end token
    where `end` has none."""
    special: frozenset[int]
    """Tokens that are no text."""
    opening: tuple[int, ...]
    """The tokens before a response to `QUESTION`."""
    seamless: bool
    """Whether prompt, response and `end`, as tokens, are what the template renders of them together."""

    @property
    def stop(self) -> int:
        """The token that stops a generation."""
        return self.written[-1]

    def body(self, response: Sequence[int]) -> tuple[int, ...]:
        """The response without what ended it: the template's end or a part of it, or any token that is no text."""
        ids = tuple(response)
        for ending in (self.end, self.written):
            if ending and ids[-len(ending) :] == ending:
                ids = ids[: -len(ending)]
                break
        while ids and ids[-1] in self.special:
            ids = ids[:-1]
        return ids


def turn_of(tokenizer: Any) -> Turn:
    """The tokenizer's turn. ModelError where the template refuses an answer, leaves it out or never ends it."""
    return _turn(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=4)
def _turn(tokenizer: Any, template: str) -> Turn:
    whole = [render(tokenizer, (*QUESTION, Message(role="assistant", content=word))) for word in WORDS]
    other = next((ids for ids in whole if ids != whole[0]), None)
    if other is None:
        raise ModelError("the model's chat template leaves out what the assistant says")
    end = tuple(common([whole[0][::-1], other[::-1]])[::-1])
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    special |= {i for i in end if i in added and added[i].content.strip()}
    stops = [place for place, token in enumerate(end, start=1) if token in special]
    if not stops and tokenizer.eos_token_id is None:
        raise ModelError("nothing ends an assistant's turn: neither the chat template nor the tokenizer's end token")
    return Turn(
        end=end,
        written=end[: stops[0]] if stops else (*end, tokenizer.eos_token_id),
        special=frozenset(special),
        opening=tuple(encode_prompt(tokenizer, QUESTION)),
        seamless=(not end or end[0] in special) and all(_goes_on(tokenizer, opening) for opening in OPENINGS),
    )


def _goes_on(tokenizer: Any, prompt: Messages) -> bool:
    """Whether a conversation begins with the very prompt that its last turn was written after."""
    try:
        before = encode_prompt(tokenizer, prompt)
        return render(tokenizer, (*prompt, Message(role="assistant", content=WORDS[0])))[: len(before)] == before
    except ModelError:
        return prompt != QUESTION  # a shape that the template refuses will not be asked for


def common(rows: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all begin with."""
    return list(os.path.commonprefix(list(map(list, rows))))  # noqa: RUF071 (token by token)


class TemplateRefusal(ModelError):
    """A conversation that a chat template does not write, as some do no system turn."""


def render(tokenizer: Any, messages: Messages, **options: Any) -> list[int]:
    """Token ids of the conversation as the chat template has it. TemplateRefusal where it refuses."""
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            plain(messages), return_dict=False, strftime_now=strftime_now, **options
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise TemplateRefusal(f"the model's chat template refuses this conversation: {error}") from None
    return list(ids)


def encode_prompt(
    tokenizer: Any, messages: Messages, max_tokens: int | None = None, thinking: bool = False
) -> list[int]:
    """Token ids up to where the response begins; the oldest are cut beyond `max_tokens`.

    Unless `thinking`, no reasoning comes before the response: the template is told so, and one that opens a block of
    it all the same has it closed. TemplateRefusal where the template refuses.
    """
    ids = render(tokenizer, messages, add_generation_prompt=True, **template_words(thinking))
    if not thinking and (rest := closing(prompt_end(tokenizer, ids))):
        ids = [*ids, *tokenizer.encode(rest, add_special_tokens=False)]
    return ids if max_tokens is None else ids[-max_tokens:]


def prompt_end(tokenizer: Any, ids: Sequence[int]) -> str:
    """The last few tokens as text, special ones included."""
    return str(tokenizer.decode(ids[-24:], skip_special_tokens=False))


def answer_of(tokenizer: Any, tokens: Sequence[int], finished: bool, begun: bool | None = None) -> ReplyFields:
    """The answer in what a model wrote; `begun`: see `models.reasoning`.

    Some families' markers are special tokens, so these are looked for before special tokens are dropped.
    """
    whole = tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=False)
    found = written(whole, "stop" if finished else "length", tuple(tokens), begun=begun)
    if found["token_ids"]:
        found["text"] = response_text(tokenizer, tokens)
    elif found["text"]:
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        found["text"] = re.sub("|".join(map(re.escape, special)) or "(?!)", "", found["text"]).strip()
    return found


def encode_response(tokenizer: Any, text: str, finished: bool = True) -> list[int]:
    """Token ids of a response as a policy writes it after a prompt: without a space before the first word, say, where
    the tokenizer begins any other text with one. It ends the turn unless it was cut off."""
    turn = turn_of(tokenizer)
    return [*_encode_body(tokenizer, text, turn), *(turn.written if finished else ())]


def _encode_body(tokenizer: Any, text: str, turn: Turn) -> list[int]:
    whole = render(tokenizer, (*QUESTION, Message(role="assistant", content=text)), **template_words(False))
    first, last = len(turn.opening), len(whole) - len(turn.end)
    if first <= last and tuple(whole[:first]) == turn.opening and tuple(whole[last:]) == turn.end:
        return whole[first:last]
    alone: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return alone


def encode_conversations(tokenizer: Any, prompt: Messages, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """The conversations that these responses make of the prompt, as anyone gets them from the chat template: what
    they have in common up to where the assistant's turn begins, and how each goes on."""
    whole = [render(tokenizer, (*prompt, Message(role="assistant", content=text))) for text in texts]
    before = common([render(tokenizer, prompt, add_generation_prompt=True), *whole])
    before = before[: min(len(ids) for ids in whole) - 1]
    return before, [ids[len(before) :] for ids in whole]


def response_tokens(tokenizer: Any, response: Response) -> list[int]:
    """The very tokens that the policy chose, where the model told them; else those of the text."""
    return list(response.token_ids) or encode_response(tokenizer, response.text, response.finished)


def response_text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """What a person reads of a response's tokens."""
    text: str = tokenizer.decode(list(turn_of(tokenizer).body(tokens)), skip_special_tokens=True)
    return text
