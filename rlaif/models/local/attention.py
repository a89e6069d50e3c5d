"""Attention over several packs that lie end to end in one row, so that everything else computes no padding.

Registered with transformers as `packed`: a model asked for it behaves as with its own attention until a pass runs
inside `packing`. Then what its layers are handed as their mask are buckets of packs, computed here, or blocks of the
whole row, computed by flex.py. As `grouped` it is for writing one token after the other.

A token sees its pack's prompt and its own segment, never ahead of itself. What a layer hides beyond that (a sliding
window, chunks) its model says as a function of two positions, which transformers hands on; it is asked for positions
in a row, not for places in the pack. So no config is read and no kind of layer is known by name.

Beside scaled products and a mask two things are known, because they come with a name: scores that are capped softly
(Gemma 2) and sinks (gpt-oss). A layer that asks for anything else is refused.

Shape suffixes: N tokens of the whole row or of a bucket; R packs of a bucket, L their length, P = R x L places; Q query
and K key heads, G = Q / K; D head size of queries and keys, E of values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, eager_mask, sdpa_mask

from rlaif.errors import ModelError
from rlaif.models.local import flex
from rlaif.models.local.flex import Rule

PACKED, GROUPED = "packed", "grouped"
LONGEST_PLAIN = {torch.bfloat16: 1024, torch.float32: 200}
"""Up to this length plain products beat the fused CPU kernel. In bf16 they are three times as fast at 128 tokens, 1.5
times at 512; in float32 both are equally fast at 190, and the kernel is twice as fast at 295."""
HARMLESS = {"dropout", "is_causal", "sliding_window", "position_ids", "use_cache"}
"""Options of the interface that change nothing here, beside those that ask for more output: nothing is dropped, and the
mask holds every window."""
SLACK = 1.2
"""Places that attention may compute for every token: calls of many packs are worth some padding."""


class Bucket(NamedTuple):
    """Packs of nearly one length, computed together as if all were as long as the longest."""

    lengths: list[int]
    """Shortest first."""
    mask_R1LL: Tensor
    """Additive: 0 where a token may look, the dtype's lowest value elsewhere."""
    source_P: Tensor | None
    """Which token stands in each of the R x L places; on the right of a short pack the first will do, since nobody
    looks ahead. None where all packs are of one length, and it is the same."""
    places_N: Tensor | None
    """The place of each token."""


Masks = Callable[[Rule], Sequence[Bucket] | BlockMask]
_masks: ContextVar[Masks | None] = ContextVar("masks", default=None)


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
def packing(masks: Masks) -> Iterator[None]:
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

    def __bool__(self) -> bool:
        """Whether there is one."""
        return any(each is not None for each in self)


def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, heads, N, D) each in, (1, N, Q, E) out."""
    scaling, extras = _taken(module, query, options)
    if isinstance(attention_mask, list):
        return _by_buckets(query, key, value, attention_mask, scaling, extras), None
    if isinstance(attention_mask, BlockMask) and not extras:
        return flex.attend(query, key, value, attention_mask, scaling).transpose(1, 2), None
    if _masks.get() is not None:
        raise ModelError(f"{type(module).__name__} attends in a way of its own")
    if extras:
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


def _by_buckets(
    query: Tensor, key: Tensor, value: Tensor, buckets: Sequence[Bucket], scaling: float, extras: Extras
) -> Tensor:
    sizes = [sum(bucket.lengths) for bucket in buckets]
    parts = []
    for bucket, *qkv in zip(buckets, *(states.split(sizes, dim=2) for states in (query, key, value)), strict=True):
        q, k, v = (_apart(states_1HND, bucket) for states_1HND in qkv)
        if extras or (q.device.type == "cpu" and bucket.lengths[-1] <= plain_up_to(q.dtype)):
            out_RQLE = _plain(q, k, v, bucket.mask_R1LL, scaling, extras)
        else:
            out_RQLE = _fused(q, k, v, bucket.mask_R1LL, scaling)
        out_PQE = out_RQLE.transpose(1, 2).flatten(0, 1)
        if bucket.places_N is not None:  # without the padding: (N, Q, E)
            out_PQE = out_PQE.index_select(0, bucket.places_N)
        parts.append(out_PQE)
    return torch.cat(parts).unsqueeze(0)


def _apart(states_1HND: Tensor, bucket: Bucket) -> Tensor:
    """(R, heads, L, D): the bucket's packs beside each other, padded on the right, where nobody looks."""
    states_NHD = states_1HND[0].transpose(0, 1)
    if bucket.source_P is not None:
        states_NHD = states_NHD.index_select(0, bucket.source_P)  # keeps nothing for the backward pass but the index
    return states_NHD.unflatten(0, (len(bucket.lengths), bucket.lengths[-1])).transpose(1, 2)


def _plain(q_RQLD: Tensor, k_RKLD: Tensor, v_RKLE: Tensor, mask_R1LL: Tensor, scaling: float, extras: Extras) -> Tensor:
    """softmax(q k^T + mask) v, the query heads of one key head stacked, so that keys and values are not repeated."""
    heads, length = q_RQLD.shape[1:3]
    groups = heads // k_RKLD.shape[1]  # G query heads read each key head
    stacked = (q_RQLD * scaling).reshape(-1, k_RKLD.shape[1], groups * length, q_RQLD.shape[-1])  # (R, K, G L, D)
    scores = torch.matmul(stacked, k_RKLD.transpose(2, 3)).unflatten(2, (groups, length))  # (R, K, G, L, L)
    if extras.softcap is not None:
        scores = (scores / extras.softcap).tanh() * extras.softcap
    scores = scores + mask_R1LL.unsqueeze(2)
    if extras.sinks_Q is not None:
        sinks = extras.sinks_Q.to(scores.dtype).view(1, -1, groups, 1, 1)  # (1, K, G, 1, 1)
        scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], -1)  # one column more
    weights = _Softmax.apply(scores).flatten(2, 3)  # (R, K, G L, L)
    if extras.sinks_Q is not None:
        weights = weights[..., :-1]  # what a sink takes reads no value
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
        weights, slope = narrow.float(), gradient.float()  # w (g - sum g w), in float32
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
    return _additive(mask, query.dtype)


# ---------------------------------------------------------------------------------------------------------- masks


class BucketMasks:
    """Packs in order of length, those of nearly one length together, under any rule."""

    def __init__(
        self, segments: Sequence[list[int]], positions: Sequence[list[int]], dtype: torch.dtype, device: Any
    ) -> None:
        """Of each pack, shortest first: the segment of every token (0: the prompt) and its position in its row."""
        self._buckets: list[Bucket] = []
        self._seen: list[tuple[Tensor, Tensor]] = []  # seen_R1LL and at_RL of each bucket
        done = 0
        for lengths in alike([len(each) for each in segments]):
            packs = slice(done, done + len(lengths))
            done += len(lengths)
            segments_RL, at_RL = (
                pad_sequence([torch.tensor(ids) for ids in of[packs]], batch_first=True).to(device)
                for of in (segments, positions)
            )
            own_RLL = segments_RL.unsqueeze(2) == segments_RL.unsqueeze(1)
            seen_R1LL = (own_RLL | (segments_RL == 0).unsqueeze(1)).tril()[:, None]
            source_P = places_N = None
            if lengths[0] < lengths[-1]:
                source_P = (
                    pad_sequence(torch.arange(sum(lengths)).split(lengths), batch_first=True).flatten().to(device)
                )
                real_RL = pad_sequence([torch.ones(length) for length in lengths], batch_first=True)
                places_N = real_RL.flatten().nonzero().squeeze(1).to(device)
            self._buckets.append(Bucket(lengths, _additive(seen_R1LL, dtype), source_P, places_N))
            self._seen.append((seen_R1LL, at_RL))

    def __call__(self, rule: Rule) -> list[Bucket]:
        """The buckets with this rule's masks; a rule that hides nothing more here has none of its own."""
        if rule is causal_mask_function:
            return self._buckets
        found = []
        for bucket, (seen_R1LL, at_RL) in zip(self._buckets, self._seen, strict=True):
            both_R1LL = seen_R1LL & rule(0, 0, at_RL[:, None, :, None], at_RL[:, None, None, :])
            same = torch.equal(both_R1LL, seen_R1LL)
            found.append(bucket if same else bucket._replace(mask_R1LL=_additive(both_R1LL, bucket.mask_R1LL.dtype)))
        return found


def alike(lengths: Iterable[int]) -> Iterator[list[int]]:
    """Lengths, shortest first, cut where going on would compute more than `SLACK` places for every token."""
    members: list[int] = []
    for length in lengths:
        if members and (len(members) + 1) * length > SLACK * (sum(members) + length):
            yield members
            members = []
        members = [*members, length]
    if members:
        yield members


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)
AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
