"""One training stage of a model in a process of its own: what it was planned to take, and what it took at most.

The peak is the kernel's for this process's memory, above what there is when all is imported (forked.py). Never
getrusage's: that one begins with the peak of whoever started the process. A first small update makes the optimiser's
moments, so that the second, large one finds everything there.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from rlaif.config import Recipe
from rlaif.config.optimise import ChosenDemonstrations, Ppo, Sft
from rlaif.config.reward import RewardSection
from rlaif.config.training import Lora
from rlaif.models.local.machine import multiplies_bf16, torch_dtype
from rlaif.models.local.packing import Row
from rlaif.training import offline
from rlaif.training.lessons import Lesson
from rlaif.training.memory import plan_memory, rollout_rows
from rlaif.training.offline import SftMethod
from rlaif.training.optimise.actors import open_actors
from rlaif.training.optimise.loop import train_policy
from rlaif.training.policy_model import PolicyModel
from rlaif.training.reward import train
from rlaif.training.scalar_model import ScalarModel
from tests.tiny_training import no_checks, of_models, prompt, tiny_recipe, tiny_tracker

SMALL = 8
"""Tokens of a response, and of a prompt, in the first update."""
Stage = tuple[Any, list[Row]]


def large(dtype: str) -> int:
    """Those of the second update: fewer where this machine emulates bf16, half a minute for each hundred."""
    return 96 if dtype == "float32" or multiplies_bf16() else 40


def status(name: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def recipe_of(folder: str, dtype: str, **changes: Any) -> Recipe:
    recipe = tiny_recipe(folder, **changes)
    return recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"dtype": dtype})})


def rows(size: int, count: int) -> tuple[Row, ...]:
    """Responses to one prompt, of random tokens."""
    rng = random.Random(size)
    ids = [tuple(rng.randrange(3, 250) for _ in range(size)) for _ in range(count + 1)]
    return tuple(Row(ids[0], response) for response in ids[1:])


def first_small(plan_of: Any) -> int:
    """A seed under which the small lesson, the first of two, comes first."""
    return next(seed for seed in range(100) if plan_of(seed))


def reward(folder: str, dtype: str, lora: Lora | None, run: Path) -> tuple[Recipe, list[Row]]:
    section = RewardSection(lora=lora, minibatch_size=1)
    lessons = [Lesson(str(size), str(size), rows(size, 2), 1.0, 1.0) for size in (SMALL, large(dtype))]
    seed = first_small(lambda seed: train.plan(lessons, section, seed, "model") == [[0], [1]])
    recipe = recipe_of(folder, dtype, reward=section)
    model = ScalarModel.from_language_model(folder, None, torch_dtype(dtype), pad_id=0, seed=1)
    train.train(
        train.RewardStage(model, None, section, seed), lessons, run / "checkpoints", tiny_tracker(run, "reward")
    )
    return recipe, [row for lesson in lessons for row in lesson.rows]


def sft(folder: str, dtype: str, lora: Lora | None, run: Path) -> tuple[Recipe, list[Row]]:
    section = Sft(data=ChosenDemonstrations(), lora=lora, minibatch_size=1)
    both = [rows(size, 1) for size in (SMALL, 2 * large(dtype))]
    method = SftMethod([Lesson(str(i), str(i), each, 1.0, float(len(each[0].response))) for i, each in enumerate(both)])
    seed = first_small(lambda seed: offline.plan_of(method, section, seed) == [[0], [1]])
    recipe = recipe_of(folder, dtype, optimise=section)
    policy = PolicyModel.load(folder, None, torch_dtype(dtype))
    offline.make_learner(policy, lora, 0, recipe.compute)
    offline.train(policy, method, section, seed, run / "checkpoints", tiny_tracker(run))
    return recipe, [row for each in both for row in each]


def ppo(folder: str, dtype: str, lora: Lora | None, run: Path) -> tuple[Recipe, list[Row]]:
    section = Ppo(
        steps=1, rollouts_per_step=8, minibatch_size=4, responses_per_prompt=4, epochs=1, max_tokens=large(dtype) // 4,
        lora=lora, critic_lora=lora,
    )  # fmt: skip
    recipe = recipe_of(folder, dtype, optimise=section)
    scorer = ScalarModel.from_language_model(folder, None, torch_dtype(dtype), pad_id=0, seed=1)
    scorer.save(run / "reward_model", PolicyModel.load(folder, None, torch_dtype(dtype)).tokenizer)
    del scorer
    actors = open_actors(recipe, *of_models(recipe, run / "reward_model"), run / "weights")
    asked = [prompt("x" * (large(dtype) // 4 + number)) for number in range(2)]
    train_policy(actors, asked, section, 0, run / "checkpoints", tiny_tracker(run), no_checks)
    return recipe, rollout_rows(recipe, asked)


def measure(told: Path, folder: str, stage: str, dtype: str, adapters: str) -> None:
    """Write to `told` what the stage took and what was planned, in bytes."""
    torch.set_num_threads(2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = status("VmRSS")
    lora = Lora() if adapters == "lora" else None
    with tempfile.TemporaryDirectory() as run:
        recipe, learnt = {"reward": reward, "sft": sft, "ppo": ppo}[stage](folder, dtype, lora, Path(run))
    measured = status("VmHWM") - before
    plan = plan_memory(recipe, "reward" if stage == "reward" else "optimise", learnt)
    told.write_text(json.dumps({"measured": measured, "planned": plan.together, "plan": str(plan)}))
