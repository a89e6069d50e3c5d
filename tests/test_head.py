"""Log-probabilities without kept logits: the values and gradients of the plain way."""

from __future__ import annotations

import pytest
import torch

from rlaif.training import head
from rlaif.training.head import chosen_logprobs, frozen


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("rows", [1, 3, 256])
def test_values_and_gradients_are_those_of_the_full_softmax(
    rows: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "ROWS", rows)
    generator = torch.Generator().manual_seed(rows)
    hidden_NH, weight_VH = (torch.randn(n, 6, generator=generator) for n in (7, 11))
    targets_N, upstream_N = torch.tensor([0, 10, 3, 3, 5, 1, 9]), torch.randn(7, generator=generator)
    plain_NH = hidden_NH.double().requires_grad_()
    expected_N = ((plain_NH @ weight_VH.double().T) / temperature).log_softmax(-1)[range(7), targets_N]
    (expected_N * upstream_N).sum().backward()
    ours_NH = hidden_NH.requires_grad_()
    found_N = chosen_logprobs(ours_NH, weight_VH, targets_N, temperature)
    (found_N * upstream_N).sum().backward()
    torch.testing.assert_close(found_N, expected_N.float())
    torch.testing.assert_close(ours_NH.grad, plain_NH.grad.float())


def test_only_a_plain_matrix_that_does_not_learn_is_frozen() -> None:
    layer = torch.nn.Linear(3, 5, bias=False)
    assert not frozen(layer)
    assert frozen(layer.requires_grad_(False))
    assert not frozen(torch.nn.Linear(3, 5).requires_grad_(False))
    assert not frozen(torch.nn.Embedding(3, 5).requires_grad_(False))
