"""Work in a process of its own that may be killed, forked from a server that has imported all, to start fast."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from typing import Any, TextIO

PRELOADED = [
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pytest",
    "rlaif.evaluation.report",
    "rlaif.iterate",
    "rlaif.models.local.model",
    "rlaif.study.run",
    "rlaif.training.policy_model",
    "rlaif.training.offline",
    "rlaif.training.optimise.actors",
    "rlaif.training.optimise.loop",
    "rlaif.training.reward.train",
    "rlaif.training.tracking",
    "transformers.models.llama.modeling_llama",
]


def exit_code(work: Callable[..., None], *arguments: Any) -> int | None:
    """Of a process that does this work; -9 for one that was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_begin, args=(work, *arguments))
    process.start()
    process.join()
    return process.exitcode


def blank(_figure: Any, file: TextIO, **_: object) -> None:
    """In place of matplotlib's Figure.savefig, which takes a quarter of a second for each plot."""
    file.write("<svg></svg>")


def draw_nothing() -> None:
    """From here on this process writes pages with blank plots."""
    from matplotlib.figure import Figure

    Figure.savefig = blank


def _begin(work: Callable[..., None], *arguments: Any) -> None:
    gc.freeze()  # what was imported before the fork is no garbage, and long to walk through
    work(*arguments)
