"""From rewards to advantages: how much better a token, or a response, was than what was to be expected.

Shape suffixes: B responses, T response tokens. `mask_BT` is True on real response tokens. `groups` names the group of
each response (the responses to one prompt of one step), in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor


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
