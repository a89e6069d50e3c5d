"""What a prompt set says of a prompt besides its conversation: documents, which go into the conversation, and what the
policy does not read.

A row says it under one key, `given: {documents: [...], hidden: [...], gold: [...], opposed: ..., profile: {...}}`.
Documents stand before the last user turn, each between <document> tags, and are read back from there: whatever holds a
conversation holds its documents.
"""

from __future__ import annotations

import re
import unicodedata

from pydantic import ConfigDict, Field, ValidationError, field_validator

from rlaif.config.sources import DataSource, FileSource
from rlaif.errors import DataError, did_you_mean
from rlaif.formats.rows import SourceRow, tags_of
from rlaif.jsonl import first_problem
from rlaif.records import Given, Message, Messages, Prompt, content_id

DOCUMENT = re.compile(r"<document>\n(.*?)\n</document>\n*", re.DOTALL)
_PLAIN = re.compile(r"[^<>\[\]{}|\x00-\x1f\x7f\u2028\u2029]*\w[^<>\[\]{}|\x00-\x1f\x7f\u2028\u2029]*")
"""What stands in a judge's question as the constitution's own words do: nothing that could end it or open a turn."""
_TAG = re.compile(r"(?i)<\s*/?\s*document\s*>")


class _Row(Given):
    model_config = ConfigDict(strict=True)

    documents: tuple[str, ...] = Field(default=(), strict=False)
    """What the policy and the judge read before the question."""
    hidden: tuple[str, ...] = Field(default=(), strict=False)
    gold: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("documents", "hidden", "gold", "opposed")
    @classmethod
    def _not_blank(cls, texts: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        for text in (texts,) if isinstance(texts, str) else texts or ():
            if not text.strip():
                raise ValueError("a text in it is blank")
            if _TAG.search(text):
                raise ValueError("a text in it holds a <document> tag, which is where documents begin and end")
        return texts

    @field_validator("profile")
    @classmethod
    def _plain_words(cls, profile: dict[str, str]) -> dict[str, str]:
        for name, text in profile.items():
            if not _PLAIN.fullmatch(unicodedata.normalize("NFKC", text)):
                raise ValueError(f"{name!r} must be a line of plain words, without < > [ ] {{ }} |")
        return profile


def prompt_from(row: SourceRow, messages: Messages, source: DataSource) -> Prompt:
    """The prompt of a row whose conversation has been read, with its tags and, where it stands in a file, what it is
    given. DataError as of both."""
    asked, given = given_of(row, messages) if isinstance(source, FileSource) else (messages, None)
    return Prompt.of(asked, tags_of(row, source), given)


def given_of(row: SourceRow, messages: Messages) -> tuple[Messages, Given | None]:
    """The conversation with the row's documents, and what else is given; None where nothing is. DataError, naming file
    and line, for a key or a value that is none."""
    value = row.value.get("given")
    if value is None:
        return messages, None
    if isinstance(value, dict):
        for key in value:
            if key not in _Row.model_fields:
                raise DataError(f"{row.place}: given: unknown key {key!r}{did_you_mean(str(key), _Row.model_fields)}")
        value = {key: each for key, each in value.items() if each is not None}  # tables have all keys in every row
    try:
        found = _Row.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{row.place}: given: {first_problem(error)}") from None
    given = Given(**found.model_dump(exclude={"documents"}))
    return with_documents(messages, found.documents), None if given == Given() else given


def with_documents(messages: Messages, documents: tuple[str, ...]) -> Messages:
    """The conversation, these documents before what the user says last."""
    if not documents:
        return messages
    before = "".join(f"<document>\n{text.strip()}\n</document>\n" for text in documents)
    last = messages[-1]
    return (*messages[:-1], Message(role=last.role, content=f"{before}\n{last.content}"))


def documents_of(messages: Messages, given: Given | None) -> tuple[str, ...]:
    """The passages that a response's claims are held against: those that system and user gave, then the hidden ones.
    What an assistant's turn calls a document is none."""
    shown = [text for turn in messages if turn.role != "assistant" for text in DOCUMENT.findall(turn.content)]
    return (*shown, *(given.hidden if given else ()))


def without_documents(messages: Messages) -> Messages:
    """The conversation alone."""
    return tuple(Message(role=turn.role, content=DOCUMENT.sub("", turn.content)) for turn in messages)


def opposite(prompt: Prompt) -> Prompt | None:
    """The prompt with the opposite opinion in the user's last turn, after the same documents. None without one."""
    given, last = prompt.given, prompt.messages[-1]
    if given is None or given.opposed is None:
        return None
    turned = (*prompt.messages[:-1], Message(role=last.role, content=given.opposed))
    back = given.model_copy(update={"opposed": without_documents((last,))[0].content})
    messages = with_documents(turned, tuple(DOCUMENT.findall(last.content)))
    return prompt.model_copy(update={"id": content_id("opposed", prompt.id), "messages": messages, "given": back})
