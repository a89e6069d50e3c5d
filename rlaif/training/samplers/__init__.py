"""Who writes rollouts: the trainer's own model, or a server that is kept in step with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rlaif.models.local.generate import Sampling


class SampledResponse(NamedTuple):
    """One response: its token ids (the end token last when `finished`) and, where the writer is another program than
    the trainer, the log-probability that it gave each token at the sampling temperature."""

    tokens: list[int]
    finished: bool
    logprobs: tuple[float, ...] | None = None


class Sampler(Protocol):
    """Writes as the policy would. `sync` comes before every step's `sample`."""

    def sync(self) -> None:
        """From here on the responses are those of the policy's weights as they are now."""

    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[SampledResponse]:
        """One response to each prompt, in order. Row i depends on prompts[i] and seeds[i] alone, up to rounding."""

    def close(self) -> None:
        """Free what it holds."""
