"""How many threads compute: as many as there are cores that no other process is using.

Two threads that share a core with other work wait for each other at every product: ten times slower, and not two. So
the cores that others use are counted again every few seconds, between batches, and left to them. A run ends in the same
bytes on one thread and on two. Three things of torch's do not and are avoided: the gradients of softmax (attention.py)
and of indexing with a tensor (packing.py), and products of five to eleven rows by a whole vocabulary (head.py), which
only a minibatch of so few tokens still has. On Intel's processors MKL divides any float32 product between threads in a
way that rounds otherwise, unless it is told not to before its first product: `same_bits_on_any_threads`. All this is of
float32: in bf16 oneDNN divides some products along the inner dimension, by the number of threads.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from rlaif.processes import cores


def same_bits_on_any_threads() -> None:
    """Have MKL compute the same bits on one thread and on several. Elsewhere than on Intel's processors it does so by
    itself, and the setting would take slower kernels."""
    with contextlib.suppress(OSError):
        if "GenuineIntel" in Path("/proc/cpuinfo").read_text():
            os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


same_bits_on_any_threads()  # read by MKL at its first product: any importer of this module computes after it

EVERY_S = 2.0
"""Shorter, and the counters of the kernel (a hundredth of a second) say little."""


class Clock(NamedTuple):
    """Seconds since some moment: of the wall, of all processors' work, and of our own processes' part in it."""

    wall: float
    busy: float
    own: float


def free_cores(before: Clock, now: Clock, machine_cores: int) -> float:
    """Cores that no other process used between the two; at least 0."""
    others = (now.busy - before.busy) - (now.own - before.own)
    return max(0.0, machine_cores - max(0.0, others) / (now.wall - before.wall))


def threads_for(free: float, most: int) -> int:
    """A core that others use for more than half of the time is theirs."""
    return min(most, max(1, round(free)))


class Share:
    """Keeps this process's number of threads at what is free. Only between computations, from the thread that computes.

    An explicit OMP_NUM_THREADS, or a number that someone else set since, stays as it is.
    """

    def __init__(self) -> None:
        self._most = min(torch.get_num_threads(), cores())
        self._ours = torch.get_num_threads()
        self._fixed = self._most == 1 or "OMP_NUM_THREADS" in os.environ or torch.cuda.is_available()
        self._before: Clock | None = None

    def update(self) -> None:
        """Look again, if the last look is some seconds old."""
        if self._fixed:
            return
        if self._before is None:
            self._before = clock()
            time.sleep(0.2)  # once in a process, so that it starts with the right number
        elif time.monotonic() - self._before.wall < EVERY_S:
            return
        self._fixed = torch.get_num_threads() != self._ours
        now = clock()
        wanted = threads_for(free_cores(self._before, now, psutil.cpu_count() or 1), self._most)
        self._before = now
        if not self._fixed and wanted != self._ours:
            torch.set_num_threads(wanted)
            self._ours = wanted


def clock() -> Clock:
    """Now. Our own processes are this one and what it started (a vLLM server)."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    busy = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    own = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            own += sum(process.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            continue
    return Clock(time.monotonic(), busy, own)


_share: Share | None = None


def share_cores() -> int:
    """Have this process compute on the cores that are free now; returns how many threads that makes."""
    global _share  # noqa: PLW0603 (threads belong to the process)
    if _share is None:
        _share = Share()
    _share.update()
    return torch.get_num_threads()
