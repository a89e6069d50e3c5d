"""Losses of a judge that learns to give the answers that labels ask of it, each in the numbers that judging reads.

Shape suffixes: N questions about pairs, L labels, V vocabulary; 2: the question's two requests (`compare`: a shown
first, then b; else: about a, about b). p_a is what the label says, the probability that a is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlaif.training.losses.preference import bradley_terry_loss


class AnswerLoss(NamedTuple):
    """Of each question."""

    loss_N: Tensor
    lead_N: Tensor
    """The judge's log-odds for a."""
    mass_N: Tensor | None
    """Probability of any label, the mean over the two requests; None where no label is asked for."""


def label_logprobs(logits_NV: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
    """logprob_NL of each label among all words, summed over the tokens that say it."""
    logprobs_NV = torch.log_softmax(logits_NV.float() if logits_NV.dtype != torch.float64 else logits_NV, -1)
    return torch.stack([logprobs_NV[:, list(tokens)].logsumexp(-1) for tokens in ids], -1)


def compare_loss(logprob_N2L: Tensor, p_a_N: Tensor) -> AnswerLoss:
    """-[p log P(a's label) + (1 - p) log P(b's label)], the mean over the two orders. P is among all words, so that the
    labels come to have all of it."""
    # a bears the first label where it is shown first, the second label where it is shown second.
    for_a_N2 = torch.stack([logprob_N2L[:, 0, 0], logprob_N2L[:, 1, 1]], -1)
    for_b_N2 = torch.stack([logprob_N2L[:, 0, 1], logprob_N2L[:, 1, 0]], -1)
    loss_N = _cross_entropy(p_a_N, for_a_N2.mean(-1), for_b_N2.mean(-1))
    mass_N = logprob_N2L.logsumexp(-1).exp().mean(-1)
    return AnswerLoss(loss_N, (for_a_N2 - for_b_N2).mean(-1), mass_N)


def rated_loss(logprob_N2L: Tensor, better_NLL: Tensor, p_a_N: Tensor, mass_weight: float) -> AnswerLoss:
    """-[p log p(a) + (1 - p) log p(b)], p(a) the chance that a's reply is the better one where both are drawn from
    P over the labels, independently; and mass_weight x -log P(any label), the mean over the two replies.

    `better_NLL` (or _LL): how far a reply (row) is better than another (column): 1, 0, or a half where they are alike.
    The weight must be small: probability on the labels is had most easily for the likeliest one, and replies that are
    all alike have no gradient left to tell a from b.
    """
    share_N2L = logprob_N2L.log_softmax(-1)  # log P of each label among the labels alone
    both_NLL = share_N2L[:, 0, :, None] + share_N2L[:, 1, None, :]  # log P(a's reply, b's reply)
    log_a_N, log_b_N = ((both_NLL + better.log()).flatten(1).logsumexp(1) for better in (better_NLL, 1 - better_NLL))
    log_mass_N2 = logprob_N2L.logsumexp(-1)
    loss_N = _cross_entropy(p_a_N, log_a_N, log_b_N) - mass_weight * log_mass_N2.mean(-1)
    return AnswerLoss(loss_N, log_a_N - log_b_N, log_mass_N2.exp().mean(-1))


def higher_rating(labels: int) -> Tensor:
    """better_LL of ratings from the worst to the best."""
    place = torch.arange(labels)
    return (1 + torch.sign(place[:, None] - place)) / 2


def better_answer(desired: Literal["yes", "no"]) -> Tensor:
    """better_LL of yes, no and unknown: unknown stands half-way."""
    value_L = torch.tensor([1.0, 0.0, 0.5] if desired == "yes" else [0.0, 1.0, 0.5])
    return (1 + value_L[:, None] - value_L) / 2


def ratio_loss(ratio_N2: Tensor, p_a_N: Tensor, tau: float) -> AnswerLoss:
    """Cross-entropy of sigma((s_a - s_b) / tau), s being the density ratios of a and of b (`density_ratio`)."""
    lead_N = (ratio_N2[:, 0] - ratio_N2[:, 1]) / tau
    return AnswerLoss(bradley_terry_loss(lead_N, p_a_N, torch.ones_like(p_a_N)), lead_N, None)


def density_ratio(
    logprob_for_N: Tensor, logprob_against_N: Tensor, tokens_N: Tensor, length: Literal["sum", "mean", "root"]
) -> Tensor:
    """log p(y | for, x) - log p(y | against, x), each summed over y's tokens; over their number (an empty text: 1) with
    `mean`, over its root with `root`."""
    difference_N = logprob_for_N - logprob_against_N
    if length == "sum":
        return difference_N
    tokens_N = tokens_N.clamp(min=1).to(difference_N.dtype)
    return difference_N / (tokens_N if length == "mean" else tokens_N.sqrt())


def _cross_entropy(p_a_N: Tensor, log_a_N: Tensor, log_b_N: Tensor) -> Tensor:
    return -(p_a_N * log_a_N + (1 - p_a_N) * log_b_N)
