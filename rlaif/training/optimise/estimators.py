"""What a step's rollouts teach: one small function per method, each fixed before the step's first update.

The mathematics is in `losses`; here is which of it makes PPO, REINFORCE, RLOO or GRPO.
Shape suffixes: B responses, T response tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.config.optimise import Grpo, OnPolicy, Ppo, Reinforce, Rloo
from rlaif.training.losses import policy as losses
from rlaif.training.optimise.rollout import Rollouts


@dataclass(frozen=True)
class State:
    """What one step hands to the next beside the weights: numbers, all of them in every checkpoint."""

    kl_coef: float
    baseline: float | None = None
    """REINFORCE: the moving average of rewards."""
    multipliers: dict[str, float] = field(default_factory=dict)
    """Of the constraints."""
    first_tokens: float | None = None
    """Mean tokens of a response in the first step."""
    beyond: dict[str, int] = field(default_factory=dict)
    """For how many steps in a row each stop rule's limit has been passed."""

    @classmethod
    def first(cls, section: OnPolicy) -> State:
        """Before the first step."""
        return cls(section.kl.coef, multipliers={c.name: c.start for c in section.constraints})

    def saved(self) -> dict[str, Any]:
        """As a checkpoint keeps it; `State(**saved)` is the way back."""
        return asdict(self)

    def after(self, section: OnPolicy, row: dict[str, float], beyond: dict[str, int]) -> State:
        """The state of the next step: a function of this step's row of metrics."""
        baseline = self.baseline
        if isinstance(section, Reinforce):
            baseline = losses.moving_baseline(baseline, row["reward"], section.baseline_decay)
        return State(
            kl_coef=losses.next_kl_coef(section.kl, self.kl_coef, row["kl"]),
            baseline=baseline,
            multipliers={
                c.name: losses.next_multiplier(
                    self.multipliers[c.name], row[f"cost/{c.name}"], c.limit, c.learning_rate
                )
                for c in section.constraints
            },
            first_tokens=row["response_tokens"] if self.first_tokens is None else self.first_tokens,
            beyond=beyond,
        )


class Targets(NamedTuple):
    """What a step's rollouts teach."""

    advantages_BT: Tensor
    returns_BT: Tensor | None
    """What the critic learns, where there is one."""
    kl_BT: Tensor
    reward_B: Tensor
    """Of the whole response, the KL penalty included where it is part of the reward."""
    kl_loss_coef: float = 0.0
    """Of the KL to the reference in the policy's loss."""


def make_targets(rollouts: Rollouts, section: OnPolicy, state: State) -> Targets:
    """The targets of this section's method."""
    targets = ESTIMATORS[type(section)](rollouts, section, state)
    if section.whiten_advantages:  # after returns: the critic learns them unscaled
        return targets._replace(advantages_BT=losses.whiten(targets.advantages_BT, rollouts.mask_BT))
    return targets


def ppo(rollouts: Rollouts, section: Ppo, state: State) -> Targets:
    """Rewards of tokens, then advantages and returns; whitened after returns are taken (N+ details 15-21)."""
    assert rollouts.values_BT is not None
    mask_BT, kl_BT = rollouts.mask_BT, kl_of(rollouts)
    score_B, credit_BT = learnt_score(rollouts, section, state), rollouts.credit_BT
    if credit_BT is None:
        rewards_BT = losses.token_rewards(score_B, kl_BT, mask_BT, state.kl_coef)
    else:  # the last token gets what the credit leaves: a response's total is its score, whatever the credit says
        rewards_BT = losses.token_rewards(score_B - credit_BT.sum(1), kl_BT, mask_BT, state.kl_coef) + credit_BT
    if section.whiten_rewards:
        # Not to zero mean: returns would lose the level that the critic is to learn.
        rewards_BT = losses.whiten(rewards_BT, mask_BT, shift_mean=False)
    advantages_BT, returns_BT = losses.gae(rewards_BT, rollouts.values_BT, mask_BT, section.gamma, section.gae_lambda)
    return Targets(advantages_BT, returns_BT, kl_BT, rewards_BT.sum(1))


def reinforce(rollouts: Rollouts, section: Reinforce, state: State) -> Targets:
    """Reward less a baseline that does not depend on it: the moving average, or the mean of the step's others."""
    kl_BT, reward_B = kl_of(rollouts), penalised(rollouts, section, state)
    if state.baseline is None or section.baseline_decay == 0:
        advantage_B = compared(reward_B, [0] * len(reward_B), losses.leave_one_out)  # one group: the whole step
    else:
        advantage_B = reward_B - state.baseline
    return Targets(losses.spread(advantage_B, rollouts.mask_BT), None, kl_BT, reward_B)


def rloo(rollouts: Rollouts, section: Rloo, state: State) -> Targets:
    """Reward less the mean of the prompt's other responses (arXiv 2402.14740)."""
    reward_B = penalised(rollouts, section, state)
    advantage_B = compared(reward_B, rollouts.groups(section.responses_per_prompt), losses.leave_one_out)
    return Targets(losses.spread(advantage_B, rollouts.mask_BT), None, kl_of(rollouts), reward_B)


def grpo(rollouts: Rollouts, section: Grpo, state: State) -> Targets:
    """Score relative to the prompt's group; the KL is no part of it but of the loss (arXiv 2402.03300, eq. 3)."""
    reward_B = learnt_score(rollouts, section, state)
    advantage_B = compared(
        reward_B,
        rollouts.groups(section.responses_per_prompt),
        lambda reward, groups: losses.group_relative(reward, groups, section.scale),
    )
    return Targets(
        losses.spread(advantage_B, rollouts.mask_BT), None, kl_of(rollouts), reward_B, kl_loss_coef=state.kl_coef
    )


ESTIMATORS: dict[type[OnPolicy], Callable[..., Targets]] = {Ppo: ppo, Reinforce: reinforce, Rloo: rloo, Grpo: grpo}


def kl_of(rollouts: Rollouts) -> Tensor:
    """kl_BT between the policy that wrote and the reference, per token (k1); 0 on padding."""
    return losses.kl_k1(rollouts.logprobs_BT, rollouts.ref_logprobs_BT) * rollouts.mask_BT  # k1: the sum is unbiased


def learnt_score(rollouts: Rollouts, section: OnPolicy, state: State) -> Tensor:
    """The score, less what breaks constraints, less the penalty of a response that the token limit cut off."""
    mask_BT = rollouts.mask_BT
    cut_off_B = torch.tensor([not finished for finished in rollouts.finished], device=mask_BT.device)
    score_B = rollouts.score_B
    if section.constraints:
        names = [constraint.name for constraint in section.constraints]
        costs, multipliers = [rollouts.cost_B[name] for name in names], [state.multipliers[name] for name in names]
        score_B = losses.constrained_score(score_B, costs, multipliers)
    return score_B - section.missing_eos_penalty * cut_off_B


def penalised(rollouts: Rollouts, section: OnPolicy, state: State) -> Tensor:
    """reward_B: the learnt score less the KL of the whole response."""
    return learnt_score(rollouts, section, state) - state.kl_coef * kl_of(rollouts).sum(1)


def compared(reward_B: Tensor, groups: Sequence[int], rule: Callable[[Tensor, Sequence[int]], Tensor]) -> Tensor:
    """advantage_B by a rule over groups; a response whose group's others have no score teaches nothing."""
    sizes = Counter(groups)
    some = [place for place, group in enumerate(groups) if sizes[group] > 1]
    advantage_B = torch.zeros_like(reward_B)  # stays 0 where a response is alone in its group
    if some:
        advantage_B[some] = rule(reward_B[some], [groups[place] for place in some])
    return advantage_B
