"""What moves the policy and its critic: means over tokens, KL, rewards of tokens, advantages, clipped losses,
corrections and constraints.

Shape suffixes: B responses, T response tokens. `mask_BT` is True on real response tokens, the end token included; there
is no other mask, and what padding holds never counts. `groups` names the group of each response (the responses to one
prompt of one step), in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlaif.config.optimise import AdaptiveKl, FixedKl


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over real tokens (a scalar)."""
    return (values_BT * mask_BT).sum() / mask_BT.sum()


def response_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over responses of each response's mean over its real tokens (a scalar): GRPO's, arXiv 2402.03300, eq. 3.

    A token of a short response weighs more than one of a long response; in `masked_mean` all weigh the same.
    """
    return ((values_BT * mask_BT).sum(1) / mask_BT.sum(1)).mean()


def whiten(values_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True) -> Tensor:
    """Scaled to unit variance over real tokens, and to zero mean unless `shift_mean` is off; padding becomes 0."""
    mean = masked_mean(values_BT, mask_BT)
    variance = masked_mean((values_BT - mean) ** 2, mask_BT)
    whitened = (values_BT - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask_BT


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over real tokens: 1 is a perfect critic, 0 a constant."""
    error = (returns_BT - values_BT)[mask_BT]  # (N,) real tokens
    return 1 - error.var(unbiased=False) / returns_BT[mask_BT].var(unbiased=False).clamp(min=1e-8)


def kl_k1(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) in nats, from tokens the policy drew: unbiased, any sign."""
    return logprobs_BT - ref_logprobs_BT


def kl_k3(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """The same, unbiased and never negative (joschu.net/blog/kl-approx.html)."""
    log_ratio_BT = ref_logprobs_BT - logprobs_BT  # log(reference / policy), in this order
    return torch.expm1(log_ratio_BT) - log_ratio_BT  # expm1: exact where the two nearly agree


def next_kl_coef(kl: FixedKl | AdaptiveKl, coef: float, kl_per_response: float) -> float:
    """The coefficient of the next step. Adaptive: coef * (1 + gain * clip(KL / target - 1, -0.2, 0.2))."""
    if isinstance(kl, FixedKl):
        return coef
    error = min(max(kl_per_response / kl.target - 1, -0.2), 0.2)
    return coef * (1 + kl.gain * error)


def token_rewards(score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """Reward of each token: -kl_coef * KL there, plus the response's score on its last real token; padding is 0."""
    rewards_BT = -kl_coef * kl_BT * mask_BT
    last_B = mask_BT.sum(1) - 1  # index of the last real token; no response is empty
    return rewards_BT.scatter_add(1, last_B.unsqueeze(1), score_B.unsqueeze(1).to(rewards_BT.dtype))


# ------------------------------------------------------------------------------------------------------ advantages


class Advantages(NamedTuple):
    """Both (B, T), zero on padding."""

    advantages_BT: Tensor
    returns_BT: Tensor


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16), and returns = advantages + values.

    advantage_t = sum_l (gamma lam)^l delta_{t+l};  delta_t = reward_t + gamma value_{t+1} - value_t. The value
    after the last real token is 0: a response is a whole episode.
    """
    values_BT = values_BT * mask_BT  # so the value after the last real token is 0
    advantages_BT = torch.zeros_like(values_BT)
    running_B = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        next_value_B = values_BT[:, t + 1] if t + 1 < values_BT.shape[1] else torch.zeros_like(running_B)
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        running_B = (delta_B + gamma * lam * running_B) * mask_BT[:, t]  # 0 on padding, so it starts at the last token
        advantages_BT[:, t] = running_B
    return Advantages(advantages_BT, (advantages_BT + values_BT) * mask_BT)


def leave_one_out(reward_B: Tensor, groups: Sequence[int]) -> Tensor:
    """advantage_B: the reward, less the mean reward of the group's other responses (RLOO, arXiv 2402.14740, eq. 6).

    The advantages of a group sum to 0. A group of one has no others: ValueError.
    """
    advantage_B = torch.zeros_like(reward_B)
    for members, centred in _centred(reward_B, groups):
        # r - (S - r) / (n - 1) = n / (n - 1) * (r - S / n)
        advantage_B[members] = centred * len(members) / (len(members) - 1)
    return advantage_B


def group_relative(reward_B: Tensor, groups: Sequence[int], scale: Literal["std", "none"]) -> Tensor:
    """advantage_B: the reward less its group's mean (GRPO, arXiv 2402.03300, section 4.1.2).

    `std` divides by the group's sample standard deviation (ddof 1, what torch's `std` and so the usual trainers
    compute) plus 1e-6; `none` leaves the scale (Dr. GRPO, arXiv 2503.20783). Equal rewards give exactly 0. A group
    of one says nothing: ValueError.
    """
    advantage_B = torch.zeros_like(reward_B)
    for members, centred in _centred(reward_B, groups):
        advantage_B[members] = centred / (centred.std() + 1e-6) if scale == "std" else centred
    return advantage_B


def _centred(reward_B: Tensor, groups: Sequence[int]) -> list[tuple[list[int], Tensor]]:
    """Of each group the places of its responses, and their rewards less the group's mean."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        places[group].append(place)
    centred = []
    for group, members in places.items():
        if len(members) == 1:
            raise ValueError(f"group {group} has one response; at least two are needed to compare")
        # From the first one: equal rewards give exactly 0, not a rounding error that `std` would blow up.
        difference = reward_B[members] - reward_B[members[0]]
        centred.append((members, difference - difference.mean()))
    return centred


def moving_baseline(baseline: float | None, reward_mean: float, decay: float) -> float:
    """The baseline of the next step: decay * baseline + (1 - decay) * this step's mean reward; at first that mean."""
    return reward_mean if baseline is None else decay * baseline + (1 - decay) * reward_mean


def spread(advantage_B: Tensor, mask_BT: Tensor) -> Tensor:
    """advantages_BT: a response's advantage on each of its real tokens, 0 on padding."""
    return advantage_B.unsqueeze(1) * mask_BT


# ---------------------------------------------------------------------------------------------------------- losses


class ClippedLoss(NamedTuple):
    """Per-token loss (B, T), and where clipping took effect (B, T, bool)."""

    loss_BT: Tensor
    clipped_BT: Tensor


def policy_loss(logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, clip: float) -> ClippedLoss:
    """PPO's clipped surrogate, negated (arXiv 1707.06347, eq. 7). At ratio 1 its gradient is REINFORCE's."""
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    plain_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    # The maximum of losses is the minimum of surrogates: clipping never makes a step look better.
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


def replay_loss(
    logprobs_BT: Tensor, behaviour_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, cap: float
) -> ClippedLoss:
    """-min(cap, pi / mu) A log pi of each token, the weight held fixed; and where the cap took effect (ACER, arXiv
    1611.01224, eq. 7 without its correction term).

    Its expected gradient over tokens that mu drew is E_mu[rho A grad log pi] less E_mu[(rho - cap)+ A grad log pi]: the
    second term is the bias, 0 where no ratio passes the cap.
    """
    weights_BT = importance_weights(logprobs_BT, behaviour_BT, mask_BT, cap)
    return ClippedLoss(-weights_BT * advantages_BT * logprobs_BT, (weights_BT >= cap) & mask_BT)


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
