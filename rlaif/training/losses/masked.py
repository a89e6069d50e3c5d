"""Statistics over real tokens: what padding holds never counts.

Shape suffixes: B responses, T response tokens. `mask_BT` is True on real response tokens, the end token included;
there is no other mask.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over real tokens (a scalar)."""
    return (values_BT * mask_BT).sum() / mask_BT.sum()


def response_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over responses of each response's mean over its real tokens (a scalar): GRPO's, arXiv 2402.03300, eq. 3.

    A token of a short response weighs more than one of a long response; in `masked_mean` all weigh the same.
    """
    return ((values_BT * mask_BT).sum(1) / mask_BT.sum(1)).mean()


def whiten(values_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True) -> Tensor:
    """Scaled to unit variance over real tokens, and to zero mean unless `shift_mean` is off; padding becomes 0."""
    mean = masked_mean(values_BT, mask_BT)
    variance = masked_mean((values_BT - mean) ** 2, mask_BT)
    whitened = (values_BT - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask_BT


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over real tokens: 1 is a perfect critic, 0 a constant."""
    error = (returns_BT - values_BT)[mask_BT]
    return 1 - error.var(unbiased=False) / returns_BT[mask_BT].var(unbiased=False).clamp(min=1e-8)
