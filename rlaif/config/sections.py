"""Every knob there is, in frozen sections. Docstrings under the fields are the help (`rlaif schema recipe`).

Where there are alternatives they are tagged unions, so a knob that does not apply cannot be set. Defaults cite
their source. What is derived is a property; nothing is filled in later.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# ------------------------------------------------------------------------------------------------ models


class LocalModel(Section):
    """A transformers model in this process."""

    backend: Literal["local"] = "local"
    model: str
    """`smollm2-135m` (embedded), a folder, or a name on the Hugging Face hub."""
    revision: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    batch_size: Count = 32
    """Sequences generated or read at once."""


class VllmModel(Section):
    """A vLLM server that rlaif starts and stops."""

    backend: Literal["vllm"] = "vllm"
    model: str
    revision: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_model_len: Count = 4096
    concurrency: Count = 128
    """Requests in flight at once."""
    timeout_s: Positive = 120.0
    startup_timeout_s: Positive = 900.0
    arguments: tuple[str, ...] = ()
    """Passed to vLLM as they are, e.g. `["--tensor-parallel-size", "2"]`."""


class ClientModel(Section):
    """An OpenAI-compatible server that already runs, or several that share the load."""

    backend: Literal["client"] = "client"
    model: str
    revision: str | None = None
    """Recorded as provenance; the server is not asked to load it."""
    base_urls: tuple[str, ...] = Field(min_length=1)
    """Each ends in /v1, e.g. `["http://127.0.0.1:8000/v1"]`."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    concurrency: Count = 128
    timeout_s: Positive = 120.0
    max_tries: Count = 5


class ScriptedModel(Section):
    """A Python function `request -> Reply | str`, for dry runs and tests."""

    backend: Literal["scripted"] = "scripted"
    model: str
    """`package.module:function`."""
    revision: str | None = None


PolicyModel = Annotated[LocalModel | VllmModel, Field(discriminator="backend")]
JudgeModel = Annotated[LocalModel | VllmModel | ClientModel | ScriptedModel, Field(discriminator="backend")]

# ------------------------------------------------------------------------------------- prompts and human data


class FileSource(Section):
    """A JSONL file (also .jsonl.gz)."""

    kind: Literal["file"] = "file"
    path: str
    """A path, or for prompts the name of a shipped set (`everyday`)."""
    tags: tuple[str, ...] = ()
    """Added to every row."""
    limit: Count | None = None


class HubSource(Section):
    """A data set read through `datasets`."""

    kind: Literal["hub"] = "hub"
    dataset: str
    name: str | None = None
    """The configuration (`data_dir` for HH-RLHF's folders goes in `data_dir`)."""
    data_dir: str | None = None
    split: str = "train"
    revision: str | None = None
    column: str = "prompt"
    """Where the prompt is: a text, a message list, or an HH-RLHF transcript (`chosen`)."""
    tags: tuple[str, ...] = ()
    limit: Count | None = None


DataSource = Annotated[FileSource | HubSource, Field(discriminator="kind")]


class PromptsSection(Section):
    """The prompts that the policy answers."""

    sources: tuple[DataSource, ...] = Field(min_length=1)
    system: str | None = None
    """A system turn put before every prompt that has none."""
    heldout: Count = 64
    """Prompts kept out of all training, for evaluation. Chosen by hash of the prompt, not by position."""
    limit: Count | None = None
    """Use at most this many training prompts."""


class SampleSection(Section):
    """How the policy's responses are drawn."""

    responses_per_prompt: int = Field(default=4, ge=2, le=9)
    temperature: Positive = 0.7
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: Count = 256


# ------------------------------------------------------------------------------------------------- feedback


class Mean(Section):
    """Mean of the principles' log-odds, by weight."""

    kind: Literal["mean"] = "mean"


class SampleOne(Section):
    """One principle a pair, drawn by weight and seeded by the pair (Constitutional AI, arXiv 2212.08073)."""

    kind: Literal["sample"] = "sample"


class Lexicographic(Section):
    """The lowest priority number that is decided decides."""

    kind: Literal["lexicographic"] = "lexicographic"
    decided: float = Field(default=0.1, ge=0, le=0.5)
    """A group is decided when its |p(a) - 0.5| is above this."""


class LabelSection(Section):
    """How the judge compares two responses."""

    template: str = "compare"
    """A file under prompts/judge/, or a path."""
    aggregation: Annotated[Mean | SampleOne | Lexicographic, Field(discriminator="kind")] = Mean()
    pairs_per_prompt: Count | None = None
    """At most this many of the n(n-1)/2 pairs of a prompt; none = all."""
    check_margin: Positive = 4.0
    """Log-odds with which a checked principle prefers the response that passes."""
    min_label_mass: Share = 0.01
    """A reply whose label tokens together have less probability than this is a failure, not a label."""
    max_failures: Share = 0.02
    """Above this share of failed pairs the stage fails."""


class HumanWins(Section):
    """Where both sources label a pair the human label stands."""

    kind: Literal["human_wins"] = "human_wins"


class Weighted(Section):
    """All labels are kept, weighted by source."""

    kind: Literal["weighted"] = "weighted"
    ai: Positive = 1.0
    human: Positive = 1.0


class ByTag(Section):
    """Human labels for these tags, AI labels for those (Constitutional AI: human-helpful, AI-harmless)."""

    kind: Literal["by_tag"] = "by_tag"
    human: tuple[str, ...]
    ai: tuple[str, ...]

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        both = set(self.human) & set(self.ai)
        if both:
            raise ValueError(f"tag {sorted(both)[0]!r} is given to both sources")
        return self


class AiLabels(Section):
    """RLAIF: the judge labels pairs."""

    kind: Literal["ai"] = "ai"
    pairs: Literal["sampled", "human"] = "sampled"
    """`sampled`: pairs of the policy's responses; `human`: the pairs of `human_data`, their labels unseen."""
    human_data: tuple[DataSource, ...] = ()


class HumanLabels(Section):
    """RLHF: labels read from HH-RLHF-format data."""

    kind: Literal["human"] = "human"
    human_data: tuple[DataSource, ...] = Field(min_length=1)


class MixedLabels(Section):
    """Both, joined by policy."""

    kind: Literal["mix"] = "mix"
    pairs: Literal["sampled", "human"] = "sampled"
    human_data: tuple[DataSource, ...] = Field(min_length=1)
    policy: Annotated[HumanWins | Weighted | ByTag, Field(discriminator="kind")] = HumanWins()


class PreferencesSection(Section):
    """From judgments to training rows. RLAIF, RLHF and hybrid recipes differ in this section only."""

    labels: Annotated[AiLabels | HumanLabels | MixedLabels, Field(discriminator="kind")] = AiLabels()
    tie_margin: float = Field(default=0.0, ge=0, lt=0.5)
    """A judgment with |p(a) - 0.5| at or below this is a tie."""
    ties: Literal["drop", "keep"] = "drop"
    """A kept tie trains towards p = 0.5, with its own soft label."""
    heldout_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of prompts whose pairs only measure the reward model."""


# ------------------------------------------------------------------------------------------------- training


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


class EvaluateSection(Section):
    """Policy against reference on held-out prompts."""

    responses_per_prompt: Count = 1
    bootstrap_samples: Count = 2000
    confidence: float = Field(default=0.95, gt=0, lt=1)
    examples: Count = 12
    """Prompts shown with before and after in the report."""


class Recipe(Section):
    """One run, whole."""

    name: str
    title: str = ""
    seed: int = 0
    constitution: str
    """A shipped name (`harmlessness`) or a path."""
    policy: PolicyModel
    judge: JudgeModel
    prompts: PromptsSection
    sample: SampleSection = SampleSection()
    label: LabelSection = LabelSection()
    preferences: PreferencesSection = PreferencesSection()
    reward: RewardSection = RewardSection()
    ppo: PpoSection = PpoSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _pairs_need_data(self) -> Self:
        labels = self.preferences.labels
        if isinstance(labels, AiLabels) and labels.pairs == "human" and not labels.human_data:
            raise ValueError("preferences.labels.pairs is 'human', so preferences.labels.human_data must name data")
        return self
