"""What a constitution is: principles that a judge decides, code decides, or both. `load_constitution` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rlaif.config.base import repeated
from rlaif.constitution.checks import Check
from rlaif.constitution.persona import filled, unknown_names
from rlaif.errors import did_you_mean
from rlaif.patterns import Undecided
from rlaif.records import Given, Messages, Prompt, content_id
from rlaif.records.core import absent
from rlaif.signals import value
from rlaif.signals.kinds import Signal

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
    """One thing to look for. With `compare` or `contrast` it is judged, with `check` or `classifier` code decides
    it; it may be both."""

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
    contrast: Contrast | None = Field(default=None, exclude_if=absent)
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
    classifier: Signal | None = Field(default=None, exclude_if=absent)
    """A number from a library or a small classifier, and the limits between which a response passes."""
    reference: Literal["documents", "samples", "gold"] | None = Field(default=None, exclude_if=absent)
    """What a response is held against where the judge is asked by `label.mode.kind=reference`: the prompt's documents,
    its other samples, or its right answers."""

    @model_validator(mode="after")
    def _decidable(self) -> Self:
        if not (self.compare or self.coded or self.contrast or self.reference):
            raise ValueError(
                "has neither `compare`, `contrast`, `check`, `classifier` nor `reference`, so nothing decides it"
            )
        if self.check and self.classifier:
            raise ValueError("has both `check` and `classifier`; make two principles")
        if self.classifier and self.classifier.at_least is None and self.classifier.at_most is None:
            raise ValueError("`classifier` says neither `at_least` nor `at_most`, so no response passes or fails")
        if (self.question is None) != (self.desired is None):
            raise ValueError("`question` and `desired` go together")
        return self

    @property
    def coded(self) -> bool:
        """Whether code decides it, by a check or a classifier; the judge may be asked too."""
        return self.check is not None or self.classifier is not None

    @property
    def judged(self) -> bool:
        """Whether the judge is asked about it."""
        return self.compare is not None or self.contrast is not None

    def applies_to(self, tags: Sequence[str]) -> bool:
        """Whether it is about a prompt with these tags."""
        return not self.tags or not set(self.tags).isdisjoint(tags)

    def asked_in(self, mode: str) -> bool:
        """Whether a judge of this mode is asked about it: `contrast` reads two instructions, `reference` what the
        principle refers to, `turns` its `question`, any other `compare`."""
        by = {"contrast": self.contrast, "reference": self.reference, "turns": self.question}
        return by.get(mode, self.compare) is not None

    def decided_in(self, mode: str) -> bool:
        """Whether it takes part in judging by this mode: in `reference` what refers to something, elsewhere what does
        more than that."""
        if mode == "reference":
            return self.reference is not None
        return not (self.reference and not self.judged and not self.coded)

    @property
    def revisable(self) -> bool:
        """Whether critique-and-revise can use it."""
        return self.critique is not None and self.revise is not None

    def passes(self, response: str, prompt: Messages = ()) -> bool:
        """Whether the response to the prompt passes the principle's check or classifier. Only for a principle that has
        one. Undecided where a pattern does not tell in time, or the classifier gives no number."""
        if self.classifier is not None:
            return self.classifier.passes(value(self.classifier, response, prompt))
        if self.check is None:
            raise ValueError(f"principle {self.id!r} has neither check nor classifier")
        return self.check.passes(response)

    def passed(self, response: str, prompt: Messages = ()) -> bool | None:
        """As `passes`, None where code cannot tell."""
        try:
            return self.passes(response, prompt)
        except Undecided:
            return None


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
    profile: tuple[Name, ...] = Field(default=(), strict=False, exclude_if=absent)
    """What a prompt's profile says (`name`, `tone`): `{profile.tone}` in a principle's text is filled from it."""
    principles: tuple[Principle, ...] = Field(min_length=1, strict=False)
    """What is looked for; their order means nothing."""
    examples: tuple[Example, ...] = Field(default=(), strict=False, exclude_if=absent)
    """Of critique and revision, shown in this order: small models confuse the roles without."""

    @field_validator("principles")
    @classmethod
    def _named_well(cls, principles: tuple[Principle, ...], info: ValidationInfo) -> tuple[Principle, ...]:
        """Ids differ, and what stands in for a prompt's profile is known."""
        for index in repeated(principle.id for principle in principles):
            raise _error_at((index, "id"), f"{principles[index].id!r} is used twice")
        for index, principle in enumerate(principles):
            for field, problem in unknown_names(principle, info.data.get("profile", ())):
                raise _error_at((index, field), problem)
        return principles

    @field_validator("examples")
    @classmethod
    def _can_be_shown(cls, examples: tuple[Example, ...], info: ValidationInfo) -> tuple[Example, ...]:
        known = {principle.id: principle for principle in info.data.get("principles", ())}
        for index, example in enumerate(examples if known else ()):
            if (name := example.principle) is None:
                continue
            if name not in known:
                raise _error_at((index, "principle"), f"no principle {name!r}{did_you_mean(name, known)}")
            if not known[name].revisable:
                problem = f"principle {name!r} has no critique and revise texts to show it with"
                raise _error_at((index, "principle"), problem)
        return examples

    @property
    def hash(self) -> str:
        """Of the content: comments, layout and written-out defaults do not change it. A constitution without the
        fields that came later keeps the hash that its labels name."""
        return content_id(self.model_dump(mode="json", by_alias=True))

    def for_tags(self, tags: tuple[str, ...]) -> tuple[Principle, ...]:
        """The principles that apply to a prompt with these tags, in order."""
        return tuple(p for p in self.principles if p.applies_to(tags))

    def asked_of(self, mode: str, tags: tuple[str, ...], given: Given | None) -> tuple[Principle, ...]:
        """Those by which this mode judges a prompt, filled with its profile. Unfilled where that lacks a name."""
        asked = tuple(p for p in self.for_tags(tags) if p.decided_in(mode))
        return tuple(filled(p, given.profile if given else {}) for p in asked) if self.profile else asked

    def pass_rates(self, texts: Sequence[str], prompts: Sequence[Prompt] = ()) -> dict[str, float]:
        """Share of the texts that pass each checked principle (`pass/<id>`) and all of them (`pass/all`).

        Only principles without tags count; without any, the answer is empty. `prompts`: what each text
        answers. Texts about which code cannot tell are in no rate but their own, `pass/undecided`.
        """
        checked = [p for p in self.principles if p.coded and not p.tags]
        messages = [prompt.messages for prompt in prompts] or [()] * len(texts)
        answers = [(text, prompt, ()) for text, prompt in zip(texts, messages, strict=True)]
        read_ahead(checked, answers)
        rows = [[p.passed(text, prompt) for p in checked] for text, prompt, _ in answers]
        table = [row for row in rows if None not in row] if checked else []
        rates = {"pass/undecided": 1 - len(table) / len(texts)} if checked and len(table) < len(texts) else {}
        if table:
            rates |= {f"pass/{p.id}": sum(row[i] is True for row in table) / len(table) for i, p in enumerate(checked)}
            rates["pass/all"] = sum(map(all, table)) / len(table)
        return rates


def read_ahead(principles: Iterable[Principle], answers: Sequence[tuple[str, Messages, Sequence[str]]]) -> None:
    """Let classifiers read at once what their principles apply to: texts, what they answer, and its tags."""
    for p in principles:
        if p.classifier is not None:
            p.classifier.read_ahead((text, prompt) for text, prompt, tags in answers if p.applies_to(tags))


def _error_at(place: tuple[int | str, ...], message: str) -> PydanticCustomError:
    """A ValueError of a validator about something inside of what it is given."""
    return PydanticCustomError("value_error", "{error}", {"error": message, "at": place})
