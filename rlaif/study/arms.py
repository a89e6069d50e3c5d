"""From a study and an arm to the recipe of a run: what each kind of arm changes, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rlaif.config import Recipe, load_recipe
from rlaif.errors import ConfigError
from rlaif.run_folder import Run
from rlaif.study.config import Arm, Study, kind_of

METHOD: dict[str, tuple[str, ...]] = {
    "direct": ("optimise.scoring={kind: judge}",),
    "sft_on_judge": ("optimise.kind=sft", "optimise.data={kind: judge}"),
    "best_of_n": ("optimise.kind=best_of_n",),
    "length_only": ("optimise.scoring={kind: length}",),
}
"""How kinds that do not train on a reward model of preferences differ in method."""


def recipe_of(study: Study, name: str, seed: int) -> Recipe:
    """The recipe of this arm with this seed. ConfigError where an override does not fit it."""
    arm = study.arms[name]
    kind = kind_of(name, arm)
    labels = [] if kind == "custom" else [f"preferences.labels={_flow(_labels(study, kind, arm))}"]
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


def _flow(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).strip()


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
