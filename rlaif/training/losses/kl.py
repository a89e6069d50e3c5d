"""How far the policy is from the reference, and what that costs.

Shape suffixes: B responses, T response tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlaif.config.optimise import AdaptiveKl, FixedKl


def kl_k1(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) in nats, from tokens the policy drew: unbiased, any sign."""
    return logprobs_BT - ref_logprobs_BT


def kl_k3(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """The same, unbiased and never negative (joschu.net/blog/kl-approx.html)."""
    log_ratio_BT = ref_logprobs_BT - logprobs_BT  # log(reference / policy), in this order
    return torch.expm1(log_ratio_BT) - log_ratio_BT


def next_kl_coef(kl: FixedKl | AdaptiveKl, coef: float, kl_per_response: float) -> float:
    """The coefficient of the next step. Adaptive: coef * (1 + gain * clip(KL / target - 1, -0.2, 0.2))."""
    if isinstance(kl, FixedKl):
        return coef
    error = min(max(kl_per_response / kl.target - 1, -0.2), 0.2)
    return coef * (1 + kl.gain * error)
