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
        rooms = [-(-p.nbytes // ALIGNED) * ALIGNED for p in frozen]
        self._bytes = _mapped(sum(rooms), folder) if frozen else None
        for parameter, place in zip(frozen, self._bytes.split(rooms) if self._bytes is not None else (), strict=True):
            moved = place[: parameter.nbytes].view(parameter.dtype).view(parameter.shape)
            parameter.data = moved.copy_(parameter.data)
        self.rest()

    def rest(self) -> None:
        """Let go of the memory: whoever reads the weights next finds them where they were. Without Linux the system
        finds out by itself, when memory is short."""
        if self._bytes is not None and sys.platform.startswith("linux"):
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(self._bytes.data_ptr()), ctypes.c_size_t(self._bytes.nbytes), DONT_NEED)


def _mapped(size: int, folder: Path) -> Tensor:
    """Bytes that are a shared mapping of a file; the file has no name, and goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".resting-") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a crash later
        else:
            file.truncate(size)
        return torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
