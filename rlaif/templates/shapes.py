"""The kinds of judge template: what each must hold, may hold, and lets the judge reply with. No file is read here."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["compare", "reasoned", "score", "checklist", "contrast", "revise", "propose"]


class Shape(NamedTuple):
    """What a template of one kind must hold and may hold."""

    responses: tuple[str, ...]
    """Placeholders of the graded responses."""
    labels: tuple[str, ...] = ()
    """What the judge replies with: each must be one token of the model. Empty where it writes freely. A template may
    bring its own, as many and in this order, in a block `labels`."""
    follow_up: str | None = None
    """The block of a second user turn, which comes after the judge's first reply."""
    principle: bool = True
    instructs: bool = False
    """Whether it asks no judge about a response, but tells whoever answers how to: its blocks are turns of the
    conversation itself."""

    @property
    def graded(self) -> tuple[str, ...]:
        return () if self.instructs else ("conversation", *self.responses)

    @property
    def required(self) -> tuple[str, ...]:
        if self.instructs:
            return ("instruction", "prompt")
        return (*self.graded, "principle") if self.principle else self.graded

    @property
    def allowed(self) -> tuple[str, ...]:
        return (*self.required, "system" if self.instructs else "preamble")

    @property
    def turns(self) -> tuple[str, ...]:
        """The blocks that must be there."""
        return ("user", self.follow_up) if self.follow_up else ("user",)

    @property
    def blocks(self) -> tuple[str, ...]:
        return ("system", *self.turns, "labels") if self.labels else ("system", *self.turns)


PAIR = ("response_1", "response_2")
SHAPES: dict[Kind, Shape] = {
    "compare": Shape(PAIR, labels=("A", "B")),
    "reasoned": Shape(PAIR, labels=("A", "B"), follow_up="choice"),
    # Ten ratings, 1 to 10, as the digits 0 to 9: "10" is two tokens of many models, and P("1") would hold both.
    "score": Shape(("response",), labels=tuple("0123456789")),
    "checklist": Shape(("response",), labels=("Yes", "No", "Unknown")),
    "contrast": Shape((), instructs=True),
    "revise": Shape(("response",), follow_up="revision"),
    "propose": Shape(PAIR, principle=False),
}
