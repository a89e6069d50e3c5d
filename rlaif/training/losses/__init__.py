"""The mathematics of training: pure functions of tensors, nothing else. `losses.<name>` is how the loops use them."""

from rlaif.training.losses.advantages import (
    Advantages,
    gae,
    group_relative,
    leave_one_out,
    moving_baseline,
    spread,
)
from rlaif.training.losses.kl import kl_k1, kl_k3, next_kl_coef
from rlaif.training.losses.masked import explained_variance, masked_mean, response_mean, whiten
from rlaif.training.losses.policy import (
    Clipped,
    constrained_score,
    importance_weights,
    next_multiplier,
    policy_loss,
    token_rewards,
    value_loss,
)
from rlaif.training.losses.preference import (
    Treated,
    bradley_terry_loss,
    davidson_loss,
    dpo_loss,
    ensemble_score,
    pair_weights,
    rao_kupper_loss,
    regression_loss,
    treat_labels,
)

__all__ = [
    "Advantages",
    "Clipped",
    "Treated",
    "bradley_terry_loss",
    "constrained_score",
    "davidson_loss",
    "dpo_loss",
    "ensemble_score",
    "explained_variance",
    "gae",
    "group_relative",
    "importance_weights",
    "kl_k1",
    "kl_k3",
    "leave_one_out",
    "masked_mean",
    "moving_baseline",
    "next_kl_coef",
    "next_multiplier",
    "pair_weights",
    "policy_loss",
    "rao_kupper_loss",
    "regression_loss",
    "response_mean",
    "spread",
    "token_rewards",
    "treat_labels",
    "value_loss",
    "whiten",
]
