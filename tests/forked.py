"""Work in a process of its own that may be killed, forked from a server that has imported all, to start fast."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from typing import Any

PRELOADED = [
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pytest",
    "rlaif.evaluation.report",
    "rlaif.iterate",
    "rlaif.models.local",
    "rlaif.study.run",
    "rlaif.training.measure",
    "rlaif.training.offline.loop",
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


def no_curves(*_: object) -> str:
    return "<svg></svg>"


def draw_nothing() -> None:
    """From here on this process writes reports with blank plots: two seconds each, and test_report.py looks at them."""
    from rlaif.evaluation import plots

    plots.curves = no_curves


def _begin(work: Callable[..., None], *arguments: Any) -> None:
    gc.freeze()  # what was imported before the fork is no garbage, and long to walk through
    work(*arguments)
