"""Models that are only read, for a part of each step: the reference, the reward model. On a CPU their weights lie in a
file that is mapped into memory, so that while others learn the system may use the memory for something else.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DONT_NEED = 4
"""Of madvise(2): the pages of a shared file leave the process, and stay in the file."""
ALIGNED = 64


class RestingWeights:
    """The weights of frozen models, moved into one unnamed file in `folder`. Nothing happens on a GPU."""

    def __init__(self, models: Sequence[nn.Module], folder: Path) -> None:
        unique = {id(p): p for model in models for p in model.parameters()}
        frozen = [p for p in unique.values() if p.device.type == "cpu" and not p.requires_grad]
        self._storage = _mapped(sum(_room(p) for p in frozen), folder) if frozen else None
        start = 0
        for parameter in frozen:
            parameter.data = self._take(parameter.data, start)
            start += _room(parameter)
        self.rest()

    def _take(self, tensor: Tensor, start: int) -> Tensor:
        assert self._storage is not None
        first = start // tensor.element_size()
        place = torch.empty(0, dtype=tensor.dtype).set_(self._storage, first, tensor.shape, _contiguous(tensor))
        return place.copy_(tensor)

    def rest(self) -> None:
        """Let go of the memory: whoever reads the weights next finds them where they were. Without Linux the system
        finds out by itself, when memory is short."""
        if self._storage is not None and sys.platform.startswith("linux"):
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(self._storage.data_ptr()), ctypes.c_size_t(self._storage.nbytes()), DONT_NEED)


def _contiguous(tensor: Tensor) -> tuple[int, ...]:
    """The strides of a contiguous tensor of this shape."""
    return torch.empty(tensor.shape, device="meta").stride()


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED


def _mapped(size: int, folder: Path) -> Any:
    """A storage that is a shared mapping of a file; the file has no name, and goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".resting-") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a crash later
        else:
            file.truncate(size)
        return torch.UntypedStorage.from_file(file.name, shared=True, nbytes=size)
