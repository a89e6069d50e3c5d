"""The rows that stages hand to each other, and the identities and seeds derived from their content.

    Prompt -> Response -> Pair -> Verdict -> PrincipleJudgment -> Judgment -> Preference      (or a Failure)
                       -> PrincipleScore -> Score;  Ranking;  Round -> Revision -> Demonstration

Records are frozen and refuse unknown fields. No record holds a clock time: equal work gives equal bytes.
`p_a` is always the probability that response `a` of the pair is the better one; `swapped()` maps it to 1 - p_a.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "user", "assistant"]
Source = Literal["ai", "human"]
Side = Literal["a", "b"]


def content_id(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts, as canonical JSON: the same content has the same id anywhere."""
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from (run seed, stage, id, ...): independent of order and of everything else that runs."""
    return int.from_bytes(hashlib.sha256(content_id(*parts).encode()).digest()[:8], "big") >> 1


class Record(BaseModel):
    """Base of all rows: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


Messages = tuple[Message, ...]


def plain(messages: Messages) -> list[dict[str, str]]:
    """The conversation as plain dicts: what chat templates, servers and hashes take."""
    return [{"role": m.role, "content": m.content} for m in messages]


class Prompt(Record):
    """What the policy answers: a conversation that ends with a user turn."""

    id: str
    messages: Messages = Field(min_length=1)
    tags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ends_with_user(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError(f"a prompt must end with a user turn (got {self.messages[-1].role!r})")
        return self

    @classmethod
    def of(cls, messages: Messages, tags: tuple[str, ...] = ()) -> Prompt:
        """A prompt whose id is the hash of its conversation."""
        return cls(id=content_id(plain(messages)), messages=messages, tags=tags)


class Response(Record):
    """One sample of the policy. `finished` is False when the token limit cut it off."""

    id: str
    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    index: int = Field(ge=0)
    text: str
    finished: bool
    tokens: int = Field(ge=0)
    token_ids: tuple[int, ...] = ()
    """The tokens themselves, where the model told them."""
    model: str


class Pair(Record):
    """Two responses to one prompt. The id does not depend on which of them is called a."""

    id: str
    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    a: str
    b: str

    @classmethod
    def of(cls, prompt: Prompt, a: str, b: str) -> Pair:
        """The pair of two response texts, with its symmetric content id."""
        identity = content_id(plain(prompt.messages), *sorted((a, b)))
        return cls(id=identity, prompt_id=prompt.id, prompt=prompt.messages, tags=prompt.tags, a=a, b=b)

    def swapped(self) -> Pair:
        """The same pair with a and b exchanged."""
        return self.model_copy(update={"a": self.b, "b": self.a})


class Verdict(Record):
    """One reply of the judge about one principle in one order.

    `logprob_first` and `logprob_second` are the natural-log probabilities of the two label tokens, exactly as the
    model gave them (not normalised over the two).
    """

    first: Side
    logprob_first: float
    logprob_second: float
    reason: str = ""
    """The chain of thought that the judge wrote before it; empty where none was asked for."""


class PrincipleJudgment(Record):
    """What one principle says about a pair: judged (two verdicts, one an order) or checked (by code, no verdicts)."""

    principle: str
    checked: bool
    p_a: float = Field(ge=0, le=1)
    swap_gap: float | None = None
    """|p1 - p2| over the two orders; None where nothing was judged in both."""
    verdicts: tuple[Verdict, ...] = ()
    """a first, then b first; with several reasons, that many times over."""


class Provenance(Record):
    """Where an AI judgment came from, enough to make it again."""

    constitution: str
    constitution_version: str
    constitution_hash: str
    judge: str
    judge_revision: str
    template: str
    template_hash: str
    sampling: dict[str, float | int | str]
    aggregation: str


class MemberJudgment(Record):
    """What one member of a panel says about the panel's pair, oriented as the panel's judgment is."""

    member: str
    annotator: str
    p_a: float = Field(ge=0, le=1)
    principles: tuple[PrincipleJudgment, ...] = ()
    provenance: Provenance


class Judgment(Record):
    """A pair's verdicts, aggregated; or one human label of it (p_a of 0, 0.5 or 1, no principles)."""

    pair: Pair
    source: Source
    annotator: str
    p_a: float = Field(ge=0, le=1)
    p_raw: float | None = Field(default=None, ge=0, le=1)
    """p_a before calibration; None where none was applied."""
    principles: tuple[PrincipleJudgment, ...] = ()
    members: tuple[MemberJudgment, ...] = ()
    """Of a panel: every member's own judgment."""
    provenance: Provenance | None = None

    def p_of(self, text: str) -> float:
        """P that this one of the pair's two responses is better, whichever way round the pair is held."""
        return self.p_a if self.pair.a == text else 1 - self.p_a


class PrincipleScore(Record):
    """What one principle says about one response."""

    principle: str
    checked: bool
    value: float
    """`score`: the expected rating, from -1 to 1. `checklist`: the probability that it is followed, from 0 to 1."""
    logprobs: dict[str, float] = Field(default_factory=dict)
    """Of the label tokens, exactly as the model gave them; empty when checked."""
    unknown: float = Field(default=0.0, ge=0, le=1)
    """`checklist`: the probability of the label that says it cannot be told."""


class Score(Record):
    """One response by every principle. `value` is the weighted mean, or the veto's floor."""

    id: str
    """Of the prompt's conversation and the text."""
    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    text: str
    value: float
    vetoed: bool = False
    principles: tuple[PrincipleScore, ...]
    annotator: str
    provenance: Provenance


class Ranking(Record):
    """The responses to one prompt in order of Bradley-Terry strength, best first."""

    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    responses: tuple[str, ...] = Field(min_length=2)
    strengths: tuple[float, ...]
    """Log-odds, with mean 0: P(i over j) is the sigma of their difference."""
    compared: int = Field(ge=1)
    """How many of the pairs were judged."""


class Round(Record):
    """One critique and the revision that followed it."""

    principle: str
    critique: str
    revision: str


class Revision(Record):
    """A response and its revisions, first to last."""

    id: str
    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    original: str
    rounds: tuple[Round, ...] = Field(min_length=1)
    annotator: str
    provenance: Provenance


class Demonstration(Record):
    """One row for supervised fine-tuning. `prompt` and `completion` alone form a valid TRL prompt-completion row."""

    prompt: Messages
    completion: Messages
    source: Source
    prompt_id: str
    round: int = Field(ge=0)
    """Which revision it is, counted from 1; 0 for a response as it was sampled."""
    tags: tuple[str, ...] = ()


class Reliability(Record):
    """How far a panel's member can be relied on, as estimated without human labels."""

    member: str
    accuracy: float | None = None
    """Chance of agreeing with the latent true label (Dawid-Skene); None where nothing estimates it."""
    agreement: float | None = None
    """Share of pairs on which it prefers what the panel prefers; None where it judged none."""
    pairs: int = Field(ge=0)


class Preference(Record):
    """One training row. `prompt`, `chosen` and `rejected` alone form a valid TRL conversational preference row."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    p_chosen: float = Field(ge=0.5, le=1)
    source: Source
    weight: float = Field(gt=0)
    split: Literal["train", "heldout"]
    prompt_id: str
    pair_id: str
    tags: tuple[str, ...] = ()


class Failure(Record):
    """A piece of work without a result: never a label. `reason` is a short fixed phrase, `detail` the evidence."""

    stage: str
    id: str
    reason: str
    detail: str = ""
    principle: str | None = None
    first: Side | None = None
