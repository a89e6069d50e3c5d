"""The policy writes its own rollouts, in the training process: always in step, nothing to copy."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.models.local.generate import Sample, Sampling, generate
from rlaif.training import parallel
from rlaif.training.policy_model import PolicyModel
from rlaif.training.samplers import SampledResponse


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
