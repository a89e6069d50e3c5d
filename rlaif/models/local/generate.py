"""Batched sampling from a transformers model: left-padded, each row with its own random numbers.

Shape suffixes: B rows still being written, S tokens so far, V vocabulary. A row leaves the batch when it has ended,
so that long rows are not slowed down by finished ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.models.local.attention import GROUPED, PACKED, is_plain_softmax
from rlaif.models.local.cache import roomy_cache
from rlaif.models.local.threads import share_cores

SORTED_TOKENS = 256  # nearly always enough for the nucleus; the exact fallback sorts the whole vocabulary


class Sampling(NamedTuple):
    """How tokens are drawn. A temperature of 0 is greedy."""

    max_tokens: int
    temperature: float
    top_p: float = 1.0


class Sample(NamedTuple):
    """Token ids written, with the end token as the last one when `finished`."""

    tokens: list[int]
    finished: bool


@torch.inference_mode()
def generate(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int], pad_id: int
) -> list[Sample]:
    """Continue every prompt until an end token of the model or `max_tokens`.

    Row i depends on prompts[i] and seeds[i]; what else is in the batch changes it only through floating-point
    rounding. A prompt that several rows share is read once. The end tokens are those of the model's generation config.
    """
    device = model.device
    end_ids = torch.tensor(end_tokens(model), dtype=torch.long, device=device)
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    prompt_of_B = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
    tokens_BS, mask_BS = left_pad(list(place), pad_id, device)  # until the first token a row per prompt
    uniforms = torch.stack([_uniforms(seed, sampling.max_tokens) for seed in seeds]).to(device)
    written: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    rows = torch.arange(len(prompts), device=device)  # which request each row of the batch is
    cache = roomy_cache(model.config)
    input_ids = tokens_BS
    attention = GROUPED if is_plain_softmax(model) else "eager"  # looks at every module: once, not at every token
    for step in range(sampling.max_tokens):
        share_cores()
        positions = (mask_BS.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        with decoding_attention(model, attention) if step else contextlib.nullcontext():
            logits_BV = model(
                input_ids=input_ids,
                attention_mask=mask_BS,
                position_ids=positions,
                past_key_values=cache,
                # An index, not 1: of a slice, which is not contiguous, the bf16 product takes 200 times as long.
                logits_to_keep=torch.tensor([input_ids.shape[1] - 1], device=device),
            ).logits[:, -1]
        if step == 0 and len(place) < len(prompts):
            cache.batch_select_indices(prompt_of_B)
            logits_BV, mask_BS = logits_BV[prompt_of_B], mask_BS[prompt_of_B]
        next_B = pick_tokens(logits_BV, uniforms[rows, step], sampling.temperature, sampling.top_p)
        ended_B = torch.isin(next_B, end_ids)
        for row, token, ended in zip(rows.tolist(), next_B.tolist(), ended_B.tolist(), strict=True):
            if not finished[row]:
                written[row].append(token)
                finished[row] = ended
        running_B = ~torch.tensor([finished[row] for row in rows.tolist()], device=device)
        if not running_B.any():
            break
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(rows), 1)], dim=1)
        # Dropping rows copies the cache, so wait until an eighth of them can go.
        if running_B.sum() <= 0.875 * len(rows):
            cache.batch_select_indices(running_B.nonzero().squeeze(1))
            rows, next_B, mask_BS = rows[running_B], next_B[running_B], mask_BS[running_B]
        input_ids = next_B.unsqueeze(1)
    return [Sample(tokens, ended) for tokens, ended in zip(written, finished, strict=True)]


@contextlib.contextmanager
def decoding_attention(model: Any, attention: str) -> Iterator[None]:
    """For one query per row the fused CPU kernel takes four times as long as plain products do."""
    usual = model.config._attn_implementation
    if model.device.type != "cpu" or usual not in {"sdpa", PACKED}:
        yield
        return
    model.config._attn_implementation = attention
    try:
        yield
    finally:
        model.config._attn_implementation = usual


def pick_tokens(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row by inverting the cumulative distribution at `uniform_B` (in [0, 1)).

    With top_p below 1 only the smallest set of most likely tokens whose probability reaches top_p takes part
    (nucleus sampling, arXiv 1904.09751).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    probs_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    if top_p >= 1:
        return _invert(probs_BV, uniform_B)
    values_BK, tokens_BK = probs_BV.topk(min(SORTED_TOKENS, probs_BV.shape[-1]))
    short_B = values_BK.sum(-1) < top_p
    if short_B.any():
        picked_B = _from_nucleus(values_BK, tokens_BK, uniform_B, top_p)
        everything = probs_BV[short_B].sort(descending=True)
        picked_B[short_B] = _from_nucleus(everything.values, everything.indices, uniform_B[short_B], top_p)
        return picked_B
    return _from_nucleus(values_BK, tokens_BK, uniform_B, top_p)


def _from_nucleus(values_BK: Tensor, tokens_BK: Tensor, uniform_B: Tensor, top_p: float) -> Tensor:
    """One of the sorted tokens before which less than top_p of the probability lies."""
    before_BK = values_BK.cumsum(-1) - values_BK
    kept_BK = values_BK.masked_fill(before_BK >= top_p, 0.0)
    return tokens_BK.gather(1, _invert(kept_BK, uniform_B).unsqueeze(1)).squeeze(1)


def _invert(weights_BV: Tensor, uniform_B: Tensor) -> Tensor:
    cumulative = weights_BV.cumsum(-1)
    target = uniform_B.to(cumulative.dtype) * cumulative[:, -1]
    index = torch.searchsorted(cumulative, target.unsqueeze(1), right=True).squeeze(1)
    return index.clamp(max=weights_BV.shape[-1] - 1)


def _uniforms(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    """(tokens, mask), both (rows, longest); the mask is 1 on real tokens."""
    longest = max(len(row) for row in rows)
    tokens = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, longest - len(row) :] = 1
    return tokens.to(device), mask.to(device)


def end_tokens(model: Any) -> list[int]:
    """The ids that end a turn, from the generation config (one id, several or none)."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = model.config.get_text_config().eos_token_id
    return list(ids) if isinstance(ids, list | tuple) else [] if ids is None else [int(ids)]


def end_with(model: Any, token: int) -> None:
    """Let this token end a turn too, here and wherever the model is saved to."""
    ends = end_tokens(model)
    if token not in ends:
        model.generation_config.eos_token_id = [*ends, token]
