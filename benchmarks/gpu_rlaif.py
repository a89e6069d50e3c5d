"""rlaif's side of gpu.py: every method through its real loop, timed step by step."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu_work import RATE, Case, Shape, preferences, prompts
from rlaif.config import Recipe
from rlaif.config.optimise import Dpo, Sft
from rlaif.config.reward import RewardSection
from rlaif.config.training import ComputeSection, Lora
from rlaif.models.local.generate import Sampling, generate
from rlaif.models.local.machine import torch_dtype
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt
from rlaif.rewards.open import open_rewards
from rlaif.testing import tiny_tokenizer
from rlaif.training.lessons import Text, distinct
from rlaif.training.offline import DpoMethod, SftExample, SftMethod, make_learner, train
from rlaif.training.optimise.actors import open_actors
from rlaif.training.optimise.loop import train_policy
from rlaif.training.policy_model import PolicyModel
from rlaif.training.reward.data import pair_lessons
from rlaif.training.reward.ensemble import RewardModels
from rlaif.training.reward.train import RewardStage, train_reward_model
from rlaif.training.samplers import SampledResponse, Sampler
from rlaif.training.scalar_model import ScalarModel

ADAPTER = Lora()
NEVER = 10**6
Kept = Sequence[Sequence[Sequence[int]]]
"""Responses as token ids, by step."""


def now() -> float:
    """Seconds, once the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """Stands where the tracker of a stage stands: keeps the rows, and when each step had ended on the device."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.ends: list[float] = []

    def rewind(self, step: int) -> None: ...

    def say(self, line: str) -> None: ...

    def log(self, step: int, row: Any) -> None:
        self.rows.append(dict(row))
        self.ends.append(now())

    @property
    def seconds(self) -> float:
        """A step, the first left out: it warms up and compiles."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


class Recorder:
    """A sampler that keeps what another one wrote; or hands out what was kept."""

    def __init__(self, sampler: Sampler, kept: Kept) -> None:
        self._sampler, self._kept = sampler, kept
        self.written: list[list[list[int]]] = []
        self.rows: list[Row] = []
        """Of the last step."""

    def sync(self) -> None:
        self._sampler.sync()

    def sample(self, prompts: Any, sampling: Any, seeds: Any) -> list[SampledResponse]:
        if self._kept:
            found = [SampledResponse(list(tokens), tokens[-1] == 2) for tokens in self._kept[len(self.written)]]
        else:
            found = self._sampler.sample(prompts, sampling, seeds)
        self.written.append([one.tokens for one in found])
        self.rows = [Row(tuple(ids), tuple(one.tokens)) for ids, one in zip(prompts, found, strict=True)]
        return found

    def close(self) -> None: ...


class Done(NamedTuple):
    """What a method did: its steps, the rows of one of them, and what was written in each."""

    clock: Clock
    rows: list[Row]
    written: list[list[list[int]]]


def learn(case: Case, shape: Shape, folder: Path, dtype: str, kept: Kept = ()) -> Done:
    """`shape.steps` updates of this method on the models in `folder`. `kept`: rollouts to take instead of writing."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        if case.on_policy:
            recorder = _from_rollouts(case, shape, folder, dtype, kept, clock, Path(scratch))
            return Done(clock, recorder.rows, recorder.written)
        learner = _reward if case.kind == "reward" else _from_texts
        return Done(clock, learner(case, shape, folder, getattr(torch, dtype), clock, Path(scratch)), [])


def _settings(case: Case, shape: Shape) -> dict[str, Any]:
    return {
        "lora": ADAPTER if case.lora else None,
        "learning_rate": RATE,
        "minibatch_size": shape.rows,
        "microbatch_tokens": shape.microbatch_tokens,
        "max_length": 2 * (shape.prompt + shape.response) + 64,
        "checkpoint_every": NEVER,
        "epochs": shape.steps,
    }


def _from_texts(case: Case, shape: Shape, folder: Path, dtype: torch.dtype, clock: Any, scratch: Path) -> list[Row]:
    policy = PolicyModel.load(str(folder / "policy"), None, dtype)
    section = (Sft if case.kind == "sft" else Dpo)(**_settings(case, shape))
    pairs = preferences(shape)
    shown = [SftExample(pair.prompt_id, pair.prompt, Text(pair.chosen[-1].content)) for pair in pairs]
    method: Any = (
        SftMethod.of(policy.tokenizer, shown, section.max_length)
        if isinstance(section, Sft)
        else DpoMethod.of(policy, pairs, section)
    )
    make_learner(policy, section.lora, 0, ComputeSection())
    train(policy, method, section, 0, scratch, clock)
    return distinct(method.lessons)


def _reward(case: Case, shape: Shape, folder: Path, dtype: torch.dtype, clock: Any, scratch: Path) -> list[Row]:
    tokenizer, section = tiny_tokenizer(), RewardSection(**_settings(case, shape))
    model = ScalarModel.from_language_model(folder / "policy", None, dtype, pad_id=0, seed=1)
    train_reward_model(RewardStage(model, tokenizer, section, 0), preferences(shape), scratch, clock)
    return distinct(pair_lessons(tokenizer, preferences(shape), section))


def recipe_of(case: Case, shape: Shape, folder: Path, dtype: str) -> Recipe:
    """Policy optimisation; what is not read (judge, constitution, prompts) is named and never opened."""
    adapter = ADAPTER if case.lora else None
    model = {"backend": "local", "model": str(folder / "policy"), "dtype": dtype}
    optimise: dict[str, Any] = {
        "kind": case.kind,
        "steps": shape.steps,
        "rollouts_per_step": shape.rows,
        "minibatch_size": shape.rows,
        "responses_per_prompt": case.responses,
        "microbatch_tokens": shape.microbatch_tokens,
        "epochs": case.epochs,
        "max_prompt_tokens": 2 * shape.prompt + 64,
        "max_tokens": shape.response,
        "temperature": 1.0,
        "learning_rate": RATE,
        "lora": adapter,
        "checkpoint_every": NEVER,
        "print_every": NEVER,
    }
    if case.critic:
        optimise |= {"critic": case.critic, "critic_learning_rate": RATE, "critic_lora": adapter}
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "constitution": "plain-and-brief",
            "policy": model,
            "judge": model,
            "prompts": {"sources": [{"kind": "file", "path": "everyday"}]},
            "optimise": optimise,
        }
    )


def _from_rollouts(
    case: Case, shape: Shape, folder: Path, dtype: str, kept: Kept, clock: Any, scratch: Path
) -> Recorder:
    recipe = recipe_of(case, shape, folder, dtype)
    section: Any = recipe.optimise
    models = RewardModels(folder / "reward_model", torch_dtype(recipe.policy.dtype))
    with open_rewards(recipe, dict[Any, Any]().__getitem__, models, section.microbatch_tokens) as open_reward:
        actors = open_actors(recipe, models, open_reward, scratch / "weights")
    recorder = Recorder(actors.sampler, kept)
    asked = prompts(shape, shape.rows // case.responses * shape.steps)
    train_policy(replace(actors, sampler=recorder), asked, section, 0, scratch, clock, lambda *_: {})
    return recorder


class Writing(NamedTuple):
    """How long responses of one length to some prompts took."""

    seconds: float
    tokens: int


def write(folder: Path, shape: Shape, dtype: str) -> Writing:
    """Responses to as many prompts as an update has, by rlaif's sampler; once before, to warm up."""
    policy = PolicyModel.load(str(folder / "policy"), None, getattr(torch, dtype))
    policy.model.generation_config.eos_token_id = [policy.model.config.vocab_size]  # no token: all write to the end
    asked = encoded(shape)
    seeds = random.Random(0).sample(range(10**6), len(asked))
    for _ in range(2):
        began = now()
        samples = generate(policy.model, asked, Sampling(shape.response, 1.0), seeds, 0)
    return Writing(now() - began, sum(len(sample.tokens) for sample in samples))


def encoded(shape: Shape) -> list[list[int]]:
    tokenizer = tiny_tokenizer()
    return [encode_prompt(tokenizer, prompt.messages, 2 * shape.prompt + 64) for prompt in prompts(shape, shape.rows)]
