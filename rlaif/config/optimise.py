"""How the policy is made: the alternatives behind `optimise.kind`, each with the knobs that mean something to it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Count, Positive, Section, Share, repeated
from rlaif.config.decode import Decode
from rlaif.config.rollouts import Dialogue, LocalRollouts, Replay, StopRules, VllmRollouts
from rlaif.config.scoring import Constraint, FlipsCost, HeldoutJudge, ModelScore, Scored, Scoring, Source, Veto
from rlaif.config.sources import FileSource
from rlaif.config.training import Lora
from rlaif.records.core import absent


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


class OnPolicy(Scored):
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
    replay: Replay | None = Field(default=None, exclude_if=absent)
    stop: StopRules = StopRules()
    gold: HeldoutJudge | None = None
    dialogue: Dialogue | None = Field(default=None, exclude_if=absent)
    """Rollouts of several turns; none = of one."""
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
    def sources(self) -> tuple[Source, ...]:
        return (*super().sources, *(constraint.cost for constraint in self.constraints))

    @property
    def both_sides(self) -> bool:
        """Whether a step answers each prompt's opposite too."""
        return any(isinstance(source, FlipsCost) for source in self.sources)

    @property
    def turns(self) -> int:
        """Of the policy in each rollout."""
        return self.dialogue.turns if self.dialogue else 1

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


class AttributionCredit(Section):
    """Each token gets what it did to the reward model's score (integrated gradients), the last one the rest."""

    kind: Literal["attribution"] = "attribution"
    steps: Count = 8
    """Of the integral. The sum over tokens is the score however few there are."""


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
    credit: AttributionCredit | None = Field(default=None, exclude_if=absent)
    """How the score is spread over tokens; none = the last one gets all of it."""

    @model_validator(mode="after")
    def _credit_has_a_model(self) -> Self:
        if self.credit and not (isinstance(self.scoring, ModelScore) and self.scoring.path is None):
            raise ValueError("credit is of the run's reward model, so scoring.kind must be reward_model")
        return self


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


SftData = RunDemonstrations | JudgeDemonstrations | ChosenDemonstrations | HumanDemonstrations | FileSource


class Sft(Offline):
    """Supervised fine-tuning on demonstrations: cross-entropy on the response and its end token alone."""

    kind: Literal["sft"] = "sft"
    data: Annotated[SftData, Field(discriminator="kind")] = RunDemonstrations()


class BestOfN(Scored):
    """No training: of n responses to a held-out prompt the one that scores highest counts."""

    kind: Literal["best_of_n"] = "best_of_n"
    n: int = Field(default=8, ge=2)
    scoring: Scoring = ModelScore()
    microbatch_tokens: Count = 4096


Optimise = Annotated[Ppo | Reinforce | Rloo | Grpo | Dpo | Sft | BestOfN | Decode, Field(discriminator="kind")]
