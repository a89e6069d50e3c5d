"""What a recipe must have before its policy can be made: which artefact its method learns from, and which stages
make that. The pipeline asks here, and nowhere else."""

from __future__ import annotations

from typing import Literal

from rlaif.config.feedback import HumanLabels
from rlaif.config.optimise import (
    BestOfN,
    ChosenDemonstrations,
    Dpo,
    HumanDemonstrations,
    OnPolicy,
    Optimise,
    RunDemonstrations,
    Sft,
)
from rlaif.config.recipe import Recipe

Artefact = Literal["demonstrations", "preferences", "reward_model"]
MADE_BY: dict[Artefact | None, tuple[str, ...]] = {
    "reward_model": ("sample", "label", "pairs", "reward"),
    "preferences": ("sample", "label", "pairs"),
    "demonstrations": ("sample", "label"),
    None: (),
}
"""The stages that lead to each, in order. None: the method needs nothing but prompts (the judge or code scores)."""


def learns_from(method: Optimise) -> Artefact | None:
    """What of the run's feedback the method learns from."""
    if isinstance(method, OnPolicy | BestOfN):
        return "reward_model" if method.reads_reward_model else None
    if isinstance(method, Dpo):
        return "preferences"
    assert isinstance(method, Sft)
    if isinstance(method.data, RunDemonstrations):
        return "demonstrations"
    return "preferences" if isinstance(method.data, ChosenDemonstrations | HumanDemonstrations) else None


def feedback_stages(recipe: Recipe) -> tuple[str, ...]:
    """The stages before the policy. Human labels need neither samples nor a judge to make preferences."""
    artefact, labels = learns_from(recipe.optimise), recipe.preferences.labels
    spared: set[str] = set()
    if artefact != "demonstrations":
        if isinstance(labels, HumanLabels):
            spared = {"sample", "label"}
        elif labels.pairs == "human":
            spared = {"sample"}
    return tuple(stage for stage in MADE_BY[artefact] if stage not in spared)
