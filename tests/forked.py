"""Work in a process of its own that may be killed, forked from a server that has imported all, to start fast."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

PLOTTING = ["matplotlib.figure", "matplotlib.backends.backend_svg"]
"""Of those that are preloaded, for work that ends in a report."""


def _begin(work: Callable[..., None], *arguments: Any) -> None:
    gc.freeze()  # what was imported before the fork is no garbage, and long to walk through
    work(*arguments)


def exit_code(preloaded: Sequence[str], work: Callable[..., None], *arguments: Any) -> int | None:
    """Of a process that does this work; -9 for one that was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    process = context.Process(target=_begin, args=(work, *arguments))
    process.start()
    process.join()
    return process.exitcode
