"""Advantages against their definitions: double sums and loops over groups, with garbage on padding."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.training.losses import policy as losses
from tests.tensors import close, mask_of, noise, tensor

group_sizes = st.lists(st.integers(2, 5), min_size=1, max_size=4)
seeds = st.integers(0, 10**6)


def shuffled_groups(sizes: list[int], seed: int) -> list[int]:
    """Group names of these sizes, mixed: members need not stand together."""
    groups = [10 * g for g, size in enumerate(sizes) for _ in range(size)]
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    return [groups[i] for i in order]


# --------------------------------------------------------------------------------------------------- GAE


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_gae_is_its_double_sum(lengths: list[int], gamma: float, lam: float, seed: int) -> None:
    mask = mask_of(*lengths)
    rewards, values = noise(seed, *mask.shape), noise(seed + 1, *mask.shape)  # garbage on padding
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    for b, length in enumerate(lengths):
        r, v = rewards[b, :length].tolist(), [*values[b, :length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** k * delta[t + k] for k in range(length - t))
            assert float(advantages[b, t]) == pytest.approx(expected, abs=1e-9)
            assert float(returns[b, t]) == pytest.approx(expected + v[t], abs=1e-9)
    assert bool((advantages[~mask] == 0).all())
    assert bool((returns[~mask] == 0).all())


def test_without_discount_or_bootstrap_returns_are_sums_of_later_rewards() -> None:
    mask = mask_of(4, 2)
    rewards = noise(3, 2, 4) * mask
    returns = losses.gae(rewards, noise(4, 2, 4), mask, 1.0, 1.0).returns_BT
    assert close(returns, rewards.flip(1).cumsum(1).flip(1) * mask)


# ------------------------------------------------------------------------------------------------- groups


@settings(deadline=None)
@given(group_sizes, seeds)
def test_leave_one_out_is_the_reward_less_the_mean_of_the_others(sizes: list[int], seed: int) -> None:
    groups = shuffled_groups(sizes, seed)
    reward = 3 * noise(seed, len(groups)) + 5
    advantage = losses.leave_one_out(reward, groups)
    for i, group in enumerate(groups):
        others = [float(reward[j]) for j, other in enumerate(groups) if other == group and j != i]
        assert float(advantage[i]) == pytest.approx(float(reward[i]) - statistics.mean(others), abs=1e-9)
    for group in set(groups):
        assert sum(float(advantage[i]) for i, g in enumerate(groups) if g == group) == pytest.approx(0, abs=1e-9)


@settings(deadline=None)
@given(group_sizes, seeds)
def test_group_relative_is_the_standard_score_within_the_group(sizes: list[int], seed: int) -> None:
    groups = shuffled_groups(sizes, seed)
    reward = 3 * noise(seed, len(groups)) + 5
    scaled, plain = (losses.group_relative(reward, groups, scale) for scale in ("std", "none"))
    for i, group in enumerate(groups):
        members = [float(reward[j]) for j, other in enumerate(groups) if other == group]
        difference = float(reward[i]) - statistics.mean(members)
        assert float(plain[i]) == pytest.approx(difference, abs=1e-9)
        assert float(scaled[i]) == pytest.approx(difference / (statistics.stdev(members) + 1e-6), abs=1e-9)


@settings(deadline=None)
@given(group_sizes, seeds, st.floats(0.1, 10), st.floats(-10, 10))
def test_group_relative_does_not_see_scale_or_shift(sizes: list[int], seed: int, factor: float, shift: float) -> None:
    groups = shuffled_groups(sizes, seed)
    reward = noise(seed, len(groups))
    advantage = losses.group_relative(reward, groups, "std")
    other = losses.group_relative(factor * reward + shift, groups, "std")
    gap = min(statistics.stdev([float(r) for r, g in zip(reward, groups, strict=True) if g == name]) for name in groups)
    assert torch.allclose(advantage, other, rtol=0, atol=1e-4 / min(gap, 1) / min(factor, 1))  # the 1e-6 on the std


@settings(deadline=None)
@given(group_sizes, seeds, st.floats(-10, 10))
def test_leave_one_out_scales_with_rewards_and_does_not_see_a_shift(sizes: list[int], seed: int, shift: float) -> None:
    groups = shuffled_groups(sizes, seed)
    reward = noise(seed, len(groups))
    assert close(losses.leave_one_out(2 * reward + shift, groups), 2 * losses.leave_one_out(reward, groups))


@pytest.mark.parametrize("equal", [0.1, 1000.1, -7.3, 0.0])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_a_group_of_equal_rewards_teaches_exactly_nothing(equal: float, size: int) -> None:
    """In float32 the mean of three 1000.1 is not 1000.1, and the standard deviation would blow the rest up."""
    reward = torch.full((size,), equal)
    for advantage in (
        losses.group_relative(reward, [4] * size, "std"),
        losses.group_relative(reward, [4] * size, "none"),
        losses.leave_one_out(reward, [4] * size),
    ):
        assert advantage.tolist() == [0.0] * size


@pytest.mark.parametrize(
    "estimate",
    [
        losses.leave_one_out,
        lambda r, g: losses.group_relative(r, g, "std"),
        lambda r, g: losses.group_relative(r, g, "none"),
    ],
)
def test_a_group_of_one_is_an_error(estimate) -> None:
    with pytest.raises(ValueError, match="group 7 has one response"):
        estimate(tensor(1.0, 2.0, 3.0), [3, 3, 7])


# ------------------------------------------------------------------------------- baseline, whole responses


def test_the_baseline_moves_by_what_decay_leaves() -> None:
    baseline = losses.moving_baseline(None, 4.0, 0.9)
    assert baseline == 4.0  # no reward before the first: not a mean with zero
    assert losses.moving_baseline(baseline, 14.0, 0.9) == pytest.approx(0.9 * 4 + 0.1 * 14)
    assert losses.moving_baseline(baseline, 14.0, 0.0) == 14.0
    assert losses.moving_baseline(0.0, 10.0, 0.9) == pytest.approx(1.0)  # a baseline of 0 is one


def test_a_responses_advantage_is_on_each_of_its_tokens() -> None:
    spread = losses.spread(tensor(2.0, -3.0, 4.0), mask_of(3, 1, 2))
    assert spread.tolist() == [[2.0, 2.0, 2.0], [-3.0, 0.0, 0.0], [4.0, 4.0, 0.0]]
