"""The mathematics against its definitions, in float64: sums over a vocabulary, double sums, autograd, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlaif.config.optimise import AdaptiveKl, FixedKl
from rlaif.training.losses import policy as losses
from rlaif.training.session import warmup_then_linear
from tests.tensors import close, mask_of, noise, tensor

P = torch.tensor([0.05, 0.15, 0.2, 0.25, 0.35], dtype=torch.float64)
Q = torch.tensor([0.4, 0.3, 0.1, 0.15, 0.05], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------ KL


@pytest.mark.parametrize("estimate", [losses.kl_k1, losses.kl_k3])
@pytest.mark.parametrize(("policy", "reference"), [(P, Q), (Q, P), (P, P)])
def test_the_estimates_expect_to_the_exact_kl(estimate, policy: Tensor, reference: Tensor) -> None:
    exact = (policy * (policy / reference).log()).sum()
    expected = (policy * estimate(policy.log(), reference.log())).sum()  # tokens are drawn by the policy
    assert float(expected) == pytest.approx(float(exact), abs=1e-12)


def test_k1_has_the_sign_of_policy_over_reference_and_k3_is_never_negative() -> None:
    assert close(losses.kl_k1(P.log(), Q.log()), (P / Q).log())
    assert bool((losses.kl_k3(P.log(), Q.log()) >= 0).all())
    # Where policy and reference nearly agree, exp(x) - 1 - x loses all digits; expm1 does not.
    near = torch.tensor([1e-4], dtype=torch.float32)
    assert float(losses.kl_k3(torch.zeros(1), near)) == pytest.approx(5e-9, rel=0.05)


def test_adaptive_kl_coefficient_is_the_formula_with_the_error_clipped() -> None:
    kl = AdaptiveKl(coef=0.05, target=6.0, gain=0.1)
    assert losses.next_kl_coef(kl, 0.05, 6.6) == pytest.approx(0.05 * (1 + 0.1 * 0.1))
    assert losses.next_kl_coef(kl, 0.05, 60.0) == pytest.approx(0.05 * 1.02)
    assert losses.next_kl_coef(kl, 0.05, 0.0) == pytest.approx(0.05 * 0.98)
    assert losses.next_kl_coef(FixedKl(coef=0.3), 0.3, 60.0) == 0.3


# ------------------------------------------------------------------------------------------------ means


def test_means_see_real_tokens_only() -> None:
    values, mask = noise(0, 3, 5), mask_of(5, 2, 1)
    assert float(losses.masked_mean(values, mask)) == pytest.approx(float(values[mask].mean()))


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_is_over_real_tokens_whatever_the_padding_holds(shift_mean: bool) -> None:
    values, mask = 3 + 2 * noise(1, 3, 6), mask_of(6, 3, 1)
    real = values[mask]
    expected = (real - real.mean()) / real.std(unbiased=False)
    whitened = losses.whiten(values, mask, shift_mean)
    assert torch.allclose(whitened[mask], expected if shift_mean else expected + real.mean(), atol=1e-7)
    assert bool((whitened[~mask] == 0).all())
    garbage = values.masked_fill(~mask, 1e6)
    assert torch.equal(losses.whiten(garbage, mask, shift_mean)[mask], whitened[mask])


# ------------------------------------------------------------------------------------------------- PPO


def test_the_score_is_on_the_last_real_token_and_the_kl_on_every_one() -> None:
    kl, mask = noise(2, 3, 5), mask_of(5, 3, 1)
    rewards = losses.token_rewards(tensor(10.0, 20.0, 30.0), kl, mask, 0.1)
    expected = -0.1 * kl * mask
    expected[0, 4] += 10
    expected[1, 2] += 20
    expected[2, 0] += 30
    assert close(rewards, expected)
    assert bool((rewards[~mask] == 0).all())


def test_at_ratio_one_the_gradient_is_reinforces() -> None:
    logits, advantages = noise(5, 2, 3, 7), noise(6, 2, 3)
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]]).unsqueeze(2)

    def gradient(ppo: bool) -> Tensor:
        leaf = logits.clone().requires_grad_(True)
        logprobs = torch.log_softmax(leaf, -1).gather(2, tokens).squeeze(2)
        if ppo:
            loss = losses.policy_loss(logprobs, logprobs.detach(), advantages, 0.2).loss_BT
        else:
            loss = -advantages * logprobs
        loss.sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    assert close(gradient(ppo=True), gradient(ppo=False))


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "clipped"),
    [
        (2.0, 1.3, -2.4, True),  # good and already likelier: no more to gain
        (2.0, 0.7, -1.4, False),  # good but less likely: full pull back
        (-2.0, 0.7, 1.6, True),
        (-2.0, 1.3, 2.6, False),
        (2.0, 1.19, -2.38, False),
        (-2.0, 0.81, 1.62, False),
    ],
)
def test_clipping_takes_the_pessimistic_side(advantage: float, ratio: float, loss: float, clipped: bool) -> None:
    logprobs = tensor(math.log(ratio) - 1.0).requires_grad_(True)
    result = losses.policy_loss(logprobs, tensor(-1.0), tensor(advantage), 0.2)
    result.loss_BT.sum().backward()
    assert float(result.loss_BT.detach()) == pytest.approx(loss)
    assert bool(result.clipped_BT) is clipped
    assert float(logprobs.grad) == pytest.approx(0.0 if clipped else -advantage * ratio)


@pytest.mark.parametrize(
    ("value", "loss", "slope", "clipped"),
    [
        (0.5, 0.5 * 0.8**2, 0.0, True),  # moved towards the return by more than the clip: not rewarded
        (-0.5, 0.5 * 1.5**2, -1.5, False),  # moved away: pulled back in full
        (0.1, 0.5 * 0.9**2, -0.9, False),
    ],
)
def test_value_clipping(value: float, loss: float, slope: float, clipped: bool) -> None:
    leaf = tensor(value).requires_grad_(True)
    result = losses.value_loss(leaf, tensor(0.0), tensor(1.0), 0.2)
    result.loss_BT.sum().backward()
    assert float(result.loss_BT.detach()) == pytest.approx(loss)
    assert float(leaf.grad) == pytest.approx(slope)
    assert bool(result.clipped_BT) is clipped


def test_a_value_within_the_clip_is_never_counted_as_clipped() -> None:
    """In float32 old + (value - old) is not always value: rounding alone must not look like clipping."""
    old, returns = noise(10, 1000).float(), noise(11, 1000).float()
    values = old + 0.19 * torch.tanh(noise(12, 1000)).float()
    assert not losses.value_loss(values, old, returns, 0.2).clipped_BT.any()


def test_explained_variance_by_definition() -> None:
    mask = mask_of(5, 2)
    returns, values = noise(7, 2, 5), noise(8, 2, 5)
    error, real = (returns - values)[mask], returns[mask]
    expected = 1 - error.var(unbiased=False) / real.var(unbiased=False)
    assert float(losses.explained_variance(values, returns, mask)) == pytest.approx(float(expected))
    assert float(losses.explained_variance(returns.masked_fill(~mask, 9.0), returns, mask)) == 1.0
    assert float(losses.explained_variance(torch.full_like(returns, 0.3), returns, mask)) == pytest.approx(0.0)


# -------------------------------------------------------------------------------------- whole responses


def test_the_mean_of_means_weighs_responses_and_the_mean_tokens() -> None:
    values, mask = noise(20, 3, 5), mask_of(5, 2, 1)
    by_hand = [float(values[b, :n].mean()) for b, n in enumerate((5, 2, 1))]
    assert float(losses.response_mean(values, mask)) == pytest.approx(sum(by_hand) / 3)
    assert float(losses.response_mean(values, mask)) != pytest.approx(float(losses.masked_mean(values, mask)))
    same = mask_of(4, 4)
    assert float(losses.response_mean(values[:2, :4], same)) == pytest.approx(
        float(losses.masked_mean(values[:2, :4], same))
    )


# ------------------------------------------------------------------------------------- another sampler


def test_importance_weights_are_the_capped_ratio_without_a_gradient() -> None:
    mask = mask_of(4, 2)
    ratios = torch.tensor([[1.0, 0.5, 1.9, 3.0], [2.5, 0.1, 1.0, 1.0]], dtype=torch.float64)
    sampler = noise(22, 2, 4)
    logprobs = (sampler + ratios.log()).requires_grad_(True)
    weights = losses.importance_weights(logprobs, sampler, mask, 2.0)
    expected = torch.tensor([[1.0, 0.5, 1.9, 2.0], [2.0, 0.1, 0.0, 0.0]], dtype=torch.float64)
    assert close(weights, expected)
    assert not weights.requires_grad


def test_importance_weights_of_impossible_tokens_stay_finite() -> None:
    sampler = torch.tensor([[-1000.0, -1.0, -float("inf")]])
    weights = losses.importance_weights(torch.tensor([[-1.0, -1000.0, -float("inf")]]), sampler, mask_of(2, 3)[:1], 2.0)
    assert weights.tolist() == [[2.0, 0.0, 0.0]]


def test_capped_weights_make_the_samplers_mean_the_policys() -> None:
    """Over a whole vocabulary: sum_x q(x) min(cap, p/q) f(x) is sum_x p(x) f(x) if no ratio is above the cap."""
    f, everything = noise(23, 5), mask_of(5)
    weights = losses.importance_weights(P.log().unsqueeze(0), Q.log().unsqueeze(0), everything, 100.0)[0]
    assert float((Q * weights * f).sum()) == pytest.approx(float((P * f).sum()))


# ------------------------------------------------------------------------------------------- constraints


def test_a_multiplier_grows_while_the_limit_is_broken_and_never_falls_below_zero() -> None:
    assert losses.next_multiplier(0.5, cost_mean=3.0, limit=1.0, learning_rate=0.1) == pytest.approx(0.7)
    assert losses.next_multiplier(0.5, cost_mean=0.0, limit=1.0, learning_rate=0.1) == pytest.approx(0.4)
    assert losses.next_multiplier(0.05, cost_mean=0.0, limit=1.0, learning_rate=0.1) == 0.0


def test_the_constrained_score_is_less_its_costs_and_bounded() -> None:
    score, costs = tensor(1.0, 2.0), [tensor(3.0, -1.0), tensor(0.5, 0.5)]
    expected = [(1 - 2 * 3 - 0.5 * 0.5) / 3.5, (2 + 2 * 1 - 0.5 * 0.5) / 3.5]
    assert losses.constrained_score(score, costs, [2.0, 0.5]).tolist() == pytest.approx(expected)
    assert close(losses.constrained_score(score, costs, [0.0, 0.0]), score)
    assert close(losses.constrained_score(score, [], []), score)
    assert torch.allclose(losses.constrained_score(score, costs[:1], [1e9]), -costs[0], atol=1e-6)
    with pytest.raises(ValueError, match="zip"):
        losses.constrained_score(score, costs, [1.0])


# --------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(
    "measure",
    [
        losses.masked_mean,
        losses.response_mean,
        losses.whiten,
        lambda v, m: losses.token_rewards(v[:, 0], v, m, 0.3),
        lambda v, m: losses.gae(v * m, v, m, 0.9, 0.95).advantages_BT,
        lambda v, m: losses.gae(v * m, v, m, 0.9, 0.95).returns_BT,
        lambda v, m: losses.importance_weights(v, 0.5 * v, m, 2.0),
        lambda v, m: losses.explained_variance(v, v * v, m),
        lambda v, m: losses.masked_mean(losses.policy_loss(v, 0.5 * v, v, 0.2).loss_BT, m),
        lambda v, m: losses.masked_mean(losses.value_loss(v, 0.5 * v, v * v, 0.2).loss_BT, m),
    ],
)
def test_what_padding_holds_changes_nothing(measure) -> None:
    values, mask = noise(30, 4, 6), mask_of(6, 4, 2, 1)
    expected = measure(values, mask)
    for garbage in (99.0, -0.5):
        assert close(measure(values.masked_fill(~mask, garbage), mask), expected)
    wider = torch.nn.functional.pad(values, (0, 3), value=7.0)
    result = measure(wider, torch.nn.functional.pad(mask, (0, 3)))
    assert close(result[:, :6] if result.dim() == 2 else result, expected)


# ----------------------------------------------------------------------------------------------- schedule


def test_the_learning_rate_warms_up_and_falls_in_a_line() -> None:
    factors = [warmup_then_linear(step, 10, 0.2) for step in range(10)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert warmup_then_linear(0, 1, 0.0) == 1.0


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(0, 1))
def test_the_learning_rate_factor_stays_in_its_bounds(total: int, warmup_share: float) -> None:
    factors = [warmup_then_linear(step, total, warmup_share) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
