"""What is asked of a guard, and what it decided: the rows of its log."""

from __future__ import annotations

from typing import Literal, NamedTuple

from rlaif.records import Failure, Messages, PrincipleScore, Record

Action = Literal["passed", "best_of_n", "revised", "refused", "input_refused", "failed"]
Rule = Literal["check", "veto", "threshold", "no verdict", "no answer"]


class Inquiry(NamedTuple):
    """What somebody asks."""

    id: str
    """Of the reply to come."""
    messages: Messages
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


class Candidate(Record):
    """One answer of the policy, and what the constitution says of it."""

    text: str
    made: Literal["first", "sample", "revision"]
    rule: Rule | None = None
    """By which it fails; None: it passes."""
    principle: str | None = None
    """That it fails by."""
    value: float | None = None
    """The mean of the judge's values; None where it was not asked or came to no verdict."""
    principles: tuple[PrincipleScore, ...] = ()
    failures: tuple[Failure, ...] = ()
    """Why there is no verdict."""
    finished: bool = True


class Decision(Record):
    """What was decided about one request, and why."""

    kind: Literal["decision"] = "decision"
    id: str
    action: Action
    """`failed`: nothing is sent, since nobody could answer or judge."""
    text: str | None
    """What is sent; None: nothing but an error."""
    principle: str | None
    """That decided: the one by which the first answer failed, the rule of the input contract that was broken, or
    `policy.length` or `policy.form` where the policy does not read the request. None where the first answer passed, or
    nobody answered."""
    reason: str
    prompt: Messages
    candidates: tuple[Candidate, ...] = ()
    """In the order in which they were made."""
    failures: tuple[Failure, ...] = ()
    """Of a revision."""
    sampling: dict[str, float | int]
    policy: str
    policy_revision: str
    judge: str | None
    guard: str
    """The hash of its settings, by which guard-HASH.yaml in the service's folder is named."""
    constitution: str
    constitution_version: str
    constitution_hash: str
    finished: bool = True
    """False where the token limit cut the text off."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Both of the first answer and of those drawn beside it."""
