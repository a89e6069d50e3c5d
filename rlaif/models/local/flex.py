"""Packed attention on GPUs: all packs of a row at once, under a mask of blocks, by torch's compiled `flex_attention`.

Blocks that no token may look into are not computed, and keys are not repeated for the query heads that share them.
What the CPU does is in attention.py. Nothing here needs a GPU but the compiled kernel: uncompiled it runs anywhere.

Shape suffixes: N tokens of the row, filled up to whole blocks; Q query and K key heads; D head size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.masking_utils import causal_mask_function

from rlaif.console import say
from rlaif.errors import one_line
from rlaif.models.local.architecture import heads_of

Rule = Callable[[Any, Any, Tensor, Tensor], Tensor]
"""transformers' mask function: (batch, head, query's position, key's position) to whether the query may look."""
BLOCK = 128
FEWEST = 2 * BLOCK
"""A row has at least two blocks: torch.compile takes a size of 1 for a constant and would compile it apart."""
FORMS = 64
"""Kernels that torch.compile may keep. Of one model it makes four: lengths as constants, lengths as variables, each
with gradients and without. Beyond its own limit of 8 it would silently compute every score of the whole row."""
NOWHERE = -1
"""The segment of what fills the row up: it sees itself, so that no softmax is empty, and nobody else."""


class Form(NamedTuple):
    """What the kernel is compiled for."""

    query_heads: int
    key_heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device


def usable(backbone: Any) -> bool:
    """Whether attention of this backbone is computed here: on a GPU on which the kernel compiles and is right."""
    weight, heads = next(backbone.parameters()), heads_of(backbone.config)
    return weight.device.type == "cuda" and heads[0] > 0 and _proven(Form(*heads, weight.dtype, weight.device))


def filled(tokens: int) -> int:
    """The length of a row of so many tokens."""
    return max(FEWEST, -(-tokens // BLOCK) * BLOCK)


class BlockMasks:
    """Of one row: a token sees its own segment and its pack's prompt, never ahead of itself, and what a rule allows."""

    def __init__(self, segments_N: Tensor, prompts_N: Tensor, positions_N: Tensor) -> None:
        """Segments are numbered through the whole row; `prompts_N` names the prompt of each token's pack; positions
        count along each sequence."""
        self._segments_N, self._prompts_N, self._positions_N = segments_N, prompts_N, positions_N

    def __call__(self, rule: Rule) -> BlockMask:
        segments_N, prompts_N, positions_N = self._segments_N, self._prompts_N, self._positions_N

        def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            own = segments_N[key] == segments_N[query]  # of one query and one key: torch maps it over all
            return (own | (segments_N[key] == prompts_N[query])) & (key <= query)

        def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return seen(batch, head, query, key) & rule(batch, head, positions_N[query], positions_N[key])

        last, length = positions_N.max(), len(segments_N)
        plain = rule is causal_mask_function or bool(rule(0, 0, last, torch.zeros_like(last)))  # it hides nothing here
        return create_block_mask(seen if plain else allowed, None, None, length, length, device=segments_N.device)


def attend(query_1QND: Tensor, key_1KND: Tensor, value_1KND: Tensor, mask: BlockMask, scaling: float) -> Tensor:
    """(1, Q, N, D). Gradients flow."""
    usual = query_1QND.shape[-1] ** -0.5
    if scaling != usual:  # not as an argument: the compiler would take a number that changes for a variable
        query_1QND = query_1QND * (scaling / usual)
    for states in (query_1QND, key_1KND, value_1KND):
        for axis in (1, 3):  # heads and their size stay constants of the kernel, whatever other models there are
            torch._dynamo.mark_static(states, axis)
    out: Tensor = _kernel(query_1QND)(query_1QND, key_1KND, value_1KND, mask)
    return out


def _kernel(query: Tensor) -> Any:
    return _compiled() if query.device.type == "cuda" else _uncompiled


def _attend(query_1QND: Tensor, key_1KND: Tensor, value_1KND: Tensor, mask: BlockMask) -> Any:
    return flex_attention(query_1QND, key_1KND, value_1KND, block_mask=mask, enable_gqa=True)


def _uncompiled(*states_and_mask: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that this is slow
        return _attend(*states_and_mask)


@cache
def _compiled() -> Any:
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, FORMS)
    return torch.compile(_attend, fullgraph=True)  # fullgraph: where it cannot compile it says so


@cache
def _proven(form: Form) -> bool:
    """Whether the kernel of this form compiles, and finds the values and gradients of plain attention. Says if not.

    Two lengths, so that the kernel for lengths that vary is compiled here, over small rows.
    """
    try:
        wrong = [tokens for tokens in (FEWEST, FEWEST + BLOCK) if not _right(form, tokens)]
        reason = "its results are wrong" if wrong else ""
    except Exception as error:  # whatever compiler, driver or kernel raise
        reason = one_line(error)
    if reason:
        say(f"  attention by plain masks, which is slower: flex_attention cannot be used here ({reason})")
    return not reason


@torch.inference_mode(False)
@torch.enable_grad()
def _right(form: Form, tokens: int) -> bool:
    """Two packs, one with two responses, against the definition in float32; bf16 keeps two to three digits."""
    noise = torch.Generator().manual_seed(tokens)

    def random(heads: int) -> Tensor:
        """Laid out as projections are, so that the kernel compiled here is the one that training calls."""
        states_1NHD = torch.randn((1, tokens, heads, form.head_size), generator=noise)
        return states_1NHD.to(form.device, form.dtype).transpose(1, 2)

    states = [random(heads).requires_grad_() for heads in (form.query_heads, form.key_heads, form.key_heads)]
    segments = [*[0] * 50, *[1] * 30, *[2] * 70, *[3] * 60, *[4] * (tokens - 210)]
    prompts = [*[0] * 150, *[3] * (tokens - 150)]
    segments_N, prompts_N = (torch.tensor(ids, device=form.device, dtype=torch.int32) for ids in (segments, prompts))
    mask = BlockMasks(segments_N, prompts_N, segments_N)(causal_mask_function)
    at_N = torch.arange(tokens, device=form.device)
    seen_NN = mask.mask_mod(at_N, at_N, at_N[:, None], at_N[None])
    exact = [each.detach().float().requires_grad_() for each in states]
    query, key, value = (
        each.repeat_interleave(form.query_heads // heads, dim=1)
        for each, heads in zip(exact, (form.query_heads, form.key_heads, form.key_heads), strict=True)
    )
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_NN)
    found = attend(states[0], states[1], states[2], mask, form.head_size**-0.5)
    slopes = random(form.query_heads)
    pairs = zip(
        (found, *torch.autograd.grad(found, states, slopes)),
        (expected, *torch.autograd.grad(expected, exact, slopes.float())),
        strict=True,
    )
    return all(_close(ours.detach(), theirs.detach()) for ours, theirs in pairs)


def _close(found: Tensor, expected: Tensor) -> bool:
    return float((found.float() - expected).norm() / expected.norm()) < 0.02
