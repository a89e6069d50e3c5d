"""From a conversation that a chat template has made one text of, back to its messages.

Other people's trainers send such texts: a prompt with the response behind it, special tokens and padding kept. How a
template writes a conversation is found by rendering some, as in `tokens.py`, never by its name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from jinja2 import TemplateError

from rlaif.errors import DataError, ModelError, NoAnswer, shown
from rlaif.models.day import strftime_now
from rlaif.models.local.tokens import turn_of
from rlaif.models.reasoning import set_apart, template_words
from rlaif.records import Message, Messages

SYSTEM, USER, ASSISTANT = "Qs0sQ", "Qu1uQ", "Qa2aQ"
"""What stands for the contents: no template knows or trims it."""
TEMPLATED = re.compile(r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<(?:start|end)_of_turn>|<</?SYS>>|</s>\s*\Z")
"""What tells a templated text, whatever its template, from one that a person wrote."""


class Skin(NamedTuple):
    """What a template writes around the contents of a conversation."""

    head: str
    """Before the first user's turn, without a system turn."""
    system: tuple[str, str] | None
    """Before and after a system turn, the user's beginning included; None where the template takes none."""
    answer: str
    """Between a user's turn and the assistant's that follows it."""
    openings: tuple[str, ...]
    """What a prompt for a response ends with, the longest first; `answer` among them."""
    next: str
    """Between an assistant's turn and the user's next; empty where the template takes no second."""


class TextParser:
    """Reads the texts of one tokenizer's chat template. Parsing needs no model and is safe in several threads."""

    def __init__(self, tokenizer: Any) -> None:
        """ModelError where the template never ends a turn."""
        self._name = getattr(tokenizer, "name_or_path", "") or "the model"
        self._skins = list(dict.fromkeys(_skins(tokenizer)))
        if not self._skins:
            raise ModelError(f"{self._name}: its chat template writes no conversation that could be read back")
        ends = [tokenizer.decode([turn_of(tokenizer).stop]), tokenizer.eos_token, tokenizer.pad_token]
        self._ends = re.compile("|".join(re.escape(end) for end in ends if end) or "(?!)")
        self._pads = [pad for pad in (tokenizer.pad_token, tokenizer.eos_token) if pad]
        self._bos = tokenizer.bos_token or ""
        known = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._special = re.compile("|".join(map(re.escape, known)) or "(?!)")

    def conversation(self, text: str, prompt: str | None = None) -> tuple[Messages, str]:
        """The prompt's messages and the response. Padding, the end of the turn and reasoning are no part of it.

        `prompt` is the text that the response was written after, where it is known: one that the trainer has cut at its
        left is found in `text` by where the two agree. Without it a response that itself writes turns is read as turns.
        DataError for what the template does not write, NoAnswer where there is none.
        """
        if prompt is None:
            messages, response = self._split(text)
            if response is None:
                raise DataError("text: ends before the assistant's turn: there is no response to score")
            return messages, self.response(response)
        return self.prompt(prompt), self.response(after(text, prompt, self._pads))

    def prompt(self, text: str) -> Messages:
        """A prompt as text: as the template writes it, or a user's turn where nothing in it is of a template."""
        if not self._special.search(text) and not TEMPLATED.search(text):
            with contextlib.suppress(DataError):  # some templates write words alone
                messages, response = self._split(text)
                if response == "":
                    return messages
            return (Message(role="user", content=text),)
        messages, response = self._split(text)
        if response:
            raise DataError(f"prompt: goes on after the assistant's turn has begun, with {shown(response)}")
        if response is None:
            raise DataError("prompt: does not end where the template has the assistant's turn begin")
        return messages

    def response(self, text: str) -> str:
        """What the policy wrote, up to the end of its turn, without padding and reasoning. NoAnswer where it never
        came to one."""
        return answer_in(self._ends.split(text, 1)[0]).removesuffix("\n")

    def _split(self, text: str) -> tuple[Messages, str | None]:
        for skin in self._skins:
            for start in self._starts(text):
                if (found := _read(start, skin)) is not None:
                    return found
        raise DataError(
            f"text: not as {self._name}'s chat template writes a conversation, which begins "
            f"{shown(self._skins[0].head)} (got {shown(text, 40)}); name the model whose template it is"
        )

    def _starts(self, text: str) -> Iterator[str]:
        """The text with less and less before it: padding; then also with the first token that some trainers drop."""
        pads = [pad for pad in self._pads if pad != self._bos]
        while True:
            yield text
            if self._bos and not text.startswith(self._bos):
                yield self._bos + text
            pad = next((pad for pad in (*pads, self._bos) if pad and text.startswith(pad)), None)
            if pad is None:
                return
            text = text.removeprefix(pad)


def answer_in(text: str) -> str:
    """The text without its reasoning. NoAnswer where it is nothing else."""
    answer, reasoned = set_apart(text)
    if reasoned and not answer.strip():
        raise NoAnswer("the response is reasoning without an answer")
    return answer


def after(text: str, prompt: str, pads: Sequence[str] = ()) -> str:
    """What follows the prompt in a text that begins with it, or with the end of it. DataError where it does neither."""
    found = text
    while not found.startswith(prompt) and (pad := next((pad for pad in pads if found.startswith(pad)), None)):
        found = found.removeprefix(pad)
    if found.startswith(prompt):
        return found.removeprefix(prompt)
    begin = found[:16]
    place = prompt.find(begin) if len(begin) == 16 else -1
    while place >= 0:
        if found.startswith(prompt[place:]):
            return found[len(prompt) - place :]
        place = prompt.find(begin, place + 1)
    raise DataError(f"query: does not begin with its prompt ({shown(text, 40)}, and the prompt is {shown(prompt, 40)})")


def _read(text: str, skin: Skin) -> tuple[Messages, str | None] | None:
    """The turns, and the text after the last place where the assistant begins; None of it where it never does. None
    where the text begins in another way."""
    turns: list[Message] = []
    begin, end = skin.system or ("", "")
    asked = text.removeprefix(begin).find(end) if end.strip() and begin and text.startswith(begin) else -1
    told = asked >= 0 and asked < _place(text.removeprefix(begin), skin.openings)
    if skin.head and text.startswith(skin.head) and not (told and skin.head == begin):
        rest = text.removeprefix(skin.head)
    elif told:
        said, _, rest = text.removeprefix(begin).partition(end)
        turns.append(Message(role="system", content=said))
    else:
        return None
    while True:
        question, opening, rest = _before(rest, skin.openings)
        turns.append(Message(role="user", content=question))
        if not opening:
            return tuple(turns), None
        said, following, later = rest.partition(skin.next) if skin.next else (rest, "", "")
        if not following:
            return tuple(turns), rest
        turns.append(Message(role="assistant", content=said))
        rest = later


def _place(text: str, marks: Sequence[str]) -> int:
    """Where the first of the marks is; beyond the text's end without one."""
    return min((text.find(mark) for mark in marks if mark in text), default=len(text) + 1)


def _before(text: str, marks: Sequence[str]) -> tuple[str, str, str]:
    """As `str.partition`, by whichever of the marks comes first; of two at one place the longer."""
    place = _place(text, marks)
    mark = next((mark for mark in marks if text.startswith(mark, place)), "")
    return text[:place], mark, text[place + len(mark) :]


def _skins(tokenizer: Any) -> Iterator[Skin]:
    """As the template writes, and as its tokens read back; with every day that it may print."""
    days: list[Callable[[str], str]] = [strftime_now]
    if "strftime_now" in str(tokenizer.chat_template):
        # The trainer's clock may be in another time zone than this one.
        days += [(datetime.now() + timedelta(days=off)).strftime for off in (0, -1, 1)]
    for day in days:
        for reads_back in (False, True):
            if (skin := _skin(tokenizer, day, reads_back)) is not None:
                yield skin


def _skin(tokenizer: Any, day: Any, reads_back: bool) -> Skin | None:
    def text(*contents: str, **options: Any) -> str | None:
        roles = {SYSTEM: "system", USER: "user", ASSISTANT: "assistant"}
        messages = [{"role": roles[content], "content": content} for content in contents]
        try:
            made = tokenizer.apply_chat_template(messages, tokenize=False, strftime_now=day, **options)
            if reads_back:
                made = tokenizer.decode(tokenizer.encode(made, add_special_tokens=False), skip_special_tokens=False)
            return str(made)
        except (TemplateError, TypeError, ValueError):
            return None

    once, twice = text(USER, ASSISTANT), text(USER, ASSISTANT, USER, ASSISTANT)
    if once is None or USER not in once or ASSISTANT not in once:
        return None
    head, rest = once.split(USER, 1)
    answer = rest.split(ASSISTANT, 1)[0]
    told = text(SYSTEM, USER, ASSISTANT)
    before = re.split(f"{SYSTEM}|{USER}", told, maxsplit=2) if told else []
    prompts = [text(USER, add_generation_prompt=True, **template_words(thinking)) for thinking in (False, True)]
    openings = {answer, *(prompt.split(USER, 1)[1] for prompt in prompts if prompt and USER in prompt)}
    middle = re.findall(f"{ASSISTANT}(.*?){USER}", twice or "", re.S)
    return Skin(
        head=head,
        system=(before[0], before[1]) if len(before) == 3 else None,
        answer=answer,
        openings=tuple(sorted(_usable(openings), key=len, reverse=True)),
        next=middle[0] if middle else "",
    )


def _usable(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if text.strip()]
