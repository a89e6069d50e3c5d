"""What a return is expected to be: a critic of its own (a `ScalarModel`), or a head on the policy's own trunk.

The shared head costs no second model and no second pass, and its error teaches the trunk too. Its value 0 at the start
is right for scores that are centred on the policy's own responses.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlaif.training.policy_model import PolicyModel
from rlaif.training.scalar_model import ScalarModel


class SharedCritic:
    """A linear head in float32 over the states in which the policy chose its tokens; it starts at 0."""

    def __init__(self, policy: PolicyModel) -> None:
        width = policy.model.config.get_text_config().hidden_size
        self.head = torch.nn.Linear(width, 1, dtype=torch.float32, device=policy.model.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def values(self, hidden_NH: Tensor, mask_BT: Tensor) -> Tensor:
        """values_BT from the states at the real tokens, row after row; 0 on padding. Gradients reach the trunk."""
        value_N = F.linear(hidden_NH.float(), self.head.weight, self.head.bias).squeeze(-1)
        return torch.zeros(mask_BT.shape, device=mask_BT.device).masked_scatter(mask_BT, value_N)


Critic = ScalarModel | SharedCritic


def modules_of(critic: Critic) -> list[Any]:
    """The modules whose trainable parameters are the critic's alone."""
    return [critic.head] if isinstance(critic, SharedCritic) else [critic.backbone, critic.head]
