"""From a reward to a policy: the stage optimise."""

from __future__ import annotations

from typing import Any

from rlaif.config import Recipe
from rlaif.config.sections import Ppo
from rlaif.constitution import load_constitution
from rlaif.feedback.prompts import read_prompts
from rlaif.run import Run
from rlaif.stages.asking import made
from rlaif.stages.publish import publishing


def optimise(recipe: Recipe, run: Run) -> dict[str, Any]:
    """policy/: the policy trained against the reward model."""
    from rlaif.training.optimise import loop as training
    from rlaif.training.optimise.rollout import open_actors
    from rlaif.training.tracking import tracking

    section = recipe.optimise
    assert isinstance(section, Ppo)
    constitution = load_constitution(recipe.constitution)
    prompts = read_prompts(recipe.prompts).train
    actors = open_actors(recipe, made(run.reward_model, "reward"))
    with tracking(run, "optimise", section.steps) as tracker:
        training.train_ppo(
            actors,
            prompts,
            recipe.optimise,
            recipe.seed,
            run.checkpoints / "optimise",
            tracker,
            constitution.pass_rates,
        )
    with publishing(run.policy) as folder:
        actors.policy.save(folder)
    return {"steps": section.steps, "rollouts": section.steps * section.rollouts_per_step}
