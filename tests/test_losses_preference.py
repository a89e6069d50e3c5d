"""Losses of preferences, ties, ratings and DPO against their definitions; what treatments do to labels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlaif.config.reward import FlipLabels, KeepLabels, SoftenLabels, StrengthMargin
from rlaif.training.losses import preference as losses
from tests.tensors import close, noise, tensor

margins = st.floats(-30, 30)
shares = st.floats(0, 1)
ONE = tensor(1.0)
UNTIED, TIED = torch.tensor([False]), torch.tensor([True])
TIE_LOSSES = [(losses.rao_kupper_loss, 1.7), (losses.davidson_loss, 0.6)]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


# ------------------------------------------------------------------------------------------ Bradley-Terry


@settings(deadline=None)
@given(st.lists(st.tuples(margins, shares, st.floats(0.1, 5)), min_size=1, max_size=6))
def test_bradley_terry_is_the_soft_cross_entropy(rows: list[tuple[float, float, float]]) -> None:
    margin, p, weight = (tensor(*column) for column in zip(*rows, strict=True))
    by_hand = [w * (p_ * math.log1p(math.exp(-m)) + (1 - p_) * math.log1p(math.exp(m))) for m, p_, w in rows]
    loss = losses.bradley_terry_loss(margin, p, weight)
    assert close(loss, tensor(*by_hand))
    bce = torch.nn.BCELoss(weight=weight, reduction="none")(torch.sigmoid(margin), p)
    assert torch.allclose(loss, bce, rtol=1e-3, atol=1e-3)  # sigmoid saturates; ours does not


@settings(deadline=None)
@given(margins, shares, st.floats(-3, 3), st.floats(0, 0.49), st.floats(0.1, 5))
def test_target_and_smoothing_are_where_the_formula_has_them(
    margin: float, p: float, target: float, smoothing: float, weight: float
) -> None:
    smooth = (1 - smoothing) * p + smoothing * (1 - p)
    expected = -smooth * math.log(sigma(margin - target)) - (1 - smooth) * math.log(sigma(-margin - target))
    loss = losses.bradley_terry_loss(tensor(margin), tensor(p), tensor(weight), tensor(target), smoothing)
    assert close(loss, tensor(weight * expected))


@settings(deadline=None)
@given(margins, shares, st.floats(0, 3), st.floats(0, 0.49))
def test_swapping_chosen_and_rejected_with_p_changes_nothing(m: float, p: float, target: float, s: float) -> None:
    one = losses.bradley_terry_loss(tensor(m), tensor(p), ONE, tensor(target), s)
    other = losses.bradley_terry_loss(tensor(-m), tensor(1 - p), ONE, tensor(target), s)
    assert close(one, other)


def test_bradley_terry_stays_finite_far_out() -> None:
    loss = losses.bradley_terry_loss(tensor(1000.0, -1000.0), tensor(1.0, 1.0), tensor(1.0, 1.0))
    assert loss.tolist() == [0.0, 1000.0]


def test_the_loss_is_least_where_sigma_of_the_margin_is_the_label() -> None:
    p = tensor(0.55, 0.8, 0.99)
    margin = torch.logit(p).requires_grad_(True)
    losses.bradley_terry_loss(margin, p, torch.ones(3)).sum().backward()
    assert torch.allclose(margin.grad, torch.zeros(3, dtype=torch.float64), atol=1e-12)


def test_a_target_asks_for_more_and_a_negative_one_for_less() -> None:
    def pull(target: float) -> float:
        margin = tensor(0.5).requires_grad_(True)
        losses.bradley_terry_loss(margin, ONE, ONE, tensor(target)).sum().backward()
        return -float(margin.grad)

    assert pull(1.0) == pytest.approx(sigma(0.5))  # 1 - sigma(0.5 - 1)
    assert pull(1.0) > pull(0.0) > pull(-1.0)


# --------------------------------------------------------------------------------------------------- ties


def probabilities(loss, constant: float, margin: float) -> tuple[float, float, float]:
    """Win, loss, tie as the loss has them."""
    rows = [(1.0, UNTIED), (0.0, UNTIED), (0.5, TIED)]
    win, lose, tie = (math.exp(-float(loss(tensor(margin), tensor(p), tied, ONE, constant))) for p, tied in rows)
    return win, lose, tie


@settings(deadline=None)
@given(st.floats(-20, 20), st.floats(1.01, 10))
def test_rao_kupper_is_its_definition(d: float, theta: float) -> None:
    win, lose, tie = probabilities(losses.rao_kupper_loss, theta, d)
    better, worse = math.exp(d), 1.0
    assert win == pytest.approx(better / (better + theta * worse), rel=1e-9)
    assert lose == pytest.approx(worse / (theta * better + worse), rel=1e-9)
    # The tie's own formula in the paper, not the rest: that would lose all digits far out.
    assert tie == pytest.approx(
        (theta**2 - 1) * better * worse / ((better + theta * worse) * (theta * better + worse)), rel=1e-9
    )


@settings(deadline=None)
@given(st.floats(-20, 20), st.floats(0.01, 10))
def test_davidson_is_its_definition(d: float, nu: float) -> None:
    win, lose, tie = probabilities(losses.davidson_loss, nu, d)
    better, worse = math.exp(d), 1.0
    total = better + worse + nu * math.sqrt(better * worse)
    assert (win, lose, tie) == pytest.approx(
        (better / total, worse / total, nu * math.sqrt(better * worse) / total), rel=1e-9
    )


@pytest.mark.parametrize(("loss", "constant"), TIE_LOSSES)
@settings(deadline=None)
@given(d=st.floats(-20, 20))
def test_win_loss_and_tie_sum_to_one(loss, constant: float, d: float) -> None:
    assert sum(probabilities(loss, constant, d)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("loss", "constant"), TIE_LOSSES)
@settings(deadline=None)
@given(d=margins, p=shares, tied=st.booleans(), weight=st.floats(0.1, 5))
def test_ties_are_the_same_from_both_sides(
    loss, constant: float, d: float, p: float, tied: bool, weight: float
) -> None:
    tie = torch.tensor([tied])
    one = loss(tensor(d), tensor(p), tie, tensor(weight), constant)
    other = loss(tensor(-d), tensor(1 - p), tie, tensor(weight), constant)
    assert close(one, other)
    assert close(one, weight * loss(tensor(d), tensor(p), tie, ONE, constant))


@pytest.mark.parametrize(("loss", "none"), [(losses.rao_kupper_loss, 1 + 1e-9), (losses.davidson_loss, 1e-12)])
@settings(deadline=None)
@given(d=st.floats(-10, 10), p=shares)
def test_without_ties_bradley_terry_is_left(loss, none: float, d: float, p: float) -> None:
    plain = losses.bradley_terry_loss(tensor(d), tensor(p), ONE)
    assert torch.allclose(loss(tensor(d), tensor(p), UNTIED, ONE, none), plain, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("loss", "constant"), TIE_LOSSES)
def test_a_tie_pulls_scores_together_and_a_win_apart(loss, constant: float) -> None:
    margin = tensor(0.7, -0.7, 0.7).requires_grad_(True)
    loss(margin, tensor(0.5, 0.5, 1.0), torch.tensor([True, True, False]), torch.ones(3), constant).sum().backward()
    slopes = margin.grad.sign().tolist()
    assert slopes == [1.0, -1.0, -1.0]


@pytest.mark.parametrize(("loss", "constant"), TIE_LOSSES)
@pytest.mark.parametrize("far", [1000.0, -1000.0])
def test_ties_stay_finite_far_out(loss, constant: float, far: float) -> None:
    margin = torch.full((2,), far, requires_grad=True)  # float32, as in training
    value = loss(margin, torch.full((2,), 0.9), torch.tensor([True, False]), torch.ones(2), constant)
    value.sum().backward()
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(margin.grad).all())


@pytest.mark.parametrize(
    "loss",
    [
        lambda m: losses.bradley_terry_loss(m, P_CHOSEN, WEIGHT, tensor(0.3, -0.2, 0.0), 0.1),
        lambda m: losses.rao_kupper_loss(m, P_CHOSEN, SOME_TIED, WEIGHT, 2.0),
        lambda m: losses.davidson_loss(m, P_CHOSEN, SOME_TIED, WEIGHT, 1.0),
        lambda m: losses.dpo_loss(m, tensor(0.1, 0.2, 0.3), P_CHOSEN, WEIGHT, 0.5, 0.1),
        lambda m: losses.regression_loss(m, tensor(0.1, 0.2, 0.3), WEIGHT),
    ],
)
def test_gradients_are_the_finite_differences(loss) -> None:
    assert torch.autograd.gradcheck(loss, (noise(0, 3).requires_grad_(True),))


P_CHOSEN, WEIGHT = tensor(0.9, 0.6, 1.0), tensor(1.0, 0.5, 2.0)
SOME_TIED = torch.tensor([False, True, False])


# ------------------------------------------------------------------------------------- weights and ratings


def test_the_pairs_of_a_prompt_share_a_weight_of_one() -> None:
    prompts = ["a", "b", "a", "a", "c", "c"]
    assert losses.pair_weights(prompts, "pair").tolist() == [1.0] * 6
    assert losses.pair_weights(prompts, "prompt").tolist() == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3, 0.5, 0.5])


def test_regression_is_half_the_weighted_squared_error() -> None:
    loss = losses.regression_loss(tensor(1.0, -2.0), tensor(3.0, -2.5), tensor(2.0, 3.0))
    assert close(loss, tensor(2 * 0.5 * 4, 3 * 0.5 * 0.25))


# ---------------------------------------------------------------------------------------------------- DPO


@settings(deadline=None)
@given(margins, margins, shares, st.floats(0.01, 1), st.floats(0, 0.49))
def test_dpo_is_equation_seven_with_soft_labels(
    policy: float, reference: float, p: float, beta: float, s: float
) -> None:
    reward_gap = beta * (policy - reference)  # of the implicit rewards beta * log(pi / reference)
    smooth = (1 - s) * p + s * (1 - p)
    expected = -smooth * math.log(sigma(reward_gap)) - (1 - smooth) * math.log(sigma(-reward_gap))
    loss = losses.dpo_loss(tensor(policy), tensor(reference), tensor(p), tensor(2.0), beta, s)
    assert close(loss, tensor(2 * expected))


def test_dpo_at_the_reference_is_log_two_and_pulls_towards_chosen() -> None:
    margin = tensor(3.0).requires_grad_(True)
    loss = losses.dpo_loss(margin, tensor(3.0), ONE, ONE, 0.1)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert float(margin.grad) == pytest.approx(-0.1 * 0.5)  # -beta sigma(-0)


# ---------------------------------------------------------------------------------------- doubtful labels

STRENGTH = tensor(-3.0, 2.0, -1.0, 0.5, -0.5, 4.0, 1.0, 3.0, 0.1, 0.2)
LABELS = tensor(1.0, 0.9, 0.8, 0.7, 0.6, 1.0, 0.9, 0.8, 0.7, 0.6)


def members_around(strength: Tensor, count: int = 4) -> Tensor:
    """Members that disagree and whose mean is the strength: some of them have another sign."""
    spread = noise(3, count, len(strength)) * 3
    return strength + spread - spread.mean(0)


def test_kept_labels_are_kept() -> None:
    p, target = losses.treat_labels(LABELS, members_around(STRENGTH), KeepLabels())
    assert torch.equal(p, LABELS)
    assert target.tolist() == [0.0] * 10


@pytest.mark.parametrize(
    ("share", "touched"), [(0.1, [0]), (0.2, [0, 2]), (0.3, [0, 2, 4]), (0.9, [0, 2, 4]), (0.0, [])]
)
def test_flipping_turns_the_weakest_pairs_that_are_contradicted(share: float, touched: list[int]) -> None:
    p, target = losses.treat_labels(LABELS, members_around(STRENGTH), FlipLabels(share=share))
    expected = [1 - label if i in touched else label for i, label in enumerate(LABELS.tolist())]
    assert p.tolist() == pytest.approx(expected)
    assert target.tolist() == [0.0] * 10


def test_softening_keeps_their_direction_and_takes_their_certainty() -> None:
    p, target = losses.treat_labels(LABELS, members_around(STRENGTH), SoftenLabels(share=0.2, smoothing=0.4))
    expected = LABELS.tolist()
    expected[0], expected[2] = 0.6 * 1.0 + 0.4 * 0.0, 0.6 * 0.8 + 0.4 * 0.2
    assert p.tolist() == pytest.approx(expected)
    assert bool((p >= 0.5).all())
    assert target.tolist() == [0.0] * 10


def test_the_margin_is_the_mean_strength_of_every_pair() -> None:
    p, target = losses.treat_labels(LABELS, members_around(STRENGTH), StrengthMargin())
    assert torch.equal(p, LABELS)
    assert close(target, STRENGTH)


def test_the_share_is_of_all_pairs_whatever_their_order() -> None:
    """A tenth of 30 is 3 (2.999... in binary), and the pairs' order does not matter."""
    strength = -noise(4, 30).abs()
    flipped = losses.treat_labels(torch.ones(30), strength.unsqueeze(0), FlipLabels(share=0.1)).p_chosen_N
    assert set((flipped == 0).nonzero().squeeze(1).tolist()) == set(strength.argsort()[:3].tolist())
    hundred = -noise(5, 100).abs().unsqueeze(0)
    assert int((losses.treat_labels(torch.ones(100), hundred, FlipLabels(share=0.29)).p_chosen_N == 0).sum()) == 29


# ----------------------------------------------------------------------------------------------- ensembles


def test_ensembles_join_by_mean_minimum_and_mean_less_variance() -> None:
    scores = torch.tensor([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]], dtype=torch.float64)  # three members, two responses
    variance = ((1 - 4) ** 2 + (3 - 4) ** 2 + (8 - 4) ** 2) / 3
    assert close(losses.ensemble_score(scores, "mean", 0.5), tensor(4.0, 5.0))
    assert close(losses.ensemble_score(scores, "min", 0.5), tensor(1.0, 5.0))
    assert close(losses.ensemble_score(scores, "mean_minus_variance", 0.5), tensor(4 - 0.5 * variance, 5.0))
    assert close(losses.ensemble_score(scores, "mean_minus_variance", 0.0), tensor(4.0, 5.0))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(-5, 5), st.floats(0, 2))
def test_a_shift_of_all_members_shifts_every_join(seed: int, shift: float, penalty: float) -> None:
    scores = noise(seed, 4, 3)
    for reduce in ("mean", "min", "mean_minus_variance"):
        joined = losses.ensemble_score(scores, reduce, penalty)
        assert close(losses.ensemble_score(scores + shift, reduce, penalty), joined + shift)
        assert bool((joined <= scores.mean(0) + 1e-12).all())
