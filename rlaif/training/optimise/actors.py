"""Who takes part in policy optimisation: the policy, its critic, who writes rollouts and what scores them.

A critic says what a return is expected to be. It is a model of its own, or a head on the policy's trunk: that costs no
second model and no second pass, and its error teaches the trunk too.
Shape suffixes: B responses, T response tokens, N real tokens, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlaif.config import Recipe
from rlaif.config.optimise import OnPolicy, Ppo
from rlaif.config.rollouts import VllmRollouts
from rlaif.models.embedded import resolve_model
from rlaif.models.engine import Engine
from rlaif.models.local.machine import torch_dtype
from rlaif.records import derive_seed
from rlaif.training.compute import prepare
from rlaif.training.optimise.rewards import OpenReward, Rewards, heads_read
from rlaif.training.policy_model import PolicyModel
from rlaif.training.resting import RestingWeights
from rlaif.training.reward.ensemble import RewardModels
from rlaif.training.reward.explain import Credit, by_attribution
from rlaif.training.samplers import LocalSampler, Sampler
from rlaif.training.scalar_model import ScalarModel


class SharedCritic:
    """A linear head in float32 over the states in which the policy chose its tokens. It starts at 0: the right value of
    scores that are centred on the policy's own responses."""

    def __init__(self, policy: PolicyModel) -> None:
        width = policy.model.config.get_text_config().hidden_size
        self.head = torch.nn.Linear(width, 1, dtype=torch.float32, device=policy.model.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def values(self, hidden_NH: Tensor, mask_BT: Tensor) -> Tensor:
        """values_BT from the states at the real tokens, row after row; 0 on padding. Gradients reach the trunk."""
        value_N = F.linear(hidden_NH.float(), self.head.weight, self.head.bias).squeeze(-1)
        return torch.zeros(mask_BT.shape, device=mask_BT.device).masked_scatter(mask_BT, value_N)


Critic = ScalarModel | SharedCritic


def modules_of(critic: Critic) -> list[Any]:
    """The modules whose trainable parameters are the critic's alone."""
    return [critic.head] if isinstance(critic, SharedCritic) else [critic.backbone, critic.head]


@dataclass(frozen=True)
class Actors:
    """The policy is trainable, and so is the critic (PPO alone has one); the reference is the policy's own frozen
    weights, and everything that scores is frozen."""

    policy: PolicyModel
    sampler: Sampler
    rewards: Rewards
    critic: Critic | None = None
    resting: RestingWeights | None = None
    """The models that learning does not read."""
    user: Engine | None = None
    """Who answers the policy in rollouts of several turns; the first process asks for all."""
    credit: Credit | None = None
    """Spreads a score over the tokens, where the section says so."""

    def rest(self) -> None:
        """Until something is scored again, the frozen models need no memory."""
        if self.resting is not None:
            self.resting.rest()


def open_actors(
    recipe: Recipe, models: RewardModels, open_reward: OpenReward, folder: Path, user: Engine | None = None
) -> Actors:
    """Load what the recipe's section needs. `models` are those that `open_reward` reads; `folder` is where a server
    finds the policy's newest weights."""
    section = recipe.optimise
    assert isinstance(section, OnPolicy)
    # Opens the judge, before anything is loaded: its server must find the GPU empty.
    rewards = Rewards.of(section, open_reward, recipe.label.max_failures)
    policy = PolicyModel.load(recipe.policy.model, recipe.policy.revision, torch_dtype(recipe.policy.dtype))
    policy.make_trainable(section.lora, derive_seed(recipe.seed, "ppo", "lora"))
    prepare(policy, recipe.compute)
    for head in heads_read(section):
        models(head)
    critic: Critic | None = None
    if isinstance(section, Ppo) and section.critic == "shared":
        critic = SharedCritic(policy)
    elif isinstance(section, Ppo):
        seed = derive_seed(recipe.seed, "ppo", "critic lora")
        critic = _start(recipe, models, policy).as_critic(section.critic_lora, seed)
        prepare(critic, recipe.compute)
    resting = RestingWeights(_only_read(policy, models, critic), folder)
    credit = None
    if isinstance(section, Ppo) and section.credit:
        (head,) = heads_read(section)[:1]  # the score's own; constraints come after it
        credit = by_attribution(models(head), policy.tokenizer, section.credit.steps)
    return Actors(policy, open_sampler(section, policy, folder), rewards, critic, resting, user, credit)


def _only_read(policy: PolicyModel, models: RewardModels, critic: Critic | None) -> list[Any]:
    """The reference and the reward models, but for the one whose weights the critic learns over."""
    used = critic.model if isinstance(critic, ScalarModel) else None
    members = [one.model for opened in models.opened.values() for one in opened if one.model is not used]
    reference = [] if policy.reference is None else [policy.reference]
    return [*reference, *(model.requires_grad_(False) for model in members)]


def _start(recipe: Recipe, models: RewardModels, policy: PolicyModel) -> ScalarModel:
    """What a critic of its own starts as: the reward model, or the first of several; where none takes part, the
    policy's backbone with a new head (direct RLAIF, arXiv 2309.00267, section 3.2)."""
    assert isinstance(recipe.optimise, OnPolicy)
    if recipe.optimise.reads_reward_model:
        return models()[0]
    path = resolve_model(recipe.policy.model, recipe.policy.revision).path
    return ScalarModel.from_language_model(
        path,
        recipe.policy.revision,
        torch_dtype(recipe.policy.dtype),
        pad_id=policy.tokenizer.pad_token_id,
        seed=derive_seed(recipe.seed, "ppo", "critic head"),
    )


def open_sampler(section: OnPolicy, policy: PolicyModel, folder: Path) -> Sampler:
    """Who writes the rollouts."""
    if isinstance(section.rollouts, VllmRollouts):
        from rlaif.training.samplers.vllm import VllmSampler  # noqa: PLC0415 (only where it is needed)

        return VllmSampler(section.rollouts, policy, folder)
    return LocalSampler(policy)
