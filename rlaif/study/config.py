"""A study: one recipe, the arms that differ in their feedback, seeds, and a judge that trained none of them.

From here an arm and a seed give the recipe of a run: what each kind of arm changes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, field_validator, model_validator

from rlaif.config import Recipe, load_recipe
from rlaif.config.base import Section, Seed, validated
from rlaif.config.models import JudgeModel
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.formats import HumanSource
from rlaif.records import Record
from rlaif.run_folder import Run
from rlaif.strict_yaml import read_mapping

SCHEMA = "rlaif/study/v1"
ArmKind = Literal["rlaif", "rlhf", "hybrid", "direct", "sft_on_judge", "best_of_n", "decode", "length_only", "custom"]
KINDS: tuple[ArmKind, ...] = ("rlaif", "rlhf", "hybrid", "direct", "sft_on_judge", "best_of_n", "decode", "length_only")


class Arm(Section):
    """One way to get feedback."""

    kind: ArmKind | None = None
    """None: the arm's name is the kind. `custom`: the recipe with the overrides alone."""
    overrides: tuple[str, ...] = ()
    """Further `section.key=value`, after what the kind itself changes."""
    human_data: tuple[HumanSource, ...] | None = None
    """Human labels of this arm where they are not the study's."""


Money = Annotated[float, Field(ge=0)]


class Prices(Section):
    """US dollars, or any one currency. What has no price of its own is free.

    The defaults are the RLAIF paper's of 2023; models have become cheaper since. Give your own.
    """

    human_label: Money = 0.67
    """One comparison by a person (2023, arXiv 2309.00267)."""
    ai_label: Money = 0.06
    """One label by a judge, where tokens are not priced (2023, arXiv 2309.00267)."""
    million_prompt_tokens: Money | None = None
    """With this or the next given, a judge's labels cost their tokens and `ai_label` is not used."""
    million_completion_tokens: Money | None = None
    hour: Money = 0.0
    """One hour of the machine that the judge runs on."""

    @property
    def by_token(self) -> bool:
        return self.million_prompt_tokens is not None or self.million_completion_tokens is not None


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


# ------------------------------------------------------------------------------------------------ recipes of arms

METHOD: dict[str, tuple[str, ...]] = {
    "direct": ("optimise.scoring={kind: judge}",),
    "sft_on_judge": ("optimise.kind=sft", "optimise.data={kind: judge}"),
    "best_of_n": ("optimise.kind=best_of_n",),
    "decode": ("optimise.kind=decode",),
    "length_only": ("optimise.scoring={kind: length}",),
}
"""How kinds that do not train on a reward model of preferences differ in method."""


def recipe_of(study: Study, name: str, seed: int) -> Recipe:
    """The recipe of this arm with this seed. ConfigError where an override does not fit it."""
    arm = study.arms[name]
    kind = kind_of(name, arm)
    labels = []
    if kind != "custom":
        flow = yaml.safe_dump(_labels(study, kind, arm), default_flow_style=True, width=10**6, allow_unicode=True)
        labels = [f"preferences.labels={flow.strip()}"]
    named = [f"name={study.name}-{name}-{seed}", f"seed={seed}"]
    ours = [*labels, *METHOD.get(kind, ())]
    try:
        return load_recipe(study.recipe, study.overrides, ours, arm.overrides, named)
    except ConfigError as error:
        raise ConfigError(f"arms.{name}: {error}") from None


def shared_recipe(study: Study) -> Recipe:
    """What all arms have in common; its prompts say which labels are held out."""
    return load_recipe(study.recipe, study.overrides)


def _labels(study: Study, kind: str, arm: Arm) -> dict[str, Any]:
    sources = [source.model_dump(mode="json") for source in arm.human_data or study.human_data]
    if kind == "rlhf":
        return {"kind": "human", "human_data": sources}
    if kind == "hybrid":
        return {"kind": "mix", "pairs": study.pairs, "human_data": sources}
    return {"kind": "ai", "pairs": study.pairs, **({"human_data": sources} if study.pairs == "human" else {})}


class ArmRun(NamedTuple):
    """One run of a study."""

    arm: str
    seed: int
    recipe: Recipe
    run: Run


def arm_runs(study: Study, folder: Path) -> Iterator[ArmRun]:
    """Every arm with every seed, the arms in the study's order."""
    for arm in study.arms:
        for seed in study.seeds:
            run = Run(folder / "arms" / arm / f"seed-{seed}")
            yield ArmRun(arm, seed, recipe_of(study, arm, seed), run)


# ------------------------------------------------------------------------------------------------ costs


class Usage(Record):
    """What an arm used up: labels in all, those by people among them, and the judge's calls, tokens and seconds."""

    labels: int
    human_labels: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class ArmCost(Record):
    """`per_point`: for each percentage point of reward-model accuracy above a coin's 50; None where there is none,
    or no accuracy. `per_label` is None without labels."""

    total: float
    human: float
    ai: float
    per_label: float | None
    per_point: float | None


def cost(spent: Usage, prices: Prices, accuracy: float | None = None) -> ArmCost:
    """What it cost. DataError for less than nothing."""
    below = [name for name, value in spent.model_dump().items() if value < 0]
    if below:
        raise DataError(f"{below[0]} must not be negative (got {getattr(spent, below[0])})")
    human = spent.human_labels * prices.human_label
    if prices.by_token:
        prompt = spent.prompt_tokens * (prices.million_prompt_tokens or 0.0)
        ai = (prompt + spent.completion_tokens * (prices.million_completion_tokens or 0.0)) / 1e6
    else:
        ai = (spent.labels - spent.human_labels) * prices.ai_label
    ai += spent.seconds / 3600 * prices.hour
    total = human + ai
    above = None if accuracy is None else 100 * (accuracy - 0.5)
    return ArmCost(
        total=total,
        human=human,
        ai=ai,
        per_label=total / spent.labels if spent.labels else None,
        per_point=total / above if above is not None and above > 1e-9 else None,
    )
