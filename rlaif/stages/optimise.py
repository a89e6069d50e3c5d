"""From a reward to a policy: the stage optimise, by any of the methods behind `optimise.kind`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.config.optimise import BestOfN, Dpo, JudgeDemonstrations, Offline, OnPolicy, Sft, VllmRollouts
from rlaif.config.scoring import JudgeScore
from rlaif.config.sources import FileSource
from rlaif.constitution import load_constitution
from rlaif.feedback.prompts import read_prompts
from rlaif.formats.rows import path_of
from rlaif.models.files import named_files
from rlaif.rewards.open import open_rewards
from rlaif.run_folder import Run
from rlaif.stages.asking import asking, made
from rlaif.stages.stage import (
    Stage,
    constitution_file,
    model_files,
    prompt_files,
    publishing,
    template_files,
    weaker_model,
)


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
    from rlaif.models.local.machine import torch_dtype
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


def _learnt_from(recipe: Recipe, run: Run) -> list[Path]:
    """What of this run the policy is trained on."""
    return {
        "reward_model": [run.reward_model],
        "preferences": [run.preferences, run.responses, run.human_demonstrations],
        "demonstrations": [run.demonstrations],
        None: [],
    }[recipe.learns_from]


def method_files(recipe: Recipe) -> list[Path]:
    """What scores or teaches the policy from outside the run: constitution, judges, templates, demonstrations."""
    method = recipe.optimise
    if isinstance(method, Sft):
        if isinstance(method.data, FileSource):
            return [path_of(method.data)]
        return model_files(recipe.judge) if isinstance(method.data, JudgeDemonstrations) else []
    if isinstance(method, Dpo):
        return []
    judges = _judges(method)
    templates = [file for judge in judges for file in template_files(judge.mode)]
    models = [file for judge in judges for file in model_files(judge.model or recipe.judge)]
    models += [file for judge in judges if (weaker := weaker_model(judge.mode)) for file in model_files(weaker)]
    rollouts = method.rollouts if isinstance(method, OnPolicy) else None
    told = named_files(rollouts.arguments) if isinstance(rollouts, VllmRollouts) else []
    return [constitution_file(recipe), *templates, *models, *told]


def _judges(method: OnPolicy | BestOfN) -> list[JudgeScore]:
    gold = [method.gold.source] if isinstance(method, OnPolicy) and method.gold else []
    return [source for source in [*method.sources, *gold] if isinstance(source, JudgeScore)]


def _asks_a_judge(recipe: Recipe) -> bool:
    method = recipe.optimise
    if isinstance(method, Sft):
        return isinstance(method.data, JudgeDemonstrations)
    return not isinstance(method, Dpo) and bool(_judges(method))


OPTIMISE = Stage(
    "optimise",
    optimise,
    knobs=lambda recipe: [
        "seed",
        "policy",
        "prompts",
        "optimise",
        "compute",
        "tracking",
        "label.max_failures",
        *([] if isinstance(recipe.optimise, Offline) else ["constitution", "reward.model"]),
        *(["reward"] if recipe.learns_from == "reward_model" else []),
        *(["judge", "label"] if _asks_a_judge(recipe) else []),
    ],
    inputs=lambda recipe, run: [
        *_learnt_from(recipe, run),
        *method_files(recipe),
        *prompt_files(recipe),
        *model_files(recipe.policy),
    ],
    outputs=lambda run: [run.policy, run.judge_demonstrations, run.demonstration_failures],
    together=True,
)
