"""A study: one recipe, the arms that differ in their feedback, seeds, and a judge that trained none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from rlaif.config.base import Section, Seed, validated
from rlaif.config.models import JudgeModel
from rlaif.errors import did_you_mean
from rlaif.evaluation.contest.cost import Prices
from rlaif.formats import HumanSource
from rlaif.strict_yaml import read_mapping

SCHEMA = "rlaif/study/v1"
ArmKind = Literal["rlaif", "rlhf", "hybrid", "direct", "sft_on_judge", "best_of_n", "length_only", "custom"]
KINDS: tuple[ArmKind, ...] = ("rlaif", "rlhf", "hybrid", "direct", "sft_on_judge", "best_of_n", "length_only")


class Arm(Section):
    """One way to get feedback."""

    kind: ArmKind | None = None
    """None: the arm's name is the kind. `custom`: the recipe with the overrides alone."""
    overrides: tuple[str, ...] = ()
    """Further `section.key=value`, after what the kind itself changes."""
    human_data: tuple[HumanSource, ...] | None = None
    """Human labels of this arm where they are not the study's."""


class Study(Section):
    """All arms get the same prompts, budgets and pipeline: what differs is listed on the page."""

    schema_: Literal["rlaif/study/v1"] = Field(alias="schema")
    name: str
    """Also the name of the folder under studies/."""
    title: str = ""
    recipe: str
    """What all arms share: a shipped name or a path."""
    overrides: tuple[str, ...] = ()
    """`section.key=value` for all arms."""
    arms: dict[str, Arm] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    human_data: tuple[HumanSource, ...] = ()
    """Human labels. Those on held-out prompts train nothing and measure every arm's reward model."""
    heldout_data: tuple[HumanSource, ...] = ()
    """Where these come from, if not from `human_data`: only labels on held-out prompts are taken."""
    pairs: Literal["sampled", "human"] = "sampled"
    """What the judge labels in arms that need it: pairs of the policy's samples, or the pairs of `human_data`."""
    judge: JudgeModel | None = None
    """Of the contest: one of another family than the judge that labels. None: the recipe's, with a caution."""
    constitution: str | None = None
    """Of the contest; None: the recipe's."""
    harmful_tags: tuple[str, ...] = ("harmful",)
    """Tags of prompts where refusing is right; on all others it counts as over-refusal."""
    prices: Prices = Prices()

    @field_validator("arms")
    @classmethod
    def _arms_have_kinds(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        for name, arm in arms.items():
            if arm.kind is None and name not in KINDS:
                near = did_you_mean(name, KINDS)
                raise ValueError(f"{name}: no kind of this name{near}; give it a kind: {', '.join(KINDS)} or custom")
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"{name!r}: an arm's name is letters, digits, - and _ (it names a folder)")
            if name == REFERENCE:
                raise ValueError(f"{name!r} is the policy before training, which takes part in every contest")
        return arms

    @model_validator(mode="after")
    def _human_arms_have_labels(self) -> Self:
        for name, arm in self.arms.items():
            if kind_of(name, arm) in ("rlhf", "hybrid") and not (arm.human_data or self.human_data):
                raise ValueError(f"arms.{name} learns from people, so human_data must name their labels")
        if self.pairs == "human" and not self.human_data:
            raise ValueError("pairs is 'human', so human_data must name them")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: one is there twice (got {list(self.seeds)})")
        return self


REFERENCE = "reference"
"""The policy before training."""


def kind_of(name: str, arm: Arm) -> ArmKind:
    """The arm's kind, or the one it is named after."""
    found = arm.kind or next((kind for kind in KINDS if kind == name), None)
    assert found is not None, "the study has checked that"
    return found


def load_study(path: Path) -> Study:
    """The study of this file. ConfigError listing every mistake."""
    node, values = read_mapping(path, "a study is a mapping of sections")
    return validated(Study, path, node, values)


def dump_study(study: Study) -> str:
    """The study as YAML, every knob with its value."""
    return yaml.safe_dump(study.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
