"""The reward model and PPO."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Count, Positive, Section, Share


class Lora(Section):
    """Low-rank adapters in float32 over frozen weights (arXiv 2106.09685)."""

    rank: Count = 16
    alpha: Positive = 32.0
    targets: str | tuple[str, ...] = "all-linear"


class RewardSection(Section):
    """The reward model. Defaults: InstructGPT (arXiv 2203.02155) and N+ (arXiv 2403.17031)."""

    model: str | None = None
    """Backbone; none = the policy's model (its tokenizer must be the policy's)."""
    lora: Lora | None = Lora()
    learning_rate: Positive = 2e-4
    epochs: Count = 1
    minibatch_size: Count = 64
    """Pairs an update; the pairs of one prompt stay together."""
    microbatch_tokens: Count = 4096
    """Tokens, padding included, in one forward pass."""
    max_length: Count = 1024
    """Longer conversations lose their oldest tokens."""
    warmup_share: Share = 0.05
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: Positive = 1.0


class FixedKl(Section):
    """A constant coefficient."""

    kind: Literal["fixed"] = "fixed"
    coef: float = Field(default=0.05, ge=0)


class AdaptiveKl(Section):
    """Proportional control of KL per response towards a target (Ziegler et al. 2019, arXiv 1909.08593, sec. 2.2)."""

    kind: Literal["adaptive"] = "adaptive"
    coef: Positive = 0.05
    """Where it starts."""
    target: Positive = 6.0
    """Nats per response."""
    gain: Positive = 0.1


class PpoSection(Section):
    """Proximal policy optimisation (arXiv 1707.06347) with the details of N+ (arXiv 2403.17031)."""

    steps: Count = 100
    rollouts_per_step: Count = 64
    responses_per_prompt: Count = 1
    """Rollouts of one prompt within a step; divides rollouts_per_step."""
    epochs: Count = 4
    minibatch_size: Count = 64
    microbatch_tokens: Count = 4096
    learning_rate: Positive = 2e-4
    critic_learning_rate: Positive = 2e-4
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the critic learns and the policy stands still (MOSS-RLHF, arXiv 2307.04964)."""
    lora: Lora | None = Lora()
    critic_lora: Lora | None = Lora()
    temperature: Positive = 0.7
    """Used in sampling and in every log-probability."""
    max_prompt_tokens: Count = 512
    max_tokens: Count = 128
    kl: Annotated[FixedKl | AdaptiveKl, Field(discriminator="kind")] = FixedKl()
    gamma: Share = 1.0
    gae_lambda: Share = 0.95
    clip: Positive = 0.2
    value_clip: Positive = 0.2
    value_coef: Positive = 0.1
    missing_eos_penalty: float = Field(default=1.0, ge=0)
    """Subtracted from the score of a response that the token limit cut off."""
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    target_kl: Positive | None = None
    """Stop a step's updates once the policy has moved this far (nats a token) from where the step began."""
    max_grad_norm: Positive = 1.0
    checkpoint_every: Count = 5
    print_every: Count = 5

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.rollouts_per_step % self.responses_per_prompt:
            raise ValueError("responses_per_prompt must divide rollouts_per_step")
        if self.rollouts_per_step % self.minibatch_size:
            raise ValueError("minibatch_size must divide rollouts_per_step")
        return self
