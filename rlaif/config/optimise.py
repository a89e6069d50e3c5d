"""How the policy is made: the alternatives behind `optimise.kind`, each with the knobs that mean something to it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Count, Positive, Section, Share, repeated
from rlaif.config.scoring import (
    Constraint,
    HeldoutJudge,
    ModelScore,
    Scoring,
    SimpleScore,
    Veto,
    reads_reward_model,
    sources_of,
)
from rlaif.config.sources import FileSource
from rlaif.config.training import Lora


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


class LocalRollouts(Section):
    """The policy itself writes, in the training process."""

    kind: Literal["local"] = "local"


class VllmRollouts(Section):
    """A vLLM server writes; it is given the new weights before every step."""

    kind: Literal["vllm"] = "vllm"
    max_model_len: Count = 4096
    concurrency: Count = 128
    startup_timeout_s: Positive = 900.0
    timeout_s: Positive = 600.0
    arguments: tuple[str, ...] = ()
    """Passed to vLLM as they are. On a GPU that the trainer uses too, give each its part:
    `["--gpu-memory-utilization", "0.4"]`."""
    parity_tolerance: Positive = 0.1
    """Most mean |log-probability of the server - of the trainer| per token after a sync; above it the weights are stale
    and the run stops. bf16 on both sides differs by about 0.04."""
    importance_cap: float = Field(default=2.0, gt=1)
    """Each token's loss is weighted by min(cap, pi_trainer / pi_server) (truncated importance sampling)."""


class StopRules(Section):
    """When to stop a run that has gone wrong, with a line that names the step; none = never. A loss that is not finite
    always stops it."""

    kl: Positive | None = None
    """Nats per response, above which the policy has left the reference behind."""
    entropy: Positive | None = None
    """Nats per token, below which the policy repeats itself."""
    length_factor: float | None = Field(default=None, gt=1)
    """Mean tokens of a response over those of the first step, above which length runs away."""
    patience: Count = 2
    """Steps in a row."""


class OnPolicy(Section):
    """What all methods that learn from their own rollouts share."""

    kind: str
    steps: Count = 100
    rollouts_per_step: Count = 64
    responses_per_prompt: Count = 1
    """Rollouts of one prompt within a step; divides rollouts_per_step."""
    epochs: Count = 4
    minibatch_size: Count = 64
    microbatch_tokens: Count = 4096
    learning_rate: Positive = 2e-4
    lora: Lora | None = Lora()
    temperature: Positive = 0.7
    """Used in sampling and in every log-probability."""
    max_prompt_tokens: Count = 512
    max_tokens: Count = 128
    scoring: Scoring = ModelScore()
    veto: Veto | None = None
    constraints: tuple[Constraint, ...] = ()
    kl: Annotated[FixedKl | AdaptiveKl, Field(discriminator="kind")] = FixedKl()
    clip: Positive = 0.2
    missing_eos_penalty: float = Field(default=1.0, ge=0)
    """Subtracted from the score of a response that the token limit cut off."""
    whiten_advantages: bool = True
    target_kl: Positive | None = None
    """Stop a step's updates once the policy has moved this far (nats a token) from where the step began."""
    max_grad_norm: Positive = 1.0
    rollouts: Annotated[LocalRollouts | VllmRollouts, Field(discriminator="kind")] = LocalRollouts()
    stop: StopRules = StopRules()
    gold: HeldoutJudge | None = None
    checkpoint_every: Count = 5
    print_every: Count = 5

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.rollouts_per_step % self.responses_per_prompt:
            raise ValueError("responses_per_prompt must divide rollouts_per_step")
        if self.rollouts_per_step % self.minibatch_size:
            raise ValueError("minibatch_size must divide rollouts_per_step")
        return self

    @property
    def sources(self) -> tuple[SimpleScore, ...]:
        """Everything that a response is scored by; gold aside, which teaches nothing."""
        return (*sources_of(self.scoring), *(constraint.cost for constraint in self.constraints))

    @property
    def reads_reward_model(self) -> bool:
        return reads_reward_model(self.sources)

    @model_validator(mode="after")
    def _server_has_room(self) -> Self:
        longest = self.max_prompt_tokens + self.max_tokens
        if isinstance(self.rollouts, VllmRollouts) and self.rollouts.max_model_len < longest:
            raise ValueError(f"rollouts.max_model_len must be at least max_prompt_tokens + max_tokens ({longest})")
        return self

    @model_validator(mode="after")
    def _constraints_have_names(self) -> Self:
        if repeated(constraint.name for constraint in self.constraints):
            raise ValueError("two constraints have the same name")
        return self


class Ppo(OnPolicy):
    """Proximal policy optimisation (arXiv 1707.06347) with the details of N+ (arXiv 2403.17031)."""

    kind: Literal["ppo"] = "ppo"
    critic: Literal["own", "shared"] = "own"
    """`own`: a model that starts as the reward model, or as the policy where there is none; `shared`: a head on the
    policy's own trunk, at a fraction of the memory and time."""
    critic_learning_rate: Positive = 2e-4
    critic_lora: Lora | None = Lora()
    """Of a critic of its own; a shared one learns through the policy's."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the critic learns and the policy stands still (MOSS-RLHF, arXiv 2307.04964)."""
    gamma: Share = 1.0
    gae_lambda: Share = 0.95
    value_clip: Positive = 0.2
    value_coef: Positive = 0.1
    whiten_rewards: bool = False


class Reinforce(OnPolicy):
    """REINFORCE on whole responses, less a moving average of rewards as the baseline (Williams, 1992)."""

    kind: Literal["reinforce"] = "reinforce"
    epochs: Count = 1
    baseline_decay: Share = 0.9
    """Of the moving average, a step; 0 = the mean of the step's own other responses (also in the first step)."""

    @model_validator(mode="after")
    def _others_in_the_first_step(self) -> Self:
        if self.rollouts_per_step < 2:
            raise ValueError("rollouts_per_step must be at least 2: the first baseline is the mean of the others")
        return self


class _Grouped(OnPolicy):
    responses_per_prompt: int = Field(default=4, ge=2)


class Rloo(_Grouped):
    """REINFORCE with the mean of the prompt's other responses as the baseline (arXiv 2402.14740)."""

    kind: Literal["rloo"] = "rloo"
    epochs: Count = 1
    whiten_advantages: bool = False


class Grpo(_Grouped):
    """Rewards relative to the prompt's group, KL in the loss (arXiv 2402.03300)."""

    kind: Literal["grpo"] = "grpo"
    epochs: Count = 1
    scale: Literal["std", "none"] = "std"
    """Divide by the group's standard deviation, or not (Dr. GRPO, arXiv 2503.20783)."""
    average: Literal["response", "token"] = "response"
    """The mean of each response's mean over tokens, or the mean over all tokens (DAPO, arXiv 2503.14476)."""
    whiten_advantages: bool = False


class Offline(Section):
    """What all methods that learn from a fixed set of texts share."""

    epochs: Count = 1
    minibatch_size: Count = 32
    microbatch_tokens: Count = 4096
    max_length: Count = 1024
    """Longer conversations lose their oldest tokens, then their responses the last ones."""
    max_truncated: Share = 0.5
    """Where more of the texts are longer than that the stage fails."""
    learning_rate: Positive = 1e-4
    lora: Lora | None = Lora()
    warmup_share: Share = 0.05
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: Positive = 1.0
    checkpoint_every: Count = 10


class Dpo(Offline):
    """Direct preference optimisation on the run's preferences, with their soft labels (arXiv 2305.18290, eq. 7)."""

    kind: Literal["dpo"] = "dpo"
    beta: Positive = 0.1
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)


class RunDemonstrations(Section):
    """The run's own demonstrations.jsonl: final revisions (`label.mode.kind=revise`)."""

    kind: Literal["revisions"] = "revisions"


class JudgeDemonstrations(Section):
    """The judge's own answers to the training prompts: the baseline that tells imitation from feedback
    (arXiv 2402.12366)."""

    kind: Literal["judge"] = "judge"
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: Count = 256


class ChosenDemonstrations(Section):
    """The preferred responses of the run's preferences."""

    kind: Literal["chosen"] = "chosen"


class HumanDemonstrations(Section):
    """What people made of responses: the edited texts of `preferences.labels.human_data`."""

    kind: Literal["human"] = "human"


class Sft(Offline):
    """Supervised fine-tuning on demonstrations: cross-entropy on the response and its end token alone."""

    kind: Literal["sft"] = "sft"
    data: Annotated[
        RunDemonstrations | JudgeDemonstrations | ChosenDemonstrations | HumanDemonstrations | FileSource,
        Field(discriminator="kind"),
    ] = RunDemonstrations()


class BestOfN(Section):
    """No training: of n responses to a held-out prompt the one that scores highest counts."""

    kind: Literal["best_of_n"] = "best_of_n"
    n: int = Field(default=8, ge=2)
    scoring: Scoring = ModelScore()
    microbatch_tokens: Count = 4096

    @property
    def sources(self) -> tuple[SimpleScore, ...]:
        """Everything that a response is scored by."""
        return sources_of(self.scoring)

    @property
    def reads_reward_model(self) -> bool:
        return reads_reward_model(self.sources)


Optimise = Annotated[Ppo | Reinforce | Rloo | Grpo | Dpo | Sft | BestOfN, Field(discriminator="kind")]
