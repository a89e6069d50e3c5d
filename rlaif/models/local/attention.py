"""Attention over several sequences that lie end to end in one row, so that everything else computes no padding.

Registered with transformers as `packed`: a model asked for it behaves as with `sdpa` until a forward pass is given
`packed`: runs of sequences, computed here, or blocks of the whole row, computed by flex.py. As `grouped` it is for
writing one token after the other.

Shape suffixes: N tokens of the whole row; R sequences of a run, L their length, P = R x L; Q query and K key heads;
D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from rlaif.errors import ModelError
from rlaif.models.local import flex

PACKED, GROUPED = "packed", "grouped"
LONGEST_PLAIN = {torch.bfloat16: 1024, torch.float32: 200}
"""Up to this length plain products beat the fused CPU kernel. In bf16 they are three times as fast at 128 tokens, 1.5
times at 512; in float32 both are equally fast at 190, and the kernel is twice as fast at 295."""


def plain_up_to(dtype: torch.dtype) -> int:
    """The longest sequence whose attention is plain products on a CPU."""
    return LONGEST_PLAIN.get(dtype, 0)


class Run(NamedTuple):
    """Neighbouring sequences of nearly one length, computed together as if all were as long as the longest."""

    tokens: int
    """Real ones."""
    sequences: int
    length: int
    masks_R1LL: Mapping[int | None, Tensor]
    """Additive: 0 where a token may look, the dtype's lowest value elsewhere. By sliding window; None: without. A
    window that hides nothing here has no mask of its own."""
    source_P: Tensor | None
    """Which of the run's tokens stands in each of the R x L places; on the right of a short sequence any will do, since
    nobody looks ahead. None where all are of one length."""
    places_N: Tensor | None
    """The place of each token."""


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
    packed: Sequence[Run] | flex.Blocks | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, heads, N, D) each in, (1, N, Q, D) out."""
    if packed is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    window, scaling = options.get("sliding_window"), options["scaling"]
    if isinstance(packed, flex.Blocks):
        return flex.attend(query, key, value, packed.mask(window), scaling).transpose(1, 2), None
    sizes = [run.tokens for run in packed]
    parts = []
    for run, *qkv in zip(packed, *(states.split(sizes, dim=2) for states in (query, key, value)), strict=True):
        q, k, v = (_sequences(states_1HND, run) for states_1HND in qkv)
        plain = q.device.type == "cpu" and run.length <= plain_up_to(q.dtype)
        mask_R1LL = run.masks_R1LL.get(window, run.masks_R1LL[None])
        out_RQLD = (_plain if plain else _fused)(q, k, v, mask_R1LL, scaling)
        parts.append(_tokens(out_RQLD, run))
    return torch.cat(parts).unsqueeze(0), None


def _sequences(states_1HND: Tensor, run: Run) -> Tensor:
    """(R, heads, L, D) of a run."""
    states_NHD = states_1HND[0].transpose(0, 1)
    if run.source_P is not None:
        flat = states_NHD.flatten(1).index_select(0, run.source_P)
        states_NHD = flat.unflatten(1, states_NHD.shape[1:])
    return states_NHD.unflatten(0, (run.sequences, run.length)).transpose(1, 2)


def _tokens(out_RQLD: Tensor, run: Run) -> Tensor:
    """(N, Q, D): the run's tokens end to end again."""
    out = out_RQLD.transpose(1, 2).flatten(0, 1)
    if run.places_N is None:
        return out
    return out.flatten(1).index_select(0, run.places_N).unflatten(1, out.shape[1:])


def _plain(q_RQLD: Tensor, k_RKLD: Tensor, v_RKLD: Tensor, mask_R1LL: Tensor, scaling: float) -> Tensor:
    """softmax(q k^T + mask) v, the query heads of one key head stacked, so that keys and values are not repeated."""
    heads, length = q_RQLD.shape[1:3]
    groups = heads // k_RKLD.shape[1]
    stacked = (q_RQLD * scaling).reshape(-1, k_RKLD.shape[1], groups * length, q_RQLD.shape[-1])
    scores = torch.matmul(stacked, k_RKLD.transpose(2, 3)).unflatten(2, (groups, length))
    weights = _Softmax.apply(scores + mask_R1LL.unsqueeze(2)).flatten(2, 3)
    return torch.matmul(weights, v_RKLD).reshape(q_RQLD.shape)


class _Softmax(torch.autograd.Function):
    """Over the last dimension. Of torch's own the gradient rounds differently on one thread and on several."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (narrow,), (gradient,) = ctx.saved_tensors, gradients
        weights, slope = narrow.float(), gradient.float()
        return (slope - (slope * weights).sum(-1, keepdim=True)).mul_(weights).to(narrow.dtype)


def _fused(q_RQLD: Tensor, k_RKLD: Tensor, v_RKLD: Tensor, mask_R1LL: Tensor, scaling: float) -> Tensor:
    groups = q_RQLD.shape[1] // k_RKLD.shape[1]
    k_RQLD, v_RQLD = (states.repeat_interleave(groups, dim=1) for states in (k_RKLD, v_RKLD))
    return F.scaled_dot_product_attention(q_RQLD, k_RQLD, v_RQLD, attn_mask=mask_R1LL, scale=scaling)


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface for few queries and many keys, which are not copied for each query head."""
    mask = query.new_zeros(1, 1, 1, 1) if attention_mask is None else attention_mask
    return _plain(query, key, value, mask, options["scaling"]).transpose(1, 2), None


def is_plain_softmax(model: Any) -> bool:
    """Whether the model's attention is the softmax of scaled products and nothing else (no sinks, no soft cap)."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return not capped and not any(hasattr(module, "sinks") for module in model.modules())


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
