"""Attention over several sequences that lie end to end in one row, so that everything else computes no padding.

Registered with transformers as `packed`: a model asked for it behaves as with its own attention until a pass runs
inside `packing`. Then what its layers are handed as their mask are runs of sequences (masks.py), computed here, or
blocks of the whole row, computed by flex.py. As `grouped` it is for writing one token after the other.

Beside scaled products and a mask two things are known, because they come with a name: scores that are capped softly
(Gemma 2) and sinks (gpt-oss). A layer that asks for anything else is refused.

Shape suffixes: N tokens of the whole row; R sequences of a run, L their length, P = R x L; Q query and K key heads;
D head size of queries and keys, E of values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from rlaif.errors import ModelError
from rlaif.models.local import flex
from rlaif.models.local.masks import Rule, Run, additive

PACKED, GROUPED = "packed", "grouped"
LONGEST_PLAIN = {torch.bfloat16: 1024, torch.float32: 200}
"""Up to this length plain products beat the fused CPU kernel. In bf16 they are three times as fast at 128 tokens, 1.5
times at 512; in float32 both are equally fast at 190, and the kernel is twice as fast at 295."""
HARMLESS = {"dropout", "is_causal", "sliding_window", "position_ids", "use_cache"}
"""Options of the interface that change nothing here, beside those that ask for more output: nothing is dropped, and the
mask holds every window."""

_masks: ContextVar[Callable[[Rule], Sequence[Run] | BlockMask] | None] = ContextVar("masks", default=None)


def plain_up_to(dtype: torch.dtype) -> int:
    """The longest sequence whose attention is plain products on a CPU."""
    return LONGEST_PLAIN.get(dtype, 0)


def use_packed_attention(backbone: Any) -> None:
    """Have this model compute attention here, for good. ModelError where its code has no place for it."""
    if backbone.config._attn_implementation == PACKED:
        return
    if not backbone._can_set_attn_implementation():
        raise ModelError(f"{type(backbone).__name__}: its attention cannot be replaced")
    backbone.set_attn_implementation(PACKED)


@contextlib.contextmanager
def packing(masks: Callable[[Rule], Sequence[Run] | BlockMask]) -> Iterator[None]:
    """Inside, layers get what `masks` makes of their rule."""
    token = _masks.set(masks)
    try:
        yield
    finally:
        _masks.reset(token)


def packed_mask(**options: Any) -> Any:
    """transformers' mask interface."""
    masks = _masks.get()
    return sdpa_mask(**options) if masks is None else masks(options["mask_function"])


class Extras(NamedTuple):
    """What some models add to scaled products and a mask."""

    softcap: float | None = None
    """Scores s become c tanh(s / c)."""
    sinks_Q: Tensor | None = None
    """One score more for every query of a head, of which no value comes."""


def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, heads, N, D) each in, (1, N, Q, E) out."""
    scaling, extras = _taken(module, query, options)
    if isinstance(attention_mask, list):
        return _runs(query, key, value, attention_mask, scaling, extras), None
    if isinstance(attention_mask, BlockMask) and not any_of(extras):
        return flex.attend(query, key, value, attention_mask, scaling).transpose(1, 2), None
    if _masks.get() is not None:
        raise ModelError(f"{type(module).__name__} attends in a way of its own")
    if any_of(extras):
        mask = _as_numbers(attention_mask, query, key)
        return _plain(query, key, value, mask, scaling, extras).transpose(1, 2), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface for few queries and many keys, which are not copied for each query head."""
    scaling, extras = _taken(module, query, options)
    return _plain(query, key, value, _as_numbers(attention_mask, query, key), scaling, extras).transpose(1, 2), None


def _taken(module: Any, query: Tensor, options: dict[str, Any]) -> tuple[float, Extras]:
    """The scaling and the extras out of the interface's options. ModelError for one that packing would leave out."""
    scaling, extras = options.pop("scaling", None), Extras(options.pop("softcap", None), options.pop("s_aux", None))
    strange = [
        name
        for name, value in options.items()
        if value is not None and name not in HARMLESS and not name.startswith("output_")
    ]
    if strange and _masks.get() is not None:
        raise ModelError(f"{type(module).__name__} passes {strange[0]} to its attention")
    return query.shape[-1] ** -0.5 if scaling is None else scaling, extras


def any_of(extras: Extras) -> bool:
    """Whether there is one."""
    return any(each is not None for each in extras)


def _runs(query: Tensor, key: Tensor, value: Tensor, runs: Sequence[Run], scaling: float, extras: Extras) -> Tensor:
    sizes = [run.tokens for run in runs]
    parts = []
    for run, *qkv in zip(runs, *(states.split(sizes, dim=2) for states in (query, key, value)), strict=True):
        q, k, v = (_sequences(states_1HND, run) for states_1HND in qkv)
        if any_of(extras) or (q.device.type == "cpu" and run.length <= plain_up_to(q.dtype)):
            out_RQLE = _plain(q, k, v, run.mask_R1LL, scaling, extras)
        else:
            out_RQLE = _fused(q, k, v, run.mask_R1LL, scaling)
        parts.append(_tokens(out_RQLE, run))
    return torch.cat(parts).unsqueeze(0)


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


def _plain(q_RQLD: Tensor, k_RKLD: Tensor, v_RKLE: Tensor, mask_R1LL: Tensor, scaling: float, extras: Extras) -> Tensor:
    """softmax(q k^T + mask) v, the query heads of one key head stacked, so that keys and values are not repeated."""
    heads, length = q_RQLD.shape[1:3]
    groups = heads // k_RKLD.shape[1]
    stacked = (q_RQLD * scaling).reshape(-1, k_RKLD.shape[1], groups * length, q_RQLD.shape[-1])
    scores = torch.matmul(stacked, k_RKLD.transpose(2, 3)).unflatten(2, (groups, length))
    if extras.softcap is not None:
        scores = (scores / extras.softcap).tanh() * extras.softcap
    scores = scores + mask_R1LL.unsqueeze(2)
    if extras.sinks_Q is not None:
        sinks = extras.sinks_Q.to(scores.dtype).view(1, -1, groups, 1, 1)
        scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], -1)
    weights = _Softmax.apply(scores).flatten(2, 3)
    if extras.sinks_Q is not None:
        weights = weights[..., :-1]
    return torch.matmul(weights, v_RKLE).reshape(*q_RQLD.shape[:3], v_RKLE.shape[-1])


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


def _as_numbers(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """As it is; of a mask of booleans the same in numbers; of none the one that looks at no later key."""
    if mask is not None and mask.dtype != torch.bool:
        return mask
    if mask is None:
        mask = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        mask = mask[None, None]
    return additive(mask, query.dtype)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)
AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
