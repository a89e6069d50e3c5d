"""Who writes the rollouts of the on-policy methods and who talks with the policy, what is learnt from again, and when a
run is stopped."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlaif.config.base import Count, Positive, Section
from rlaif.config.models import JudgeModel


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


class Dialogue(Section):
    """The policy answers, the user says more, and so on; the last turn is the policy's."""

    turns: int = Field(default=2, ge=2, le=16)
    """Of the policy."""
    user: JudgeModel
    """Who answers the policy: a model, or a function of yours (`backend: scripted`)."""
    instruction: str = (
        "You are a person who talks with an assistant. Say what this person says next: one short message, and nothing "
        "else."
    )
    """What the user is told before the conversation, in which the policy is the other side."""
    max_tokens: Count = 64
    temperature: float = Field(default=0.7, ge=0)


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


class Replay(Section):
    """Earlier steps' rollouts are learnt from again, by truncated importance weights (ACER, arXiv 1611.01224)."""

    steps: Count = 4
    """How many steps' rollouts are kept."""
    updates: Count = 1
    """Further updates of a step, after its own."""
    responses: Count = 64
    """Drawn for each of them."""
    cap: Positive = 10.0
    """c of min(c, pi / mu), by token."""
