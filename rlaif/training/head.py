"""Log-probabilities from hidden states without keeping the logits: the widest array of training, a few rows at a time.

With adapters the output matrix is frozen. Then the gradient of a token's log-probability to its hidden state is
(w_token - sum_v p_v w_v) / temperature: H numbers that the forward pass can find at once, where V logits would have to
wait for the backward pass. The products are the same ones.

Shape suffixes: N tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

ROWS = 256
"""Logits at a time: 50 MB in float32 for 49,152 words."""


def frozen(output: Any) -> bool:
    """Whether this output layer is a plain matrix that does not learn."""
    return (
        isinstance(output, torch.nn.Linear)
        and output.bias is None
        and not output.weight.requires_grad
        and not isinstance(output.weight, DTensor)
    )


def chosen_logprobs(hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
    """logprob_N in float32 of these tokens at this temperature. Gradients flow to the hidden states alone."""
    found: Tensor = _Chosen.apply(hidden_NH, weight_VH, targets_N, temperature)
    return found


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
        learns = ctx.needs_input_grad[0]
        logprobs, slopes = [], []
        for hidden, targets in zip(hidden_NH.split(ROWS), targets_N.split(ROWS), strict=True):
            logits = F.linear(hidden, weight_VH).float().div_(temperature)
            log_z = torch.logsumexp(logits, -1, keepdim=True)
            logprobs.append((logits.gather(1, targets.unsqueeze(1)) - log_z).squeeze(1))
            if learns:
                mean = logits.sub_(log_z).exp_().to(weight_VH.dtype) @ weight_VH
                slopes.append((weight_VH[targets].float() - mean.float()).div_(temperature).to(hidden.dtype))
        if learns:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope_NH,) = ctx.saved_tensors
        return (gradients[0].unsqueeze(1) * slope_NH).to(slope_NH.dtype), None, None, None
