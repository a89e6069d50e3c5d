"""Who writes rollouts: the trainer's own model, always in step; or a server (vllm.py) that is kept in step with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rlaif.models.local.generate import Sample, Sampling, generate
from rlaif.training import parallel
from rlaif.training.policy_model import PolicyModel


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


class LocalSampler:
    """`generate` over the policy's own weights, the adapter merged in meanwhile.

    It tells no log-probabilities: those of the training forward pass are the policy's (N+, arXiv 2403.17031).
    """

    def __init__(self, policy: PolicyModel) -> None:
        self._policy = policy

    def sync(self) -> None:
        """Nothing to do."""

    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[SampledResponse]:
        """One response to each prompt, in order. Process r of n writes the places r, r + n, ...; all get all."""
        policy, processes = self._policy, parallel.size()
        own = range(parallel.rank(), len(prompts), processes)
        samples: list[Sample] = []
        with policy.for_generation():
            if own:
                pad_id = policy.tokenizer.pad_token_id or 0
                samples = generate(policy.model, [prompts[i] for i in own], sampling, [seeds[i] for i in own], pad_id)
        shares = parallel.gather(samples)
        return [SampledResponse(*shares[place % processes][place // processes]) for place in range(len(prompts))]

    def close(self) -> None:
        """Nothing to free: the policy stays."""
