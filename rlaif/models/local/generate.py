"""Batched sampling from a transformers model: left-padded, each row with its own random numbers.

Shape suffixes: B rows still being written, S tokens so far, V vocabulary. A row leaves the batch when it has ended,
so that long rows are not slowed down by finished ones.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rlaif.console import say
from rlaif.errors import one_line
from rlaif.models.decoding import Shape
from rlaif.models.local.architecture import agree, backbone_of, constant_up_to, output_of, trial
from rlaif.models.local.attention import GROUPED, PACKED
from rlaif.models.local.machine import share_cores
from rlaif.models.local.packing import Row, hidden_states
from rlaif.models.local.shaping import Shaper, pick_tokens

ROOM = 64  # tokens; a copy of the cache every so many steps is no longer felt


class Sampling(NamedTuple):
    """How tokens are drawn. A temperature of 0 is greedy."""

    max_tokens: int
    temperature: float
    top_p: float = 1.0
    shape: Shape | None = None


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
    limit = constant_up_to(model.config)
    if len(prompts) > 1 and limit is not None and max(map(len, prompts)) + sampling.max_tokens > limit:
        alone = [generate(model, [ids], sampling, [seed], pad_id) for ids, seed in zip(prompts, seeds, strict=True)]
        return [sample for samples in alone for sample in samples]
    device = model.device
    end_ids = torch.tensor(end_tokens(model), dtype=torch.long, device=device)
    draws = [torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    uniforms = torch.stack(draws).to(device)  # (prompts, max_tokens): a row's draws do not depend on its neighbours
    written: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    rows = torch.arange(len(prompts), device=device)  # which request each row of the batch is
    writer = open_writer(model, prompts, pad_id)
    logits_BV = writer.begin()
    shaper = sampling.shape and Shaper(sampling.shape, prompts, logits_BV.shape[-1], device)
    for step in range(sampling.max_tokens):
        share_cores()
        logits_BV = shaper.shaped(logits_BV) if shaper else logits_BV
        next_B = pick_tokens(logits_BV, uniforms[rows, step], sampling.temperature, sampling.top_p)
        ended_B = torch.isin(next_B, end_ids)
        for row, token, ended in zip(rows.tolist(), next_B.tolist(), ended_B.tolist(), strict=True):
            if not finished[row]:
                written[row].append(token)
                finished[row] = ended
        running_B = ~torch.tensor([finished[row] for row in rows.tolist()], device=device)
        if not running_B.any() or step == sampling.max_tokens - 1:
            break
        # Dropping rows copies the cache, so wait until an eighth of them can go.
        if running_B.sum() <= 0.875 * len(rows):
            writer.keep(running_B)
            rows, next_B = rows[running_B], next_B[running_B]
            if shaper:
                shaper.keep(running_B)
        if shaper:
            shaper.add(next_B)
        if limit is not None and len(prompts[0]) + len(written[0]) == limit + 1:  # alone, and all it has read turns
            writer = open_writer(model, [[*prompts[0], *written[0]]], pad_id)
            logits_BV = writer.begin()
        else:
            logits_BV = writer.go_on(next_B)
    return [Sample(tokens, ended) for tokens, ended in zip(written, finished, strict=True)]


# ---------------------------------------------------------------------------- rows that grow by a token at a time


class RoomyLayer(DynamicLayer):
    """A `DynamicLayer` whose keys and values are views of buffers that are longer than they need to be: transformers'
    own copies everything it holds at every token."""

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append along the token axis (-2) and return all keys and values so far, each (B, heads, S, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        needed = used + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < needed:
            keys, values = (
                new.new_empty(*new.shape[:-2], needed + ROOM, new.shape[-1]) for new in (key_states, value_states)
            )
            if used:
                keys[..., :used, :], values[..., :used, :] = self.keys, self.values
            self._buffers = keys, values
        keys, values = self._buffers
        keys[..., used:needed, :], values[..., used:needed, :] = key_states, value_states
        self.keys, self.values = keys[..., :needed, :], values[..., :needed, :]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Only keep these rows; a row may be kept several times."""
        if self._buffers is not None:
            used = self.get_seq_length()
            self._buffers = self._buffers[0][beam_idx], self._buffers[1][beam_idx]
            self.keys, self.values = (buffer[..., :used, :] for buffer in self._buffers)


class CachedWriter:
    """Padded on the left, with keys and values (or what else the model keeps) remembered."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        self._model, self._cache = model, DynamicCache(config=model.config)
        # Layers of other kinds (sliding window, recurrent) stay as they are.
        self._cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in self._cache.layers]
        self._known = inspect.signature(model.forward).parameters
        self._prompt_of_B = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=model.device)
        # Until the first token a row for every different prompt.
        self._tokens_BS, self._mask_BS = left_pad(list(place), pad_id, model.device)

    def begin(self) -> Tensor:
        """logits_BV of the first token of every row."""
        logits_BV = self._logits(self._tokens_BS)
        if len(self._mask_BS) < len(self._prompt_of_B):
            self._cache.reorder_cache(self._prompt_of_B)
            logits_BV, self._mask_BS = logits_BV[self._prompt_of_B], self._mask_BS[self._prompt_of_B]
        return logits_BV

    def go_on(self, next_B: Tensor) -> Tensor:
        """logits_BV of the token after these."""
        self._mask_BS = torch.cat([self._mask_BS, self._mask_BS.new_ones(len(next_B), 1)], dim=1)
        with decoding_attention(self._model):
            return self._logits(next_B.unsqueeze(1))

    def keep(self, running_B: Tensor) -> None:
        """Drop the other rows."""
        self._cache.reorder_cache(running_B.nonzero().squeeze(1))
        self._mask_BS = self._mask_BS[running_B]

    def _logits(self, ids_BS: Tensor) -> Tensor:
        options = {
            "attention_mask": self._mask_BS,
            # Counted over real tokens alone; padding, which nobody sees, stands at 0.
            "position_ids": (self._mask_BS.cumsum(1) - 1).clamp(min=0)[:, -ids_BS.shape[1] :],
            "past_key_values": self._cache,
            "cache_params": self._cache,  # as state-space models name it
            "use_cache": True,
            # An index, not 1: of a slice, which is not contiguous, the bf16 product takes 200 times as long.
            "logits_to_keep": torch.tensor([ids_BS.shape[1] - 1], device=ids_BS.device),
        }
        options = {name: value for name, value in options.items() if name in self._known}
        logits_BSV: Tensor = self._model(input_ids=ids_BS, **options).logits
        return logits_BSV[:, -1]


class RecomputingWriter:
    """As `CachedWriter`, every row as a whole again for every token: slow, and right for any model."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self._backbone, self._output = backbone_of(model), output_of(model)
        self._rows = [Row(tuple(prompt), ()) for prompt in prompts]

    def begin(self) -> Tensor:
        logits_BV: Tensor = self._output(hidden_states(self._backbone, self._rows).at_last())
        return logits_BV

    def go_on(self, next_B: Tensor) -> Tensor:
        tokens = next_B.tolist()
        self._rows = [Row(p, (*r, token)) for (p, r), token in zip(self._rows, tokens, strict=True)]
        return self.begin()

    def keep(self, running_B: Tensor) -> None:
        self._rows = [row for row, runs in zip(self._rows, running_B.tolist(), strict=True) if runs]


def open_writer(model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> CachedWriter | RecomputingWriter:
    """The faster one that is right for this model."""
    return CachedWriter(model, prompts, pad_id) if caches(model, pad_id) else RecomputingWriter(model, prompts)


def caches(model: Any, pad_id: int) -> bool:
    """Whether `CachedWriter` is right for this model, by a trial against every row in a pass of its own, once."""
    known: bool | None = getattr(model, "_rlaif_caches", None)
    if known is None:
        known = model._rlaif_caches = _try_cache(model, pad_id)
    return known


def _try_cache(model: Any, pad_id: int) -> bool:
    ids = trial(model.config)
    prompts = [ids[:4], ids[2:9], ids[:4]]  # of two lengths, one of them twice

    def three_steps(writer: CachedWriter | RecomputingWriter) -> list[Tensor]:
        found = [writer.begin(), writer.go_on(torch.tensor(ids[9:12], device=model.device))]
        writer.keep(torch.tensor([False, True, True], device=model.device))
        return [*found, writer.go_on(torch.tensor(ids[9:11], device=model.device))]

    wanted = three_steps(RecomputingWriter(model, prompts))
    try:
        found = three_steps(CachedWriter(model, prompts, pad_id))
        problem = "" if all(map(agree, found, wanted)) else "padding changes what follows"
    except Exception as error:  # whatever a model's code raises
        problem = one_line(error)
    if problem:
        say(f"  {type(model).__name__}: writes without a cache, which is slow, for its own comes out wrong ({problem})")
    return not problem


@contextlib.contextmanager
def decoding_attention(model: Any) -> Iterator[None]:
    """For one query per row the fused CPU kernel takes four times as long as plain products do."""
    if model.device.type != "cpu" or model.config._attn_implementation != PACKED:
        yield
        return
    model.config._attn_implementation = GROUPED
    try:
        yield
    finally:
        model.config._attn_implementation = PACKED


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    """(tokens, mask), both (rows, longest); the mask is 1 on real tokens."""
    each = [torch.tensor(row, dtype=torch.long) for row in rows]
    tokens = pad_sequence(each, batch_first=True, padding_value=pad_id, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in each], batch_first=True, padding_side="left")
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
