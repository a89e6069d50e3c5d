"""From a reward to a policy: the stage optimise, by any of the methods behind `optimise.kind`."""

from __future__ import annotations

from typing import Any

from rlaif.config import Recipe
from rlaif.config.optimise import Dpo, OnPolicy, Sft
from rlaif.constitution import load_constitution
from rlaif.feedback.prompts import read_prompts
from rlaif.rewards.open import open_rewards
from rlaif.run import Run
from rlaif.stages.asking import asking, made
from rlaif.stages.publish import publishing


def optimise(recipe: Recipe, run: Run) -> dict[str, Any]:
    """policy/: the trained policy."""
    if isinstance(recipe.optimise, OnPolicy):
        return _from_rollouts(recipe, run, recipe.optimise)
    from rlaif.stages import offline

    if isinstance(recipe.optimise, Dpo):
        facts: dict[str, Any] = offline.dpo(recipe, run)
    elif isinstance(recipe.optimise, Sft):
        facts = offline.sft(recipe, run)
    else:
        facts = offline.best_of_n(recipe, run)
    return facts


def _from_rollouts(recipe: Recipe, run: Run, section: OnPolicy) -> dict[str, Any]:
    from rlaif.models.local.dtype import torch_dtype
    from rlaif.training import memory
    from rlaif.training.optimise.actors import open_actors
    from rlaif.training.optimise.loop import train_policy
    from rlaif.training.reward.ensemble import RewardModels
    from rlaif.training.tracking import tracking

    constitution = load_constitution(recipe.constitution)
    prompts = read_prompts(recipe.prompts).train
    folder = made(run.reward_model, "reward") if section.reads_reward_model else None
    models = RewardModels(folder, torch_dtype(recipe.policy.dtype))
    rewards = open_rewards(recipe, lambda judge: asking(judge, run), models, section.microbatch_tokens)
    plan = memory.plan_memory(recipe, "optimise", memory.rollout_rows(recipe, prompts))
    checkpoints = run.checkpoints / "optimise"
    with memory.within(plan), rewards as open_reward:
        actors = open_actors(recipe, models, open_reward, checkpoints / "weights")
        try:
            with tracking(run, "optimise", section.steps, recipe) as tracker:
                train_policy(actors, prompts, section, recipe.seed, checkpoints, tracker, constitution.pass_rates)
        finally:
            actors.sampler.close()
    with publishing(run.policy) as folder:
        actors.policy.save(folder)
    return {"steps": section.steps, "rollouts": section.steps * section.rollouts_per_step}
