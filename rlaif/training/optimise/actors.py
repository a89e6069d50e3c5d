"""Who takes part in policy optimisation: the policy, its critic, who writes rollouts and what scores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.config.optimise import OnPolicy, Ppo, VllmRollouts
from rlaif.config.scoring import ChecksScore, JudgeScore, Veto, sources_of
from rlaif.models.embedded import resolve_model
from rlaif.models.local.dtype import torch_dtype
from rlaif.models.local.packing import Row
from rlaif.records import Prompt, derive_seed
from rlaif.training import sharding
from rlaif.training.optimise.critic import Critic, SharedCritic
from rlaif.training.optimise.scorers import (
    Scored,
    Scorer,
    Scorers,
    TextSources,
    Workshop,
    in_one_process,
    open_reward_model,
    open_scorer,
)
from rlaif.training.policy_model import PolicyModel
from rlaif.training.resting import RestingWeights
from rlaif.training.reward.ensemble import Scorer as RewardModel
from rlaif.training.samplers import Sampler
from rlaif.training.samplers.local import LocalSampler
from rlaif.training.scalar_model import ScalarModel


@dataclass(frozen=True)
class Actors:
    """The policy is trainable, and so is the critic (PPO alone has one); the reference is the policy's own frozen
    weights, and everything that scores is frozen."""

    policy: PolicyModel
    sampler: Sampler
    scorers: Scorers
    critic: Critic | None = None
    resting: RestingWeights | None = None
    """The models that learning does not read."""

    def rest(self) -> None:
        """Until something is scored again, the frozen models need no memory."""
        if self.resting is not None:
            self.resting.rest()


def open_actors(recipe: Recipe, reward_model: Path | None, text: TextSources, folder: Path) -> Actors:
    """Load what the recipe's section needs. `folder` is where a server finds the policy's newest weights."""
    section = recipe.optimise
    assert isinstance(section, OnPolicy)
    dtype = torch_dtype(recipe.policy.dtype)
    for source in _text_sources(section):
        text(source)  # opens the judge: its server must find the GPU empty
    policy = PolicyModel.load(recipe.policy.model, recipe.policy.revision, dtype)
    policy.make_trainable(section.lora, derive_seed(recipe.seed, "ppo", "lora"))
    sharding.prepare(policy, recipe.compute)
    opened: dict[int, RewardModel] = {}
    read = open_reward_model(reward_model, dtype)

    def load(head: str | None) -> RewardModel:
        model = read(head)
        opened[id(model)] = model
        return model

    scorers = open_scorers(section, Workshop(load, policy.tokenizer, section.microbatch_tokens, text))
    scorers = replace(scorers, max_failures=recipe.label.max_failures)
    critic = None
    if isinstance(section, Ppo):
        critic = open_critic(section, policy, lambda: _start(recipe, load, policy), recipe.seed)
        if isinstance(critic, ScalarModel):
            sharding.prepare(critic, recipe.compute)
    resting = RestingWeights(_only_read(policy, list(opened.values()), critic), folder)
    return Actors(policy, open_sampler(section, policy, folder), scorers, critic, resting)


def _only_read(policy: PolicyModel, reward_models: Sequence[RewardModel], critic: Critic | None) -> list[Any]:
    """The reference and the reward models, but for the one whose weights the critic learns over."""
    used = critic.model if isinstance(critic, ScalarModel) else None
    members = [member.model for model in reward_models for member in model.members if member.model is not used]
    reference = [] if policy.reference is None else [policy.reference]
    return [*reference, *(model.requires_grad_(False) for model in members)]


def open_scorers(section: OnPolicy, shop: Workshop) -> Scorers:
    """All that scores: the score, costs, vetoes, and what is held out."""
    veto, gold = section.veto, section.gold
    return Scorers(
        score=open_scorer(section.scoring, shop),
        costs={c.name: _signed(open_scorer(c.cost, shop), c.sign) for c in section.constraints},
        veto=in_one_process(shop.text(veto)) if veto else None,
        gold=in_one_process(shop.text(gold.source)) if gold else None,
    )


def open_critic(section: Ppo, policy: PolicyModel, start: Callable[[], RewardModel], seed: int) -> Critic:
    """A head on the policy's trunk, or a critic that starts from the model that `start` loads."""
    if section.critic == "shared":
        return SharedCritic(policy)
    return start().as_critic(section.critic_lora, derive_seed(seed, "ppo", "critic lora"))


def _start(recipe: Recipe, load: Callable[[str | None], RewardModel], policy: PolicyModel) -> RewardModel:
    """The reward model; where none takes part, the policy's backbone with a new head (direct RLAIF, arXiv 2309.00267,
    section 3.2)."""
    assert isinstance(recipe.optimise, OnPolicy)
    if recipe.optimise.reads_reward_model:
        return load(None)
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


def _text_sources(section: OnPolicy) -> list[JudgeScore | ChecksScore | Veto]:
    sources = [*sources_of(section.scoring), *(constraint.cost for constraint in section.constraints)]
    texts: list[JudgeScore | ChecksScore | Veto] = [s for s in sources if isinstance(s, JudgeScore | ChecksScore)]
    return [*texts, *([section.veto] if section.veto else []), *([section.gold.source] if section.gold else [])]


def _signed(scorer: Scorer, sign: int) -> Scorer:
    def cost(prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row]) -> Scored:
        scored = scorer(prompts, texts, rows)
        return scored._replace(score_B=sign * scored.score_B)

    return cost
