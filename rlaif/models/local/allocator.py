"""Have the C library keep the memory that large tensors leave, for the next ones.

glibc gives every block beyond 32 MB, and what is free at the end of its heap, back to the system at once. Handed out
again it comes in fresh pages that the kernel has to fill with zeros: on a CPU up to a fifth of a training step.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of mallopt(3), as in malloc.h."""


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_freed() -> None:
    """From here on this process keeps freed memory to itself. Without glibc nothing happens."""
    library = _glibc()
    if library is not None:
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)


def give_back() -> None:
    """Return to the system what is free now, for other processes."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
