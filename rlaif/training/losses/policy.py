"""The mathematics of reward-model and PPO training: pure functions of tensors, nothing else.

Shape suffixes: N pairs, B responses, T response tokens. `mask_BT` is True on real response tokens, the end token
included; there is no other mask. Every mean is over real tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlaif.config.sections import AdaptiveKl, FixedKl


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over real tokens (a scalar)."""
    return (values_BT * mask_BT).sum() / mask_BT.sum()


def whiten(values_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True) -> Tensor:
    """Scaled to unit variance over real tokens, and to zero mean unless `shift_mean` is off; padding becomes 0."""
    mean = masked_mean(values_BT, mask_BT)
    variance = masked_mean((values_BT - mean) ** 2, mask_BT)
    whitened = (values_BT - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask_BT


# ------------------------------------------------------------------------------------------- reward model


def bradley_terry_loss(margin_N: Tensor, p_chosen_N: Tensor, weight_N: Tensor) -> Tensor:
    """Weighted cross-entropy, each row's own loss times its weight (shape N, not reduced).

    margin = score(chosen) - score(rejected); loss = -p log sigma(margin) - (1-p) log sigma(-margin)
    (Bradley-Terry with soft labels: RLAIF, arXiv 2309.00267, section 3.2).
    """
    return weight_N * F.binary_cross_entropy_with_logits(margin_N, p_chosen_N, reduction="none")


# ----------------------------------------------------------------------------------------------------- KL


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


# ---------------------------------------------------------------------------------------------------- PPO


def token_rewards(score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """Reward of each token: -kl_coef * KL there, plus the response's score on its last real token; padding is 0."""
    rewards_BT = -kl_coef * kl_BT * mask_BT
    last_B = mask_BT.sum(1) - 1
    return rewards_BT.scatter_add(1, last_B.unsqueeze(1), score_B.unsqueeze(1).to(rewards_BT.dtype))


class Advantages(NamedTuple):
    """Both (B, T), zero on padding."""

    advantages_BT: Tensor
    returns_BT: Tensor


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16), and returns = advantages + values.

    advantage_t = sum_l (gamma lam)^l delta_{t+l};  delta_t = reward_t + gamma value_{t+1} - value_t. The value
    after the last real token is 0: a response is a whole episode.
    """
    values_BT = values_BT * mask_BT
    advantages_BT = torch.zeros_like(values_BT)
    running_B = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        next_value_B = values_BT[:, t + 1] if t + 1 < values_BT.shape[1] else torch.zeros_like(running_B)
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        running_B = (delta_B + gamma * lam * running_B) * mask_BT[:, t]
        advantages_BT[:, t] = running_B
    return Advantages(advantages_BT, (advantages_BT + values_BT) * mask_BT)


class Clipped(NamedTuple):
    """Per-token loss (B, T), and where clipping took effect (B, T, bool)."""

    loss_BT: Tensor
    clipped_BT: Tensor


def policy_loss(logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, clip: float) -> Clipped:
    """PPO's clipped surrogate, negated (arXiv 1707.06347, eq. 7). At ratio 1 its gradient is REINFORCE's."""
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    plain_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    return Clipped(torch.maximum(plain_BT, clipped_BT), clipped_BT > plain_BT)


def value_loss(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, clip: float) -> Clipped:
    """Half squared error, where a value may not gain by moving more than `clip` from its old value (N+ detail 23)."""
    near_BT = values_BT.clamp(old_values_BT - clip, old_values_BT + clip)
    plain_BT = (values_BT - returns_BT) ** 2
    clipped_BT = (near_BT - returns_BT) ** 2
    return Clipped(0.5 * torch.maximum(plain_BT, clipped_BT), clipped_BT > plain_BT)


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over real tokens: 1 is a perfect critic, 0 a constant."""
    error = (returns_BT - values_BT)[mask_BT]
    return 1 - error.var(unbiased=False) / returns_BT[mask_BT].var(unbiased=False).clamp(min=1e-8)
