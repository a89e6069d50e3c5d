"""Identities and texts, and what training reads: prompts, responses, pairs, preferences; what failed before that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Role = Literal["system", "user", "assistant"]
Source = Literal["ai", "human"]
Side = Literal["a", "b"]
Item = TypeVar("Item")
Key = TypeVar("Key")


def content_id(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts, as canonical JSON: the same content has the same id anywhere."""
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from (run seed, stage, id, ...): independent of order and of everything else that runs."""
    return int.from_bytes(hashlib.sha256(content_id(*parts).encode()).digest()[:8], "big") >> 1


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by their key, keys in the order in which they first come."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


class Record(BaseModel):
    """Base of all rows: frozen, and an unknown field or a number that is infinite or none is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


Messages = tuple[Message, ...]


def alternating(turns: Iterable[Message]) -> Messages:
    """The conversation with neighbours of one side as one turn, joined by a blank line: many chat templates, and some
    trainers, want the sides to take turns."""
    sides = groupby(turns, key=lambda turn: turn.role)
    return tuple(Message(role=role, content="\n\n".join(turn.content for turn in side)) for role, side in sides)


def plain(messages: Messages) -> list[dict[str, str]]:
    """The conversation as plain dicts: what chat templates, servers and hashes take."""
    return [{"role": m.role, "content": m.content} for m in messages]


class Given(Record):
    """What a prompt set says of a prompt besides; none of it is shown to the policy."""

    hidden: tuple[str, ...] = ()
    """Passages that only the judge reads, beside the documents of the conversation."""
    gold: tuple[str, ...] = ()
    """Right answers, each in another wording."""
    opposed: str | None = None
    """The last user turn once more, with the opposite opinion."""
    profile: dict[str, str] = Field(default_factory=dict)
    """Who the policy should be, by name: fills `{profile.NAME}` in a principle's texts."""


def absent(value: Any) -> bool:
    """Whether a field that came later has nothing in it: then a record is written as if it had no such field."""
    return value is None or value == ()


class Prompt(Record):
    """What the policy answers: a conversation that ends with a user turn."""

    id: str
    messages: Messages = Field(min_length=1)
    tags: tuple[str, ...] = ()
    given: Given | None = Field(default=None, exclude_if=absent)

    @model_validator(mode="after")
    def _ends_with_user(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError(f"a prompt must end with a user turn (got {self.messages[-1].role!r})")
        return self

    @classmethod
    def of(cls, messages: Messages, tags: tuple[str, ...] = (), given: Given | None = None) -> Prompt:
        """A prompt whose id is the hash of its conversation, and of what is given besides."""
        return cls(id=content_id(*identity(messages, given)), messages=messages, tags=tags, given=given)


def identity(messages: Messages, given: Given | None) -> list[Any]:
    """What content ids are made of, of a prompt."""
    return [plain(messages)] if given is None else [plain(messages), given.model_dump()]


class Origin(Record):
    """Which of a principle's two instructions a response was written under (`sample.contrast`)."""

    principle: str
    side: Literal["for", "against"]


class OwnTurn(Record):
    """What the policy wrote at its turn of a conversation, before anything was cut off."""

    text: str
    finished: bool
    token_ids: tuple[int, ...] = ()


class Response(Record):
    """One sample of the policy. `finished` is False when the token limit cut it off, or any turn of it."""

    id: str
    prompt_id: str
    prompt: Messages
    """The prompt as training will see it, without an instruction that the response was written under."""
    tags: tuple[str, ...] = ()
    index: int = Field(ge=0)
    text: str
    finished: bool
    tokens: int = Field(ge=0)
    token_ids: tuple[int, ...] = ()
    """The tokens themselves, where the model told them."""
    model: str
    origin: Origin | None = None
    """None: written to the prompt alone."""
    given: Given | None = Field(default=None, exclude_if=absent)
    turns: tuple[OwnTurn, ...] = Field(default=(), exclude_if=absent)
    """The policy's own, where `text` is a conversation with a user: a transcript of both sides' turns."""


class Pair(Record):
    """Two responses to one prompt. The id does not depend on which of them is called a."""

    id: str
    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    a: str
    b: str
    given: Given | None = Field(default=None, exclude_if=absent)

    @classmethod
    def of(cls, prompt: Prompt, a: str, b: str) -> Pair:
        """The pair of two response texts, with its symmetric content id."""
        own = content_id(*identity(prompt.messages, prompt.given), *sorted((a, b)))
        return cls(id=own, prompt_id=prompt.id, prompt=prompt.messages, tags=prompt.tags, a=a, b=b, given=prompt.given)

    def swapped(self) -> Pair:
        """The same pair with a and b exchanged."""
        return self.model_copy(update={"a": self.b, "b": self.a})


def prompt_of(row: Any) -> Prompt:
    """The prompt of a row that has `prompt_id`, `prompt` and `tags`: a response, pair, preference or demonstration."""
    return Prompt(id=row.prompt_id, messages=row.prompt, tags=row.tags, given=getattr(row, "given", None))


def oriented(prompt: Prompt, one: str, other: str, seed: int = 0) -> Pair:
    """The pair of two texts, a and b assigned by hash: neither order nor merit says which is called a."""
    a, b = sorted((one, other), key=lambda text: (content_id("orientation", seed, prompt.id, text), text))
    return Pair.of(prompt, a, b)


class Demonstration(Record):
    """One row for supervised fine-tuning. `prompt` and `completion` alone form a valid TRL prompt-completion row."""

    prompt: Messages
    completion: Messages
    source: Source
    prompt_id: str
    round: int = Field(ge=0)
    """Which revision it is, counted from 1; 0 for a response as it was sampled."""
    tags: tuple[str, ...] = ()


TIE_ROUNDING = 1e-12
"""p and 1 - p may differ from their mirror images in the last bit; a tie must be one in both orientations."""


class Preference(Record):
    """One training row. `prompt`, `chosen` and `rejected` alone form a valid TRL conversational preference row."""

    prompt: Messages = Field(min_length=1)
    chosen: Messages = Field(min_length=1)
    rejected: Messages = Field(min_length=1)
    p_chosen: float = Field(ge=0.5, le=1)
    source: Source
    weight: float = Field(gt=0)
    split: Literal["train", "heldout"]
    prompt_id: str
    pair_id: str
    tags: tuple[str, ...] = ()

    @field_validator("prompt")
    @classmethod
    def _ends_with_user(cls, prompt: Messages) -> Messages:
        if prompt[-1].role != "user":
            raise ValueError(f"a prompt must end with a user turn (got {prompt[-1].role!r})")
        return prompt

    def is_tie(self, margin: float) -> bool:
        """Whether p_chosen is within `margin` of even."""
        return self.p_chosen - 0.5 <= margin + TIE_ROUNDING


class Failure(Record):
    """A piece of work without a result: never a label. `reason` is a short fixed phrase, `detail` the evidence."""

    stage: str
    id: str
    reason: str
    detail: str = ""
    principle: str | None = None
    first: Side | None = None
    too_long: bool = Field(default=False, exclude=True)
    """What was asked is longer than the model reads. Of no row: the detail says it."""
