"""What every kind of training shares: adapters, and where and how it computes; and how a judge is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rlaif.config.base import Count, Positive, Section, Share
from rlaif.patterns import check_pattern


class Lora(Section):
    """Low-rank adapters over frozen weights (arXiv 2106.09685)."""

    rank: Count = 16
    alpha: Positive = 32.0
    targets: str | tuple[str, ...] = "all-linear"
    """Names of matrices, a regular expression for whole names, or all-linear."""

    @field_validator("targets")
    @classmethod
    def _compiles(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(targets, str):
            check_pattern(targets)
        return targets


class ComputeSection(Section):
    """How training uses the machine. Under `accelerate launch` every training stage uses all processes."""

    sharding: Literal["none", "fsdp"] = "none"
    """`none`: every process holds the whole model; `fsdp`: its weights, gradients and optimiser state are divided."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third slower."""
    check_memory: bool = True
    """Refuse a training stage whose planned memory is more than the machine has."""


class TrackingSection(Section):
    """Where metrics go besides metrics.jsonl and TensorBoard."""

    to: tuple[Literal["wandb", "trackio", "mlflow"], ...] = ()
    """Through accelerate's trackers; each must be installed."""
    project: str = "rlaif"


class JudgeTrainSection(Section):
    """The judge's own answer, in `label.mode` and by the recipe's constitution, is trained to be the labels'.

    No stage of a run reads this section.
    """

    lora: Lora | None = Lora()
    """None: all weights."""
    learning_rate: Positive = 2e-4
    epochs: Count = 3
    """At most. A label that says nothing by principle teaches one principle in each epoch, drawn by weight."""
    minibatch_size: Count = 32
    """Pairs an update; the pairs of one prompt stay together."""
    microbatch_tokens: Count = 4096
    """Tokens in one forward pass; the questions of a pair stay together."""
    max_length: Count = 2048
    """A pair with a longer question to the judge is left out."""
    mass_weight: float = Field(default=0.1, ge=0)
    """`score` and `checklist`: of -log P(any label) beside the cross-entropy of p(a). At 0 the judge may come to answer
    with something else; at 1 its replies become all alike (measured). `compare` learns the likelihood of its letters
    among all words, which holds both."""
    heldout_share: float = Field(default=0.15, gt=0, lt=1)
    """Of the prompts that may train: they say after which epoch the judge is best, and when to stop."""
    patience: Count = 2
    """Epochs without a better one, after which training stops."""
    audit_share: Share = 0.25
    """Of the prompts, where no --audit is given: they neither train nor stop. 0: no audit."""
    warmup_share: Share = 0.05
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: Positive = 1.0
    checkpoint_every: Count = 20
    """Steps, at most, that are done again after a kill."""
