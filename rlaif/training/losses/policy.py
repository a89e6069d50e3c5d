"""What moves the policy and its critic: rewards of tokens, clipped losses, corrections and constraints.

Shape suffixes: B responses, T response tokens. `mask_BT` is True on real response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def token_rewards(score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """Reward of each token: -kl_coef * KL there, plus the response's score on its last real token; padding is 0."""
    rewards_BT = -kl_coef * kl_BT * mask_BT
    last_B = mask_BT.sum(1) - 1
    return rewards_BT.scatter_add(1, last_B.unsqueeze(1), score_B.unsqueeze(1).to(rewards_BT.dtype))


class ClippedLoss(NamedTuple):
    """Per-token loss (B, T), and where clipping took effect (B, T, bool)."""

    loss_BT: Tensor
    clipped_BT: Tensor


def policy_loss(logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, clip: float) -> ClippedLoss:
    """PPO's clipped surrogate, negated (arXiv 1707.06347, eq. 7). At ratio 1 its gradient is REINFORCE's."""
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    plain_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    return ClippedLoss(torch.maximum(plain_BT, clipped_BT), clipped_BT > plain_BT)


def value_loss(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, clip: float) -> ClippedLoss:
    """Half squared error, where a value may not gain by moving more than `clip` from its old value (N+ detail 23)."""
    near_BT = values_BT.clamp(old_values_BT - clip, old_values_BT + clip)
    plain_BT = (values_BT - returns_BT) ** 2
    clipped_BT = (near_BT - returns_BT) ** 2
    return ClippedLoss(0.5 * torch.maximum(plain_BT, clipped_BT), clipped_BT > plain_BT)


@torch.no_grad()
def importance_weights(logprobs_BT: Tensor, sampler_logprobs_BT: Tensor, mask_BT: Tensor, cap: float) -> Tensor:
    """min(cap, pi_trainer / pi_sampler) of each token, 0 on padding; no gradient flows.

    Truncated importance sampling (Ionides, 2008): corrects for a sampler whose numerics differ from the trainer's,
    with a bounded variance and a bias only where the ratio is above the cap.
    """
    ratio_BT = torch.exp(logprobs_BT - sampler_logprobs_BT).clamp(max=cap)
    return ratio_BT.masked_fill(~mask_BT, 0.0)


def next_multiplier(multiplier: float, cost_mean: float, limit: float, learning_rate: float) -> float:
    """A constraint's Lagrange multiplier of the next step: max(0, multiplier + rate * (mean cost - limit)).

    Projected dual ascent (Safe RLHF, arXiv 2310.12773, section 3.3): it grows while the limit is broken.
    """
    return max(0.0, multiplier + learning_rate * (cost_mean - limit))


def constrained_score(score_B: Tensor, costs: Sequence[Tensor], multipliers: Sequence[float]) -> Tensor:
    """(score - sum_i multiplier_i cost_i) / (1 + sum_i multiplier_i): the divisor bounds the signal (same paper)."""
    penalised_B = score_B
    for multiplier, cost_B in zip(multipliers, costs, strict=True):
        penalised_B = penalised_B - multiplier * cost_B
    return penalised_B / (1 + sum(multipliers))
