"""From hidden states to log-probabilities without keeping logits, the widest array of training: a few rows at a time.

Of a plain matrix the gradients are written out here; of anything else (a bias, capped logits) a part's logits are
computed once more in the backward pass. Let l be the logits over the temperature t, p their softmax and g
what reaches a token's log-probability: then g / t (onehot - p) reaches its logits. A frozen matrix lets the forward
pass find the hidden state's share of that at once, H numbers a token; one that learns has its logits computed once
more in the backward pass, which costs less than to write V numbers a token out and read them back.

All rows use the same scratch space: arrays as wide as the vocabulary are so large that the system hands them out as
fresh pages each time, and fresh pages cost more than the arithmetic on them.

Shape suffixes: N tokens, R of them at a time, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

ROWS = 128
"""Logits at a time, at most: 25 MB in float32 for 49,152 words. The same everywhere, so that equal weights give equal
bits."""


def chosen_logprobs(output: Any, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
    """logprob_N in float32 of these tokens under this output layer at this temperature. Gradients flow."""
    if _plain(output):
        found: Tensor = _TokenLogprobs.apply(hidden_NH, output.weight, targets_N, temperature)
        return found
    if isinstance(getattr(output, "weight", None), DTensor):  # what is divided is gathered once, not again
        return _logprobs(output, hidden_NH, targets_N, temperature)
    few = rows_at_once(len(hidden_NH))
    parts = zip(hidden_NH.split(few), targets_N.split(few), strict=True)
    return torch.cat([checkpoint(_logprobs, output, *part, temperature, use_reentrant=False) for part in parts])


@torch.no_grad()
def chosen_and_entropy(output: Any, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The same log-probabilities, and the entropy (nats) of the distribution each token comes from."""
    if _plain(output):
        parts = _exponentials(hidden_NH, output.weight, targets_N, temperature)
        # - sum p log p = log sum exp(s) - sum p s, of the shifted logits s
        found = [(each.logprob_R, each.sum_R1.log().squeeze(1) - each.expected_R()) for each in parts]
    else:
        logits_and_targets = _by_layer(output, hidden_NH, targets_N, temperature)
        found = [
            (
                -F.cross_entropy(logits, targets, reduction="none"),
                torch.distributions.Categorical(logits=logits).entropy(),
            )
            for logits, targets in logits_and_targets
        ]
    logprobs, entropies = zip(*found, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _logprobs(output: Any, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
    return -F.cross_entropy(output(hidden_NH).float() / temperature, targets_N, reduction="none")


def rows_at_once(total: int) -> int:
    """Of nearly equal parts of at most `ROWS`. A last part of a few rows would be slow, and its products by a wide
    matrix round differently on one thread and on several."""
    return -(-total // max(1, -(-total // ROWS))) or 1


def _plain(output: Any) -> bool:
    return isinstance(output, torch.nn.Linear) and output.bias is None and not isinstance(output.weight, DTensor)


def _by_layer(output: Any, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Float32 logits over temperature, and the targets, by calling the layer: any that is not a plain matrix."""
    divided = isinstance(getattr(output, "weight", None), DTensor)
    few = max(1, len(hidden_NH)) if divided else rows_at_once(len(hidden_NH))  # all processes take as many turns
    for hidden, targets in zip(hidden_NH.split(few), targets_N.split(few), strict=True):
        yield output(hidden).float().div_(temperature), targets


class _Exponentials(NamedTuple):
    """Of a few rows, in scratch space that the next few use again."""

    rows: slice
    shifted_RV: Tensor
    """Logits over temperature, less the largest of each row; float32."""
    exp_RV: Tensor
    sum_R1: Tensor
    logprob_R: Tensor
    """Of the targets."""
    narrow_RV: Tensor
    """Free space in the weights' dtype."""

    def expected_R(self) -> Tensor:
        """The mean of `shifted_RV` under the distribution. Overwrites `exp_RV`."""
        return self.exp_RV.mul_(self.shifted_RV).sum(-1) / self.sum_R1.squeeze(1)


def _exponentials(
    hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, temperature: float
) -> Iterator[_Exponentials]:
    few = rows_at_once(len(hidden_NH))
    shape = (few, len(weight_VH))
    narrow_RV = hidden_NH.new_empty(shape)
    shifted_RV, exp_RV = (hidden_NH.new_empty(shape, dtype=torch.float32) for _ in range(2))
    for start in range(0, max(1, len(hidden_NH)), few):  # also of no rows at all
        rows = slice(start, min(start + few, len(hidden_NH)))
        n = rows.stop - start
        torch.mm(hidden_NH[rows], weight_VH.t(), out=narrow_RV[:n])
        shifted = shifted_RV[:n].copy_(narrow_RV[:n]).div_(temperature)
        shifted.sub_(shifted.amax(-1, keepdim=True))  # so that no exponential overflows
        exponentials = torch.exp(shifted, out=exp_RV[:n])
        sum_R1 = exponentials.sum(-1, keepdim=True)
        # log p = l - max l - log sum exp(l - max l)
        logprob_R = (shifted.gather(1, targets_N[rows].unsqueeze(1)) - sum_R1.log()).squeeze(1)
        yield _Exponentials(rows, shifted, exponentials, sum_R1, logprob_R, narrow_RV[:n])


class _TokenLogprobs(torch.autograd.Function):
    """logprob_N of the targets, by parts of R rows; see above for the gradients."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
        at_once = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        logprobs, slopes = [], []
        for each in _exponentials(hidden_NH, weight_VH, targets_N, temperature):
            logprobs.append(each.logprob_R)
            if at_once:
                # (R, H): the row of the matrix that was chosen, less the mean of all rows under the distribution.
                mean = (each.narrow_RV.copy_(each.exp_RV) @ weight_VH).float() / each.sum_R1
                slopes.append(((weight_VH[targets_N[each.rows]].float() - mean) / temperature).to(hidden_NH.dtype))
        ctx.temperature = temperature
        if at_once:
            ctx.save_for_backward(torch.cat(slopes))
        else:
            ctx.save_for_backward(hidden_NH, weight_VH, targets_N)
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (gradient_N,) = gradients
        if len(ctx.saved_tensors) == 1:
            (slope_NH,) = ctx.saved_tensors
            return (gradient_N.unsqueeze(1) * slope_NH).to(slope_NH.dtype), None, None, None
        hidden_NH, weight_VH, targets_N = ctx.saved_tensors
        to_hidden, to_weight = torch.empty_like(hidden_NH), torch.zeros_like(weight_VH)
        for each in _exponentials(hidden_NH, weight_VH, targets_N, ctx.temperature):
            scaled_R1 = gradient_N[each.rows].unsqueeze(1) / ctx.temperature  # g / t
            slope_RV = each.exp_RV.mul_(-scaled_R1 / each.sum_R1)  # - g / t p
            slope_RV.scatter_add_(1, targets_N[each.rows].unsqueeze(1), scaled_R1)  # + g / t onehot
            to_logits = each.narrow_RV.copy_(slope_RV)  # in the weights' format, as a plain layer's would be
            torch.mm(to_logits, weight_VH, out=to_hidden[each.rows])
            to_weight.addmm_(to_logits.t(), hidden_NH[each.rows])
        return to_hidden, to_weight, None, None
