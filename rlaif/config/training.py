"""What every kind of training shares: adapters, and where and how it computes."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from rlaif.config.base import Count, Positive, Section
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
