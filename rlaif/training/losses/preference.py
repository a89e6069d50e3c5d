"""Losses of preferences and ratings, and how doubtful labels are treated.

Shape suffixes: N pairs, B responses, M members of an ensemble. A margin is score(chosen) - score(rejected);
p_chosen is the probability that chosen is better. Losses are not reduced: each row's own, times its weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlaif.config.reward import Denoise, FlipLabels, KeepLabels, StrengthMargin


def bradley_terry_loss(
    margin_N: Tensor,
    p_chosen_N: Tensor,
    weight_N: Tensor,
    target_N: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """-p log sigma(margin - target) - (1 - p) log sigma(-margin - target), times the weight.

    Soft labels: RLAIF, arXiv 2309.00267, section 3.2. The target is a margin inside the sigmoid, asked of whichever
    side is better (Llama 2, arXiv 2307.09288, eq. 2); none = 0. Smoothing replaces p by (1 - s) p + s (1 - p).
    """
    p_N = (1 - smoothing) * p_chosen_N + smoothing * (1 - p_chosen_N)
    target = 0.0 if target_N is None else target_N
    return -weight_N * (p_N * F.logsigmoid(margin_N - target) + (1 - p_N) * F.logsigmoid(-margin_N - target))


def rao_kupper_loss(margin_N: Tensor, p_chosen_N: Tensor, tie_N: Tensor, weight_N: Tensor, theta: float) -> Tensor:
    """-log P(tie) where `tie_N`, else -p log P(win) - (1 - p) log P(loss) (Rao and Kupper, JASA 1967).

    P(win) = sigma(d - log theta), P(loss) = sigma(-d - log theta), P(tie) = the rest
    = (theta^2 - 1) P(win) P(loss). theta > 1; towards 1 ties vanish and Bradley-Terry is left.
    """
    log_win_N = F.logsigmoid(margin_N - math.log(theta))
    log_loss_N = F.logsigmoid(-margin_N - math.log(theta))
    return _with_ties(
        log_win_N, log_loss_N, math.log(theta**2 - 1) + log_win_N + log_loss_N, p_chosen_N, tie_N, weight_N
    )


def davidson_loss(margin_N: Tensor, p_chosen_N: Tensor, tie_N: Tensor, weight_N: Tensor, nu: float) -> Tensor:
    """The same rows with P(win) : P(loss) : P(tie) = pi_i : pi_j : nu sqrt(pi_i pi_j) (Davidson, JASA 1970).

    pi = exp(score). nu > 0; towards 0 ties vanish and Bradley-Terry is left.
    """
    tie = torch.full_like(margin_N, math.log(nu))  # every logit less the mean of the two scores
    log_win_N, log_loss_N, log_tie_N = torch.stack([margin_N / 2, -margin_N / 2, tie]).log_softmax(0)
    return _with_ties(log_win_N, log_loss_N, log_tie_N, p_chosen_N, tie_N, weight_N)


def _with_ties(
    log_win_N: Tensor, log_loss_N: Tensor, log_tie_N: Tensor, p_chosen_N: Tensor, tie_N: Tensor, weight_N: Tensor
) -> Tensor:
    untied_N = p_chosen_N * log_win_N + (1 - p_chosen_N) * log_loss_N
    return -weight_N * torch.where(tie_N, log_tie_N, untied_N)


def pair_weights(prompt_ids: Sequence[str], weighting: Literal["pair", "prompt"]) -> Tensor:
    """weight_N: 1, or 1 over the number of pairs of that prompt, so that a prompt weighs 1 in all
    (InstructGPT, arXiv 2203.02155, eq. 1)."""
    if weighting == "pair":
        return torch.ones(len(prompt_ids))
    pairs = Counter(prompt_ids)
    return torch.tensor([1 / pairs[prompt_id] for prompt_id in prompt_ids])


def regression_loss(score_B: Tensor, rating_B: Tensor, weight_B: Tensor) -> Tensor:
    """Half the squared error to a rating, times the weight."""
    return weight_B * 0.5 * (score_B - rating_B) ** 2


def hinge_loss(margin_N: Tensor, p_chosen_N: Tensor, weight_N: Tensor, margin: float) -> Tensor:
    """p max(0, margin - d) + (1 - p) max(0, margin + d), times the weight: the maximum margin of inverse RL."""
    return weight_N * (p_chosen_N * F.relu(margin - margin_N) + (1 - p_chosen_N) * F.relu(margin + margin_N))


def dpo_loss(
    policy_margin_N: Tensor,
    reference_margin_N: Tensor,
    p_chosen_N: Tensor,
    weight_N: Tensor,
    beta: float,
    smoothing: float = 0.0,
) -> Tensor:
    """Bradley-Terry on beta * (policy margin - reference margin) (DPO, arXiv 2305.18290, eq. 7; soft labels: cDPO).

    A margin here is log pi(chosen) - log pi(rejected), summed over tokens.
    """
    return bradley_terry_loss(beta * (policy_margin_N - reference_margin_N), p_chosen_N, weight_N, smoothing=smoothing)


class LabelTreatment(NamedTuple):
    """Labels after treatment, and the margin to ask for inside the sigmoid. p_chosen may now be below 0.5."""

    p_chosen_N: Tensor
    target_N: Tensor


def treat_labels(p_chosen_N: Tensor, strength_MN: Tensor, treatment: Denoise) -> LabelTreatment:
    """What an ensemble's margins say about labels, applied (MOSS-RLHF II, arXiv 2401.06080, section 2.3).

    A pair's strength is the mean over members of score(chosen) - score(rejected). Flip and soften touch the lowest
    `share` of all pairs by strength (rounded down), and of them only those where it is negative: flip turns p into
    1 - p, soften into (1 - s) p + s (1 - p). Margin leaves p and asks for the strength (eq. 6, inside the sigmoid).
    """
    strength_N = strength_MN.mean(0)
    none_N = torch.zeros_like(strength_N)
    if isinstance(treatment, KeepLabels):
        return LabelTreatment(p_chosen_N, none_N)
    if isinstance(treatment, StrengthMargin):
        return LabelTreatment(p_chosen_N, strength_N)
    smoothing = 1.0 if isinstance(treatment, FlipLabels) else treatment.smoothing
    doubtful_N = _lowest(strength_N, treatment.share) & (strength_N < 0)
    other_N = (1 - smoothing) * p_chosen_N + smoothing * (1 - p_chosen_N)
    return LabelTreatment(torch.where(doubtful_N, other_N, p_chosen_N), none_N)


def _lowest(strength_N: Tensor, share: float) -> Tensor:
    """True on the `share` of pairs with the lowest strength; of equal ones the earlier."""
    lowest_N = torch.zeros_like(strength_N, dtype=torch.bool)
    # The small addition: 0.29 * 100 is 28.999... in binary.
    lowest_N[strength_N.argsort(stable=True)[: int(share * len(strength_N) + 1e-9)]] = True
    return lowest_N


def ensemble_score(score_MB: Tensor, reduce: Literal["mean", "min", "mean_minus_variance"], penalty: float) -> Tensor:
    """score_B of an ensemble (Coste et al., arXiv 2310.02743, section 3): the members' mean, their least (worst-case
    optimisation), or mean - penalty * population variance (uncertainty-weighted optimisation)."""
    if reduce == "min":
        return score_MB.min(0).values
    mean_B = score_MB.mean(0)
    return mean_B if reduce == "mean" else mean_B - penalty * score_MB.var(0, unbiased=False)
