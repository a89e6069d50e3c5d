"""What a guard is: a YAML file or a constitution's name, and `section.key=value` overrides."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from rlaif.api.inputs import model_of
from rlaif.config.base import Count, Positive, Section, Share, validated
from rlaif.config.judging import ChecklistMode, ContrastMode, ScoreMode
from rlaif.config.models import JudgeModel
from rlaif.constitution.schema import SCHEMA as CONSTITUTION
from rlaif.errors import ConfigError, shown
from rlaif.records import Message, Role
from rlaif.resources import resolve
from rlaif.serve.guard.language import likeliest
from rlaif.strict_yaml import NotYaml, parse_yaml, read_mapping

SCHEMA = "rlaif/guard/v1"
MARKERS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "[INST]",
)
"""With these chat templates of common models begin and end turns."""


TURNS = "after a system turn, if any, user and assistant take turns, and the user is the last"
Script = Literal[
    "arabic", "cjk", "cyrillic", "devanagari", "greek", "hangul", "hebrew", "hiragana", "katakana", "latin"
]
"""As Unicode names its letters."""


class InputSection(Section):
    """The contract of a request. One that breaks it is refused before the policy sees it."""

    max_chars: Count = 20_000
    """Of all turns together."""
    max_messages: Count = 64
    max_tokens: Count = 1024
    """The most that a request may ask for; one that asks for none gets so many."""
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    """Who may speak. A system turn comes first; after it user and assistant take turns, the user last."""
    markers: tuple[Annotated[str, Field(min_length=1)], ...] = MARKERS
    """Texts that no turn may hold: whoever writes one can forge the turns that follow it."""
    scripts: tuple[Script, ...] = ()
    """More than half of the letters of the user's last turn must be of these scripts. None: of any."""
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2}$")], ...] = ()
    """ISO 639-1 codes (`en`): the user's last turn must not be of another language. Told by lingua (the extra
    `signals`); where that is missing nothing is refused by it. None: any."""
    language_confidence: Share = 0.7
    """Of lingua in another language; what it is less sure of, as a short text, passes."""

    def broken(self, messages: Sequence[Message], max_tokens: int) -> tuple[str, str] | None:
        """The first rule that the request breaks, and how."""
        size, roles = sum(len(message.content) for message in messages), [message.role for message in messages]
        turns = roles[roles[:1] == ["system"] :]
        letters = [
            unicodedata.name(sign, "").lower() for sign in "".join(m.content for m in messages[-1:]) if sign.isalpha()
        ]
        allowed = sum(letter.startswith(self.scripts) for letter in letters)
        spoken, sure = likeliest(self.languages, messages[-1].content) if self.languages and messages else ("", 0.0)
        others = [role for role in roles if role not in self.roles]
        held = [mark for mark in self.markers if any(mark in message.content for message in messages)]
        rules = (
            ("roles", others, f"a turn of {', '.join(others)}; there may be {', '.join(self.roles)}"),
            ("roles", not turns or turns != [("user", "assistant")[n % 2] for n in range(len(turns))], TURNS),
            ("roles", turns[-1:] != ["user"], TURNS),
            ("roles", not all(message.content.strip() for message in messages), "a turn is blank"),
            ("max_messages", len(roles) > self.max_messages, f"{len(roles)} turns; at most {self.max_messages}"),
            ("max_chars", size > self.max_chars, f"{size} characters; at most {self.max_chars}"),
            ("max_tokens", max_tokens > self.max_tokens, f"{max_tokens} asked for; at most {self.max_tokens}"),
            ("markers", held, f"a turn holds {', '.join(held)}"),
            (
                "scripts",
                self.scripts and letters and allowed * 2 <= len(letters),
                f"{allowed} of {len(letters)} letters of the last turn are {' or '.join(self.scripts)}",
            ),
            (
                "languages",
                spoken and spoken not in self.languages and sure >= self.language_confidence,
                f"the last turn is {spoken} (confidence {sure:.2f}); it may be {' or '.join(self.languages)}",
            ),
        )
        return next(((rule, how) for rule, is_broken, how in rules if is_broken), None)


class BestOfAnswers(Section):
    """More answers are drawn, and of those that pass the best is sent."""

    kind: Literal["best_of_n"] = "best_of_n"
    n: int = Field(default=4, ge=2, le=64)
    """The first one included."""
    temperature: Positive = 0.7
    """Of the further ones, where the request itself asks for the greedy answer."""


class ReviseOnce(Section):
    """The answer is criticised and revised once, by the principle that it failed; the revision must pass."""

    kind: Literal["revise"] = "revise"
    by: Literal["policy", "judge"] = "policy"
    """Who criticises and revises."""
    template: str = "revise"
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: Count = 512


class Refuse(Section):
    """The refusal is sent."""

    kind: Literal["refuse"] = "refuse"


class GuardSection(Section):
    """A guard, whole."""

    schema_: Literal["rlaif/guard/v1"] = Field(default="rlaif/guard/v1", alias="schema")
    constitution: str
    """A shipped name (`harmlessness`) or a path."""
    tags: tuple[str, ...] = ()
    """Of every prompt: principles with other tags do not apply."""
    judge: JudgeModel | None = None
    """None: only what code decides is applied."""
    mode: Annotated[ScoreMode | ChecklistMode | ContrastMode, Field(discriminator="kind")] = ChecklistMode()
    threshold: float | None = None
    """An answer fails where the judge's values, their mean by weight, are below this: from -1 to 1 (`score`), 0 to 1
    (`checklist`), or a log density ratio over tau (`contrast`). None: the middle, 0, 0.5 and 0."""
    checks: Literal["all", "veto"] = "all"
    """Whether an answer fails with any check, or only with those of principles with `veto: true`."""
    min_label_mass: Share = 0.05
    """As in label.min_label_mass: a reply below it is no verdict."""
    on_fail: Annotated[BestOfAnswers | ReviseOnce | Refuse, Field(discriminator="kind")] = Refuse()
    """What is done with an answer that fails. What fails in the end is never sent."""
    refusal: str = Field(default="I can't help with that.", min_length=1)
    """Sent where no answer passes."""
    no_verdict: Literal["refuse", "error"] = "refuse"
    """Where the judge or a check came to no verdict: the refusal, or HTTP 503. Never the answer."""
    input: InputSection = InputSection()
    feedback: bool = True
    """Whether POST /feedback is served."""
    keep_replies: Count = 100_000
    """Replies that feedback may name by their id; older ones leave answers.sqlite. What people said stays."""

    @model_validator(mode="after")
    def _threshold_is_on_the_scale(self) -> Self:
        low, high = {"score": (-1.0, 1.0), "checklist": (0.0, 1.0)}.get(self.mode.kind, (-1e9, 1e9))
        if self.threshold is not None and not low <= self.threshold <= high:
            raise ValueError(f"threshold: {self.mode.kind} gives {low:g} to {high:g} (got {self.threshold:g})")
        if isinstance(self.on_fail, ReviseOnce) and self.on_fail.by == "judge" and self.judge is None:
            raise ValueError("on_fail.by: there is no judge to revise; name one, or let the policy (by: policy)")
        if isinstance(self.mode, ContrastMode) and self.mode.against is not None:
            raise ValueError("mode.against: a guard has one judge; leave it out")
        return self


def dump_guard(section: GuardSection) -> str:
    """The guard as YAML, every knob with its value."""
    return yaml.safe_dump(section.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def load_guard(target: str, overrides: Sequence[str] = (), judge: str | None = None) -> GuardSection:
    """The guard of this YAML file, or of a constitution, whose defaults then hold, with this judge (a model as the API
    names one) and the overrides applied.

    ConfigError listing every mistake.
    """
    path = resolve("constitutions", target)
    node, values = read_mapping(path, "a guard is a mapping of sections")
    if values.get("schema") == CONSTITUTION:
        node, values = None, {"constitution": target}
    if judge is not None:
        values["judge"] = model_of(judge).model_dump(mode="json")
    given = {"judge"} if judge is not None else set()
    for override in overrides:
        key, equals, text = override.partition("=")
        *sections, last = key.split(".")
        place: dict[str, Any] = values
        try:
            if not equals:
                raise TypeError
            for name in sections:
                place = place.setdefault(name, {})
            place[last] = parse_yaml(text)[1]
        except (TypeError, AttributeError):
            raise ConfigError(f"override {shown(override)} is not of the form section.key=value") from None
        except NotYaml as error:
            raise ConfigError(f"override {shown(override)}: {error.problems[0][1]}") from None
        given.add(key)
    return validated(GuardSection, path, node, values, given)
