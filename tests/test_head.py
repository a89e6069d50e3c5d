"""Log-probabilities and entropies without kept logits: the values and gradients of the full softmax."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlaif.training import head
from rlaif.training.head import chosen_and_entropy, chosen_logprobs
from tests.tiny import same_bits_on_two_threads_and_on_one

TARGETS_N = torch.tensor([0, 10, 3, 3, 5, 1, 9])
GENERATOR = torch.Generator().manual_seed(0)
HIDDEN_NH, UPSTREAM_N = torch.randn(7, 6, generator=GENERATOR), torch.randn(7, generator=GENERATOR)


def layer(bias: bool, learns: bool) -> torch.nn.Linear:
    made = torch.nn.Linear(6, 11, bias=bias)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made.requires_grad_(learns)


def by_definition(output: torch.nn.Linear, hidden_NH: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of all words in float64."""
    return (output.double()(hidden_NH.double()) / temperature).log_softmax(-1)


def gradients(
    output: torch.nn.Linear, find: Callable[[torch.nn.Linear, Tensor], Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    hidden_NH = HIDDEN_NH.clone().requires_grad_()
    found_N = find(output, hidden_NH)
    (found_N * UPSTREAM_N).sum().backward()
    assert hidden_NH.grad is not None
    return found_N.float(), hidden_NH.grad, [p.grad.float() for p in output.parameters() if p.grad is not None]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("rows", [1, 3, 256])
@pytest.mark.parametrize(("bias", "learns"), [(False, False), (False, True), (True, True)])
def test_values_and_gradients_are_those_of_the_full_softmax(
    rows: int, temperature: float, bias: bool, learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "ROWS", rows)
    expected = gradients(
        layer(bias, learns), lambda output, hidden: by_definition(output, hidden, temperature)[range(7), TARGETS_N]
    )
    ours = gradients(
        layer(bias, learns), lambda output, hidden: chosen_logprobs(output, hidden, TARGETS_N, temperature)
    )
    assert len(ours[2]) == (1 + bias) * learns
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 256])
def test_entropy_is_that_of_the_full_softmax(rows: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ROWS", rows)
    logprobs_N, entropy_N = chosen_and_entropy(layer(bias, False), HIDDEN_NH, TARGETS_N, 0.7)
    logs_NV = by_definition(layer(bias, False), HIDDEN_NH, 0.7)
    torch.testing.assert_close(logprobs_N, logs_NV[range(7), TARGETS_N].float())
    torch.testing.assert_close(entropy_N, -(logs_NV.exp() * logs_NV).sum(-1).float())


def test_reading_and_learning_give_the_same_bits() -> None:
    """The ratio of the first epoch is 1, not nearly 1."""
    for learns in (False, True):
        output = layer(False, learns)
        assert torch.equal(
            chosen_logprobs(output, HIDDEN_NH, TARGETS_N, 0.7),
            chosen_and_entropy(output, HIDDEN_NH, TARGETS_N, 0.7)[0],
        )


@pytest.mark.parametrize("learns", [False, True])
def test_the_last_few_rows_are_the_same_bits_on_one_thread_and_on_two(learns: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(head.ROWS + 5, 64, generator=draw, requires_grad=True)
    output = torch.nn.Linear(64, 49152, bias=False).requires_grad_(learns)
    targets_N = torch.randint(0, 49152, (len(hidden_NH),), generator=draw)

    def both() -> tuple[Tensor, ...]:
        logprobs_N = chosen_logprobs(output, hidden_NH, targets_N, 0.7)
        return logprobs_N, *torch.autograd.grad(logprobs_N.square().sum(), hidden_NH)

    same_bits_on_two_threads_and_on_one(both)


def test_logits_far_apart_overflow_nothing() -> None:
    output = layer(False, False)
    logprobs_N, entropy_N = chosen_and_entropy(output, 1000 * HIDDEN_NH, TARGETS_N, 1.0)
    assert bool(torch.isfinite(logprobs_N).all())
    torch.testing.assert_close(entropy_N, torch.zeros(7))


def test_no_rows_are_no_log_probabilities() -> None:
    none_H, no_targets = HIDDEN_NH[:0], TARGETS_N[:0]
    for learns in (False, True):
        assert chosen_logprobs(layer(False, learns), none_H, no_targets, 1.0).shape == (0,)
    assert [found.shape for found in chosen_and_entropy(layer(False, False), none_H, no_targets, 1.0)] == [(0,), (0,)]
