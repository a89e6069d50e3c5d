"""Small actors, sections, preferences and trackers for the tests of training. Everything is float32 and seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlaif.config import Recipe
from rlaif.config.feedback import PromptsSection
from rlaif.config.models import LocalModel, ScriptedModel
from rlaif.config.optimise import Grpo, OnPolicy, Ppo, Reinforce, Rloo
from rlaif.config.reward import RewardSection
from rlaif.config.sources import FileSource
from rlaif.config.training import Lora
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.machine import torch_dtype
from rlaif.models.local.packing import Row
from rlaif.records import Message, Preference, Prompt, content_id
from rlaif.rewards.open import Shop, open_reward
from rlaif.run_folder import Run
from rlaif.training.optimise import updates
from rlaif.training.optimise.actors import Actors, SharedCritic
from rlaif.training.optimise.rewards import OpenReward, Reward, Rewards, Scores
from rlaif.training.policy_model import PolicyModel
from rlaif.training.reward.ensemble import RewardModels
from rlaif.training.samplers import LocalSampler
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.tracking import Tracker

LORA = Lora(rank=4, alpha=8.0)
PROMPTS = ("Hi", "Name a colour.", "Why?", "Tell me a short story, please.", "2 + 2", "What is the time now?")


def prompt(text: str) -> Prompt:
    return Prompt.of((Message(role="user", content=text),))


def prompts(count: int) -> list[Prompt]:
    return [prompt(text) for text in PROMPTS[:count]]


def tiny_recipe(folder: str, **changes: Any) -> Recipe:
    return Recipe(
        name="tiny",
        constitution="none",
        policy=LocalModel(model=folder, dtype="float32"),
        judge=ScriptedModel(model="none:none"),
        prompts=PromptsSection(sources=(FileSource(path="none"),)),
        **changes,
    )


def tiny_section(**changes: Any) -> Ppo:
    settings: dict[str, Any] = {
        "steps": 4,
        "rollouts_per_step": 8,
        "responses_per_prompt": 2,
        "epochs": 2,
        "minibatch_size": 4,
        "max_tokens": 6,
        "learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "temperature": 0.7,
        "lora": LORA,
        "critic_lora": LORA,
        "checkpoint_every": 2,
    }
    return Ppo(**(settings | changes))


METHODS: dict[str, type[OnPolicy]] = {"ppo": Ppo, "reinforce": Reinforce, "rloo": Rloo, "grpo": Grpo}


def tiny_method(kind: str, **changes: Any) -> Any:
    """A section of any method that learns from rollouts, as small as `tiny_section`."""
    settings: dict[str, Any] = {
        "steps": 4,
        "rollouts_per_step": 8,
        "responses_per_prompt": 4,
        "epochs": 2,
        "minibatch_size": 4,
        "max_tokens": 6,
        "learning_rate": 1e-3,
        "lora": LORA,
        "checkpoint_every": 2,
    }
    if kind == "ppo":
        settings |= {"critic_learning_rate": 1e-3, "critic_lora": LORA}
    return METHODS[kind](**(settings | changes))


def tiny_scalar(folder: str, seed: int = 1) -> ScalarModel:
    return ScalarModel.from_language_model(folder, None, torch.float32, pad_id=0, seed=seed)


@dataclass(frozen=True)
class TinyActors(Actors):
    """Actors, and the reward model behind their score."""

    reward_model: Any = None


def no_text(source: Any) -> Any:
    raise AssertionError(f"no reward of texts for {source}")


class TextReward(Reward):
    """A function of prompts and texts as a reward."""

    def __init__(self, function: Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]) -> None:
        self._function = function

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        return Scores(self._function(prompts, texts))


def of_models(recipe: Recipe, folder: Path) -> tuple[RewardModels, OpenReward]:
    """The reward models of a folder, and the rewards over them; no text is read."""
    models = RewardModels(folder, torch_dtype(recipe.policy.dtype))
    tokenizer = load_tokenizer(recipe.policy.model)
    shop = Shop(models, lambda: tokenizer, recipe.optimise.microbatch_tokens, no_text)
    return models, lambda source: open_reward(source, shop)


def tiny_actors(
    folder: str,
    section: OnPolicy,
    scorer: ScalarModel | None = None,
    seed: int = 5,
    text: Callable[[Any], Reward] = no_text,
) -> TinyActors:
    """Policy and critic made trainable as `open_actors` does, over a reward model with a fresh head."""
    policy = PolicyModel.load(folder, None, torch.float32)
    # A random model ends one token in 262; with these end tokens about one response in two is finished.
    policy.model.generation_config.eos_token_id = [2, *range(140, 170)]
    policy.make_trainable(section.lora, seed)
    model = scorer or tiny_scalar(folder)
    shop = Shop(lambda head: [model], lambda: policy.tokenizer, section.microbatch_tokens, text)
    rewards = Rewards.of(section, lambda source: open_reward(source, shop))
    critic = None
    if isinstance(section, Ppo):
        critic = model.as_critic(section.critic_lora, seed + 1) if section.critic == "own" else SharedCritic(policy)
    return TinyActors(policy, LocalSampler(policy), rewards, critic, reward_model=model)


def accumulate_both(actors: Any, *work: Any) -> float:
    """The gradients of policy and critic at once, which a step has one after the other."""
    task = updates.Task(*work)
    far = updates.accumulate(actors, task)
    if isinstance(actors.critic, ScalarModel):
        updates.accumulate_values(actors.critic, task)
    return far


def tiny_tracker(folder: Path, stage: str = "optimise", total: int = 4) -> Tracker:
    folder.mkdir(parents=True, exist_ok=True)
    return Tracker(Run(folder), stage, total, lambda count: None, lambda line: None)


def no_checks(texts: Sequence[str], prompts: Sequence[Prompt]) -> dict[str, float]:
    return {}


class Killed(BaseException):
    """Stands for a kill."""


def dies_at(call: int) -> Any:
    """Checks that end the run when they are asked for the n-th time."""
    calls = [0]

    def checks(texts: Sequence[str], prompts: Sequence[Prompt]) -> dict[str, float]:
        calls[0] += 1
        if calls[0] == call:
            raise Killed
        return {}

    return checks


def weights(*modules: Any) -> dict[str, torch.Tensor]:
    """A copy of every parameter, by name."""
    return {f"{i}.{name}": p.detach().clone() for i, m in enumerate(modules) for name, p in m.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def random_rows(seed: int, prompts: int, responses: int, longest: int = 9) -> list[Row]:
    """Rows in mixed order: `responses` of each of `prompts` different prompts."""
    rng = random.Random(seed)

    def ids(low: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 250) for _ in range(rng.randint(low, longest)))

    rows = [Row(p, ids(1)) for p in [ids(2) for _ in range(prompts)] for _ in range(responses)]
    rng.shuffle(rows)
    return rows


def preference(question: str, chosen: str, rejected: str, **changes: Any) -> Preference:
    turn = (Message(role="user", content=question),)
    settings: dict[str, Any] = {
        "p_chosen": 1.0,
        "source": "ai",
        "weight": 1.0,
        "split": "train",
        "prompt_id": content_id(question),
        "pair_id": content_id(question, *sorted((chosen, rejected))),
    }
    return Preference(
        prompt=turn,
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        **(settings | changes),
    )


def planted(count: int, seed: int = 0) -> list[Preference]:
    """Pairs of random texts in which the one with more z is chosen; every fifth prompt is held out."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        a, b = ("".join(rng.choice("abcdzzzz" if few else "abcdefgz") for _ in range(8)) for few in (True, False))
        if a.count("z") == b.count("z"):
            a += "z"
        chosen, rejected = (a, b) if a.count("z") > b.count("z") else (b, a)
        found.append(preference(f"q{i}", chosen, rejected, split="heldout" if i % 5 == 0 else "train"))
    return found


def reward_section(**changes: Any) -> RewardSection:
    settings: dict[str, Any] = {"lora": None, "learning_rate": 3e-3, "minibatch_size": 16, "epochs": 2}
    return RewardSection(**(settings | changes))
