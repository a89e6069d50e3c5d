"""The models that stages need, looked for before the first of them works: a slip in the judge's name costs no hours of
sampling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

from pydantic import BaseModel

from rlaif.config import Recipe
from rlaif.config.models import ClientModel, JudgeModel, LocalModel, RayModel, ScriptedModel, VllmModel
from rlaif.constitution import load_constitution
from rlaif.models.embedded import check_name
from rlaif.models.open import check_model
from rlaif.stages.stage import Stage


def check_models(*needs: tuple[Recipe, Iterable[Stage]]) -> None:
    """ModelError or ConfigError for a model that these stages of these recipes need and that is nowhere, before the
    first of them works. A judge that has nothing to judge is not looked for; of what is trained only the weights are.
    """
    found: dict[str, JudgeModel] = {}
    weights: list[tuple[str, str | None]] = []
    for recipe, stages in needs:
        judges = _judges(recipe)
        for stage in stages:
            knobs = [knob for knob in stage.knobs(recipe) if judges or knob != "judge"]
            for model in _models_in([reduce(getattr, knob.split("."), recipe) for knob in knobs]):
                if not stage.together or model != recipe.policy:
                    found[repr(model)] = model
            if stage.together:
                weights.append((recipe.policy.model, recipe.policy.revision))
            if stage.name == "reward" and recipe.reward.model is not None:
                weights.append((recipe.reward.model, None))
    for name, revision in dict.fromkeys(weights):  # a hub is asked once, however many arms name a model
        check_name(name, revision)
    for model in found.values():
        check_model(model)


def check_judge(recipe: Recipe) -> None:
    """As `check_models`, of whoever judges by this recipe."""
    asked = [recipe.judge, recipe.label.mode] if _judges(recipe) else []
    for model in {repr(model): model for model in _models_in(asked)}.values():
        check_model(model)


def _judges(recipe: Recipe) -> bool:
    return any(p.judged for p in load_constitution(recipe.constitution).principles)


def _models_in(value: Any) -> Iterator[JudgeModel]:
    """The sections that name a model, however deep they stand."""
    if isinstance(value, LocalModel | VllmModel | ClientModel | ScriptedModel | RayModel):
        yield value
    elif isinstance(value, BaseModel):
        yield from _models_in([*dict(value).values()])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _models_in(one)
