"""Attention over several sequences that lie end to end in one row, so that everything else computes no padding.

Registered with transformers as `packed`: a model asked for it behaves as with `sdpa` until a forward pass is given
`runs`.

Shape suffixes: N tokens of the whole row; R sequences of a run, L their length; Q query and K key heads; D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlaif.errors import ModelError

PACKED = "packed"
LONGEST_PLAIN = 1024
"""Up to this length plain products beat the fused CPU kernel (three times at 128 tokens in bf16, 1.5 times at 512)."""


class Run(NamedTuple):
    """Neighbouring sequences of one length."""

    start: int
    sequences: int
    length: int
    mask_R1LL: Tensor
    """Additive: 0 where a token may look, the dtype's lowest value elsewhere."""


def use_packed_attention(backbone: Any) -> None:
    """Have this model compute attention here, for good. ModelError where its code has no place for it."""
    if backbone.config._attn_implementation == PACKED:
        return
    if not backbone._can_set_attn_implementation():
        raise ModelError(
            f"{type(backbone).__name__}: its attention cannot be replaced; use a decoder such as Llama or Qwen"
        )
    backbone.set_attn_implementation(PACKED)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    runs: Sequence[Run] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, heads, N, D) each in, (1, N, Q, D) out."""
    if runs is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    parts = []
    for run in runs:
        q, k, v = (_sequences(states, run) for states in (query, key, value))
        plain = q.device.type == "cpu" and run.length <= LONGEST_PLAIN
        out_RQLD = (_plain if plain else _fused)(q, k, v, run.mask_R1LL, options["scaling"])
        parts.append(out_RQLD.transpose(1, 2).reshape(1, run.sequences * run.length, *out_RQLD.shape[1::2]))
    return torch.cat(parts, dim=1), None


def _sequences(states_1HND: Tensor, run: Run) -> Tensor:
    """(R, heads, L, D) of a run."""
    part_HND = states_1HND[0, :, run.start : run.start + run.sequences * run.length]
    return part_HND.unflatten(1, (run.sequences, run.length)).transpose(0, 1)


def _plain(q_RQLD: Tensor, k_RKLD: Tensor, v_RKLD: Tensor, mask_R1LL: Tensor, scaling: float) -> Tensor:
    """softmax(q k^T + mask) v, the query heads of one key head stacked, so that keys and values are not repeated."""
    heads, length = q_RQLD.shape[1:3]
    groups = heads // k_RKLD.shape[1]
    stacked = (q_RQLD * scaling).reshape(-1, k_RKLD.shape[1], groups * length, q_RQLD.shape[-1])
    scores = torch.matmul(stacked, k_RKLD.transpose(2, 3)).unflatten(2, (groups, length))
    weights = torch.softmax(scores + mask_R1LL.unsqueeze(2), dim=-1).flatten(2, 3)
    return torch.matmul(weights, v_RKLD).reshape(q_RQLD.shape)


def _fused(q_RQLD: Tensor, k_RKLD: Tensor, v_RKLD: Tensor, mask_R1LL: Tensor, scaling: float) -> Tensor:
    groups = q_RQLD.shape[1] // k_RKLD.shape[1]
    k_RQLD, v_RQLD = (states.repeat_interleave(groups, dim=1) for states in (k_RKLD, v_RKLD))
    return F.scaled_dot_product_attention(q_RQLD, k_RQLD, v_RQLD, attn_mask=mask_R1LL, scale=scaling)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
