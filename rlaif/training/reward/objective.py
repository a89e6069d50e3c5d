"""What is asked of the scores of one minibatch: labels as tensors, and each lesson's loss.

Shape suffixes: N lessons, K scores of a row (the common one, then one a principle).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif.config.reward import BradleyTerry, RaoKupper, Regression, RewardLoss
from rlaif.training import losses
from rlaif.training.reward.data import RewardLesson


class Labels(NamedTuple):
    """What the lessons of a minibatch are to teach."""

    target_NK: Tensor
    """P(the chosen one is better), by all principles together and by each; or the rating."""
    share_NK: Tensor
    """Of the minibatch's loss; a column adds up to 1, those of principles together too. 0: no such label."""
    margin_N: Tensor
    tie_N: Tensor

    def take(self, places: Sequence[int]) -> Labels:
        """Those of some lessons."""
        at_N = torch.tensor(places, device=self.tie_N.device)
        return Labels(*(column[at_N] for column in self))


def labels_of(lessons: Sequence[RewardLesson], principles: Sequence[str], device: torch.device) -> Labels:
    """The labels of a whole minibatch, so that shares are of its totals however it is divided afterwards."""
    target_NK = torch.tensor([[x.target, *(x.by_principle.get(p, 0.5) for p in principles)] for x in lessons])
    weight_NK = torch.tensor([[x.weight, *(x.weight * (p in x.by_principle) for p in principles)] for x in lessons])
    share_NK = weight_NK / weight_NK.sum(0).clamp(min=1e-12)
    share_NK[:, 1:] /= max(1, len(principles))
    margin_N = torch.tensor([x.margin for x in lessons])
    tie_N = torch.tensor([x.tie for x in lessons])
    return Labels(*(column.to(device) for column in (target_NK, share_NK, margin_N, tie_N)))


def lesson_losses(found_NK: Tensor, labels: Labels, loss: RewardLoss) -> Tensor:
    """loss_NK, each times its share: the sum over all lessons is the minibatch's loss.

    `found_NK` holds margins, score(chosen) - score(rejected); with ratings it holds the scores. Principles' heads
    learn soft labels by Bradley-Terry, whatever the common score learns by.
    """
    own_N = _common(found_NK[:, 0], labels, loss)
    heads_NK = losses.bradley_terry_loss(found_NK[:, 1:], labels.target_NK[:, 1:], labels.share_NK[:, 1:])
    return torch.cat([own_N.unsqueeze(1), heads_NK], 1)


def _common(found_N: Tensor, labels: Labels, loss: RewardLoss) -> Tensor:
    target_N, share_N = labels.target_NK[:, 0], labels.share_NK[:, 0]
    if isinstance(loss, Regression):
        return losses.regression_loss(found_N, target_N, share_N)
    if isinstance(loss, BradleyTerry):
        return losses.bradley_terry_loss(found_N, target_N, share_N, labels.margin_N, loss.label_smoothing)
    if isinstance(loss, RaoKupper):
        return losses.rao_kupper_loss(found_N, target_N, labels.tie_N, share_N, loss.theta)
    return losses.davidson_loss(found_N, target_N, labels.tie_N, share_N, loss.nu)


def hits(margin_N: Tensor, labels: Labels) -> Tensor:
    """1 where the margin is on the label's side, 0.5 where it is 0 (N); an even label counts as chosen's side."""
    towards_N = torch.where(labels.target_NK[:, 0] >= 0.5, margin_N, -margin_N)
    return (towards_N > 0).float() + 0.5 * (towards_N == 0).float()
