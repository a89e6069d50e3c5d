"""What a judge learns by: the losses against their definitions, in float64, and against what judging computes."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from rlaif.constitution import Principle
from rlaif.feedback.rating import CHECKLIST, DIGITS, RATING, answer, compared, rate
from rlaif.feedback.verdict import judged, sigma
from rlaif.records import Verdict
from rlaif.training.losses import judge as losses

ANSWERS = ("Yes", "No", "Unknown")


def random_logprobs(*shape: int, seed: int = 0, mass: float = 0.7) -> Tensor:
    """Log-probabilities whose last axis sums to less than 1."""
    torch.manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64).mul(3).log_softmax(-1) + math.log(mass)


def soft_labels(count: int) -> Tensor:
    return torch.linspace(0, 1, count, dtype=torch.float64)


def test_a_label_has_the_probability_of_all_tokens_that_say_it() -> None:
    logits = torch.randn(5, 30, dtype=torch.float64)
    found = losses.label_logprobs(logits, [[3], [4, 7, 20]])
    p = torch.softmax(logits, -1)
    torch.testing.assert_close(found.exp(), torch.stack([p[:, 3], p[:, 4] + p[:, 7] + p[:, 20]], -1))


# ----------------------------------------------------------------------------------------------------- compare


def test_compare_is_the_soft_cross_entropy_of_both_orders() -> None:
    logprobs, p = random_logprobs(6, 2, 2), soft_labels(6)
    found = losses.compare_loss(logprobs, p)
    for n in range(6):
        (first_a, second_a), (first_b, second_b) = logprobs[n].tolist()
        expected = -(p[n] * first_a + (1 - p[n]) * second_a) / 2 - (p[n] * second_b + (1 - p[n]) * first_b) / 2
        assert float(found.loss_N[n]) == pytest.approx(float(expected), abs=1e-12)
        verdicts = (
            Verdict(first="a", logprob_first=first_a, logprob_second=second_a),
            Verdict(first="b", logprob_first=first_b, logprob_second=second_b),
        )
        assert sigma(float(found.lead_N[n])) == pytest.approx(judged("x", *verdicts).p_a, abs=1e-12)
        masses = [math.exp(first_a) + math.exp(second_a), math.exp(first_b) + math.exp(second_b)]
        assert found.mass_N is not None and float(found.mass_N[n]) == pytest.approx(sum(masses) / 2)


def test_exchanging_a_and_b_changes_nothing_of_compare() -> None:
    logprobs, p = random_logprobs(6, 2, 2), soft_labels(6)
    found, turned = losses.compare_loss(logprobs, p), losses.compare_loss(logprobs.flip(1), 1 - p)
    torch.testing.assert_close(found.loss_N, turned.loss_N)
    torch.testing.assert_close(found.lead_N, -turned.lead_N)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.8])
def test_compare_is_least_where_both_letters_say_p_in_both_orders_and_nothing_else_is_said(p: float) -> None:
    said = torch.tensor([[[p, 1 - p, 1e-9], [1 - p, p, 1e-9]]], dtype=torch.float64)

    def loss(logits: Tensor) -> Tensor:
        logprobs = losses.label_logprobs(logits.flatten(0, 1), [[0], [1]]).unflatten(0, (1, 2))
        return losses.compare_loss(logprobs, torch.tensor([p])).loss_N.sum()

    logits = said.log().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    assert float(gradient.abs().max()) < 1e-6
    for moved in torch.randn(20, 1, 2, 3, dtype=torch.float64):
        assert float(loss(said.log() + moved)) > float(loss(said.log()))


# ------------------------------------------------------------------------------------------ score and checklist


def by_judging(kind: str, principle: Principle, labels: tuple[str, ...], logprobs: Tensor) -> float:
    """p(a) of judging itself, from the two replies."""
    scale, read = (RATING, rate) if kind == "score" else (CHECKLIST, answer)
    a, b = (read(principle, dict(zip(labels, row.tolist(), strict=True))) for row in logprobs)
    return compared(principle, a, b, scale, margin=4.0).p_a


def check_rated(better: Tensor, kind: str, principle: Principle, labels: tuple[str, ...]) -> None:
    logprobs, p = random_logprobs(8, 2, len(labels)), soft_labels(8)
    found = losses.rated_loss(logprobs, better.double(), p, mass_weight=0.3)
    for n in range(8):
        p_a = by_judging(kind, principle, labels, logprobs[n])
        assert sigma(float(found.lead_N[n])) == pytest.approx(p_a, abs=1e-12)
        expected = -(p[n] * math.log(p_a) + (1 - p[n]) * math.log(1 - p_a)) - 0.3 * math.log(0.7)
        assert float(found.loss_N[n]) == pytest.approx(float(expected), abs=1e-9)
        assert found.mass_N is not None and float(found.mass_N[n]) == pytest.approx(0.7)


def test_score_is_the_cross_entropy_of_the_p_that_judging_computes() -> None:
    principle = Principle(id="x", compare="x", question="x?", desired="yes")
    check_rated(losses.higher_rating(10), "score", principle, tuple(DIGITS))


@pytest.mark.parametrize("desired", ["yes", "no"])
def test_checklist_is_the_cross_entropy_of_the_p_that_judging_computes(desired: Literal["yes", "no"]) -> None:
    principle = Principle(id="x", compare="x", question="x?", desired=desired)
    check_rated(losses.better_answer(desired), "checklist", principle, ANSWERS)


def test_sure_replies_have_a_finite_loss_and_gradient() -> None:
    """As with p(a) of exactly 0 or 1 in float32: the logarithms are never those of a rounded difference."""
    sure = torch.tensor([[[0.0, -200.0], [-200.0, 0.0]]], requires_grad=True)
    found = losses.rated_loss(sure, losses.higher_rating(2), torch.tensor([1.0]), 0.1)
    (gradient,) = torch.autograd.grad(found.loss_N.sum(), sure)
    assert (
        float(found.loss_N.detach()) > 100
        and bool(torch.isfinite(gradient).all())
        and float(gradient.abs().max()) > 0.5
    )


def test_exchanging_a_and_b_changes_nothing_of_a_rating() -> None:
    logprobs, p = random_logprobs(6, 2, 10), soft_labels(6)
    better = losses.higher_rating(10).double()
    both = ((logprobs, p), (logprobs.flip(1), 1 - p))
    found, turned = (losses.rated_loss(said, better, q, 0.1) for said, q in both)
    torch.testing.assert_close(found.loss_N, turned.loss_N)
    torch.testing.assert_close(found.lead_N, -turned.lead_N)


# ---------------------------------------------------------------------------------------------------- contrast


def test_the_density_ratio_by_length() -> None:
    of_for, against = torch.tensor([-10.0, -3.0, 0.0]), torch.tensor([-14.0, -2.0, 0.0])
    tokens = torch.tensor([4, 1, 0])
    assert losses.density_ratio(of_for, against, tokens, "sum").tolist() == [4.0, -1.0, 0.0]
    assert losses.density_ratio(of_for, against, tokens, "mean").tolist() == [1.0, -1.0, 0.0]
    assert losses.density_ratio(of_for, against, tokens, "root").tolist() == [2.0, -1.0, 0.0]


def test_contrast_is_the_cross_entropy_of_the_ratios_difference() -> None:
    ratio, p = torch.tensor([[3.0, 1.0], [0.0, 5.0]], dtype=torch.float64), torch.tensor([0.8, 1.0])
    found = losses.ratio_loss(ratio, p.double(), tau=2.0)
    for n, lead in enumerate((1.0, -2.5)):
        p_a = 1 / (1 + math.exp(-lead))
        expected = -(p[n] * math.log(p_a) + (1 - p[n]) * math.log(1 - p_a))
        assert float(found.loss_N[n]) == pytest.approx(float(expected)) and float(found.lead_N[n]) == lead
