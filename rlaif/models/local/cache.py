"""A key-value cache with room to grow: transformers' own copies everything it holds at every token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens; a copy every so many steps is no longer felt


class RoomyLayer(DynamicLayer):
    """A `DynamicLayer` whose keys and values are views of buffers that are longer than they need to be."""

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
            self._buffers = self._grown(key_states, needed), self._grown(value_states, needed)
            if used:
                self._buffers[0][..., :used, :], self._buffers[1][..., :used, :] = self.keys, self.values
        keys, values = self._buffers
        keys[..., used:needed, :], values[..., used:needed, :] = key_states, value_states
        self.keys, self.values = keys[..., :needed, :], values[..., :needed, :]
        return self.keys, self.values

    @staticmethod
    def _grown(like: Tensor, needed: int) -> Tensor:
        return like.new_empty(*like.shape[:-2], needed + ROOM, like.shape[-1])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Only keep these rows; a row may be kept several times."""
        if self._buffers is not None:
            used = self.get_seq_length()
            self._buffers = self._buffers[0][beam_idx], self._buffers[1][beam_idx]
            self.keys, self.values = (buffer[..., :used, :] for buffer in self._buffers)


def roomy_cache(config: Any) -> DynamicCache:
    """An empty cache for a model of this config; layers of other kinds (sliding window, recurrent) stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
