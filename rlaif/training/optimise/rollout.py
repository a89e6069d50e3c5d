"""Rollouts: the policy writes, the frozen models say what they think, and everything a PPO step needs is in one place.

Shape suffixes: B responses, T response tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from rlaif.config import Recipe
from rlaif.config.sections import Ppo
from rlaif.models.local.generate import Sampling, generate
from rlaif.models.local.load import DTYPES
from rlaif.models.local.packing import Row, in_microbatches, response_mask
from rlaif.models.local.tokens import encode_prompt
from rlaif.records import Prompt, derive_seed
from rlaif.training.policy_model import PolicyModel
from rlaif.training.scalar_model import ScalarModel, as_ended


@dataclass(frozen=True)
class Actors:
    """The four models of PPO. The reward model scores, the critic (started from it) estimates returns; the
    reference is the policy's own frozen weights."""

    policy: PolicyModel
    reward_model: ScalarModel
    critic: ScalarModel


def open_actors(recipe: Recipe, reward_model: Path) -> Actors:
    """Load the policy of the recipe and the reward model of the run, and make policy and critic trainable."""
    section = recipe.optimise
    assert isinstance(section, Ppo)
    dtype = DTYPES[recipe.policy.dtype]
    policy = PolicyModel.load(recipe.policy.model, recipe.policy.revision, dtype)
    policy.make_trainable(section.lora, derive_seed(recipe.seed, "ppo", "lora"))
    scorer = ScalarModel.load(reward_model, dtype)
    critic = scorer.as_critic(section.critic_lora, derive_seed(recipe.seed, "ppo", "critic lora"))
    return Actors(policy, scorer, critic)


@dataclass(frozen=True)
class Rollouts:
    """One step's responses with all that is fixed while the policy learns from them."""

    prompts: list[Prompt]
    rows: list[Row]
    texts: list[str]
    finished: list[bool]
    """Whether the policy ended the response itself."""
    mask_BT: Tensor
    logprobs_BT: Tensor
    """Of the policy that wrote them, from the training forward pass, at the sampling temperature."""
    ref_logprobs_BT: Tensor
    entropy_BT: Tensor
    values_BT: Tensor
    score_B: Tensor
    """The reward model's, before any penalty."""


@lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(derive_seed(seed, "ppo", "order", epoch)).shuffle(order)
    return order


def prompts_of_step(prompts: Sequence[Prompt], per_step: int, step: int, seed: int) -> list[Prompt]:
    """The prompts of one step: every prompt once an epoch, each epoch in a fresh order derived from the seed."""
    chosen = []
    for position in range(step * per_step, (step + 1) * per_step):
        epoch, place = divmod(position, len(prompts))
        chosen.append(prompts[_order(len(prompts), epoch, seed)[place]])
    return chosen


def roll_out(actors: Actors, prompts: Sequence[Prompt], section: Ppo, step: int, seed: int) -> Rollouts:
    """Sample `responses_per_prompt` responses to each prompt and evaluate them with every model."""
    policy = actors.policy
    repeated = [p for p in prompts for _ in range(section.responses_per_prompt)]
    # By place, not by prompt: where one prompt comes twice in a step, its responses still differ.
    seeds = [derive_seed(seed, "ppo", step, place) for place in range(len(repeated))]
    encoded = [encode_prompt(policy.tokenizer, p.messages, section.max_prompt_tokens) for p in repeated]
    sampling = Sampling(section.max_tokens, section.temperature)
    with policy.for_generation():
        samples = generate(policy.model, encoded, sampling, seeds, policy.tokenizer.pad_token_id or 0)
    rows = [Row(tuple(ids), tuple(sample.tokens)) for ids, sample in zip(encoded, samples, strict=True)]
    device = policy.model.device
    budget = section.microbatch_tokens
    scored = policy.without_gradients(rows, section.temperature, budget)
    return Rollouts(
        prompts=repeated,
        rows=rows,
        texts=[policy.tokenizer.decode(s.tokens, skip_special_tokens=True).strip() for s in samples],
        finished=[sample.finished for sample in samples],
        mask_BT=response_mask(rows, device),
        logprobs_BT=scored.logprobs_BT,
        ref_logprobs_BT=policy.reference_logprobs(rows, section.temperature, budget),
        entropy_BT=scored.entropy_BT,
        values_BT=values(actors.critic, rows, budget),
        score_B=actors.reward_model.score_all(as_ended(rows, policy.tokenizer), budget).to(device),
    )


def values(critic: ScalarModel, rows: Sequence[Row], max_tokens: int) -> Tensor:
    """values_BT of all rows, a microbatch at a time, without gradients; 0 on padding."""
    return in_microbatches(rows, max_tokens, critic.head.weight.device, critic.values)


def describe(rollouts: Rollouts, kl_B: Tensor, index: int) -> str:
    """One whole rollout for a person to read: prompt, response, score and KL."""
    prompt: Any = rollouts.prompts[index].messages[-1].content
    ended = "" if rollouts.finished[index] else " [cut off]"
    return (
        f"    prompt    {prompt}\n    response  {rollouts.texts[index]}{ended}\n"
        f"    score {float(rollouts.score_B[index]):.2f}   KL {float(kl_B[index]):.2f} nats"
    )
