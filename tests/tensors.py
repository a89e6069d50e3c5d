"""Float64 tensors for the tests of the mathematics."""

from __future__ import annotations

import torch
from torch import Tensor


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal to nine digits. allclose alone would broadcast a wrong shape."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(*lengths: int) -> Tensor:
    """mask_BT of responses of these lengths."""
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
