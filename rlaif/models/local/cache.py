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

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append along the token axis (-2) and return all keys and values so far, each (B, heads, S, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        keys = self._append(self.keys, key_states, used)
        values = self._append(self.values, value_states, used)
        self.keys, self.values = keys, values
        return keys, values

    @staticmethod
    def _append(held: Tensor, new: Tensor, used: int) -> Tensor:
        batch, heads, count, size = new.shape
        buffer = held._base if used and held._base is not None else None
        if buffer is None or buffer.shape[0] != batch or buffer.shape[2] < used + count:
            buffer = new.new_empty(batch, heads, used + count + ROOM, size)
            if used:
                buffer[:, :, :used] = held
        buffer[:, :, used : used + count] = new
        return buffer[:, :, : used + count]


def roomy_cache(config: Any) -> DynamicCache:
    """An empty cache for a model of this config; layers of other kinds (sliding window, recurrent) stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
