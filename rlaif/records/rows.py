"""What training reads, and what did not come that far."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rlaif.records.core import Messages, Record, Side, Source


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
