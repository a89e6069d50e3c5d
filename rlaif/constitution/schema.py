"""What a constitution is: principles that a judge decides, code decides, or both. `load_constitution` reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rlaif.config.base import repeated
from rlaif.constitution.checks import Check
from rlaif.errors import did_you_mean
from rlaif.patterns import Endless
from rlaif.records import content_id

SCHEMA = "rlaif/constitution/v1"

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class _Part(BaseModel):
    # Strict: a bare `no` or `1.0` in YAML is an error to mend, not a text to guess.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, str_strip_whitespace=True, use_attribute_docstrings=True
    )


def _plain(text: str) -> str:
    """The text without its case, its line breaks and its last full stop."""
    return " ".join(text.casefold().split()).rstrip(".!")


class Contrast(_Part):
    """Two instructions to whoever answers: how much likelier the first makes a response than the second is how far the
    response follows the principle (a density ratio, arXiv 2411.02481)."""

    for_: Text = Field(alias="for")
    """What an answer that follows the principle would have been told: "Answer in short, plain words."."""
    against: str = ""
    """The opposite, of like length and form: "Answer in long, learned words."; empty = the model as it is."""

    @field_validator("against")
    @classmethod
    def _differs(cls, against: str, info: ValidationInfo) -> str:
        if "for_" in info.data and _plain(against) == _plain(info.data["for_"]):
            raise ValueError("is the same as `for`, so the two tell no responses apart")
        return against


class Principle(_Part):
    """One thing to look for. With `compare` or `contrast` it is judged, with `check` it is checked; it may be both."""

    id: Name
    """Names the principle in labels, reports and audits: letters, digits, - and _."""
    compare: Text | None = None
    """Which of two responses follows the principle: a question that begins "Which response"."""
    critique: Text | None = None
    """Asks what in a response goes against the principle."""
    revise: Text | None = None
    """Asks for the response again, without that."""
    question: Text | None = None
    """A yes/no question about one response."""
    desired: Literal["yes", "no"] | None = None
    """The reply to `question` that follows the principle."""
    contrast: Contrast | None = None
    """Two instructions, of which the first asks for what the principle wants."""
    weight: float = Field(default=1.0, ge=1e-6, le=1e6, allow_inf_nan=False)
    """How much it counts beside the others where the recipe aggregates by weight."""
    priority: int = 1
    """Lower is decided first where the recipe aggregates lexicographically."""
    veto: bool = False
    """Where it clearly prefers one response, nothing else counts."""
    tags: tuple[Text, ...] = Field(default=(), strict=False)
    """Applies to prompts with one of these tags; none = to all prompts."""
    check: Check | None = None
    """What code decides, without the judge; `rlaif check --list-checks` lists them."""

    @model_validator(mode="after")
    def _decidable(self) -> Self:
        if not self.compare and not self.check and not self.contrast:
            raise ValueError("has neither `compare`, `contrast` nor `check`, so nothing decides it")
        if (self.question is None) != (self.desired is None):
            raise ValueError("`question` and `desired` go together")
        return self

    @property
    def judged(self) -> bool:
        """Whether the judge is asked about it."""
        return self.compare is not None or self.contrast is not None

    def asked_in(self, mode: str) -> bool:
        """Whether a judge of this mode is asked about it: `contrast` reads two instructions, any other `compare`."""
        return (self.contrast if mode == "contrast" else self.compare) is not None

    @property
    def revisable(self) -> bool:
        """Whether critique-and-revise can use it."""
        return self.critique is not None and self.revise is not None

    def passes(self, response: str) -> bool:
        """Whether the response passes the principle's check. Only for a principle that has one. Endless where a pattern
        does not tell in time."""
        if self.check is None:
            raise ValueError(f"principle {self.id!r} has no check")
        return self.check.passes(response)


class Example(_Part):
    """A response critiqued and revised as it should be: shown to the model before every real one."""

    principle: Name | None = None
    """The principle whose critique and revise texts ask for it; none = whichever is asked about."""
    prompt: Text
    """What a user said."""
    response: Text
    """What an assistant answered, with something to criticise."""
    critique: Text
    """What is to be said against the response."""
    revision: Text
    """The response again, as the critique asks."""


class Constitution(_Part):
    """A set of principles, with a version."""

    schema_: Literal["rlaif/constitution/v1"] = Field(alias="schema")
    """Which format the file is in."""
    id: Name
    """Names the constitution in every label: letters, digits, - and _."""
    version: Text
    """MAJOR.MINOR.PATCH; `rlaif constitution diff` says which number a change calls for."""
    title: Text
    """What it is for, in a line."""
    preamble: str = ""
    """Shown to the judge before every pair."""
    principles: tuple[Principle, ...] = Field(min_length=1, strict=False)
    """What is looked for; their order means nothing."""
    examples: tuple[Example, ...] = Field(default=(), strict=False)
    """Of critique and revision, shown in this order: small models confuse the roles without."""

    @field_validator("principles")
    @classmethod
    def _ids_differ(cls, principles: tuple[Principle, ...]) -> tuple[Principle, ...]:
        for index in repeated(principle.id for principle in principles):
            raise _error_at((index, "id"), f"{principles[index].id!r} is used twice")
        return principles

    @field_validator("examples")
    @classmethod
    def _can_be_shown(cls, examples: tuple[Example, ...], info: ValidationInfo) -> tuple[Example, ...]:
        known = {principle.id: principle for principle in info.data.get("principles", ())}
        for index, example in enumerate(examples if known else ()):
            name = example.principle
            problem = None
            if name is not None and name not in known:
                problem = f"no principle {name!r}{did_you_mean(name, known)}"
            elif name is not None and not known[name].revisable:
                problem = f"principle {name!r} has no critique and revise texts to show it with"
            if problem:
                raise _error_at((index, "principle"), problem)
        return examples

    @property
    def hash(self) -> str:
        """Of the content: comments, layout and written-out defaults do not change it."""
        whole = self.model_dump(mode="json", by_alias=True)
        # These came later: a constitution without any keeps the hash that its labels name.
        if not self.examples:
            del whole["examples"]
        for principle in whole["principles"]:
            if principle["contrast"] is None:
                del principle["contrast"]
        return content_id(whole)

    def for_tags(self, tags: tuple[str, ...]) -> tuple[Principle, ...]:
        """The principles that apply to a prompt with these tags, in order."""
        return tuple(p for p in self.principles if not p.tags or set(p.tags) & set(tags))

    def pass_rates(self, texts: Sequence[str]) -> dict[str, float]:
        """Share of the texts that pass each checked principle (`pass/<id>`) and all of them (`pass/all`).

        Only principles without tags count; without any, the answer is empty. Texts on which a check comes to no end are
        in no rate but their own, `pass/undecided`.
        """
        checked = [p for p in self.principles if p.check is not None and not p.tags]
        table = []
        for text in texts if checked else ():
            with contextlib.suppress(Endless):
                table.append([p.passes(text) for p in checked])
        rates = {"pass/undecided": 1 - len(table) / len(texts)} if checked and len(table) < len(texts) else {}
        if table:
            rates |= {f"pass/{p.id}": sum(row[i] for row in table) / len(table) for i, p in enumerate(checked)}
            rates["pass/all"] = sum(map(all, table)) / len(table)
        return rates


def _error_at(place: tuple[int | str, ...], message: str) -> PydanticCustomError:
    """A ValueError of a validator about something inside of what it is given."""
    return PydanticCustomError("value_error", "{error}", {"error": message, "at": place})
