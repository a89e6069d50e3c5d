"""What of this machine models compute with: its threads, its number format, its memory.

**Threads.** As many as there are cores that no other process is using. Two threads that share a core with other work
wait for each other at every product: ten times slower, and not two. So the cores that others use are counted again
every few seconds, between batches, and left to them. A run ends in the same bytes on one thread and on two. Three
things of torch's do not and are avoided: the gradients of softmax (attention.py) and of indexing with a tensor
(packing.py), and products of five to eleven rows by a whole vocabulary (head.py), which only a minibatch of so few
tokens still has. On Intel's processors MKL divides any float32 product between threads in a way that rounds otherwise,
unless it is told not to before its first product: `same_bits_on_any_threads`. All this is of float32: in bf16 oneDNN
divides some products along the inner dimension, by the number of threads.

**Format.** bf16 halves memory, and its products are several times faster than float32's where the hardware has them.
Where it has not, every number is widened, multiplied and rounded one by one, eight times slower than float32.

**Memory.** glibc gives every block beyond 32 MB, and what is free at the end of its heap, back to the system at once.
Handed out again it comes in fresh pages that the kernel has to fill with zeros: on a CPU up to a fifth of a training
step. So it is told to keep them; but blocks of other sizes than those needed next only pile up, and beyond what a stage
was planned to take they go back all the same, between updates.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import psutil
import torch
import torch.nn.functional as F

from rlaif.config import Recipe
from rlaif.config.models import Dtype
from rlaif.console import say
from rlaif.processes import cores


def same_bits_on_any_threads() -> None:
    """Have MKL compute the same bits on one thread and on several. Elsewhere than on Intel's processors it does so by
    itself, and the setting would take slower kernels."""
    with contextlib.suppress(OSError):
        if "GenuineIntel" in Path("/proc/cpuinfo").read_text():
            os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


same_bits_on_any_threads()  # read by MKL at its first product: any importer of this module computes after it

# ------------------------------------------------------------------------------------------------------- threads

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
        with contextlib.suppress(psutil.Error):  # it has just ended
            own += sum(process.cpu_times()[:2])
    return Clock(time.monotonic(), busy, own)


@cache
def _share() -> Share:
    return Share()  # one: threads belong to the process


def share_cores() -> int:
    """Have this process compute on the cores that are free now; returns how many threads that makes."""
    _share().update()
    return torch.get_num_threads()


# -------------------------------------------------------------------------------------------------- number format

Format = Literal["bfloat16", "float32"]
DTYPES: dict[Format, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}
X86_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2")
"""torch's names of the instructions that multiply bf16."""
PRODUCT = (256, 576, 1536)
"""Rows, inner size and columns of a small language model's matrix product."""


def torch_dtype(setting: Dtype) -> torch.dtype:
    """`resolve`, as torch names it."""
    return DTYPES[resolve(setting)]


@cache
def resolve(setting: Dtype) -> Format:
    """The format that a recipe's `dtype` means here. An explicit one is obeyed; a costly one is remarked on once."""
    if setting == "auto":
        return "bfloat16" if multiplies_bf16() else "float32"
    if setting == "bfloat16" and not multiplies_bf16():
        slower = seconds_per_product(torch.bfloat16) / seconds_per_product(torch.float32)
        say(f"dtype bfloat16: this machine emulates it, {slower:.0f} times slower than float32 (dtype=auto takes that)")
    return setting


@cache
def multiplies_bf16() -> bool:
    """Whether this machine's GPU, or without one its CPU, multiplies bf16 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = _known_of_cpu()
    return seconds_per_product(torch.bfloat16) < seconds_per_product(torch.float32) if known is None else known


def _known_of_cpu() -> bool | None:
    """What torch knows of this CPU's instructions; None where it knows nothing."""
    if not torch.backends.mkldnn.is_available():  # without oneDNN no bf16 instruction is ever used
        return None
    machine = platform.machine().lower()
    if machine in {"x86_64", "amd64"} and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in X86_BF16)
    if machine in {"aarch64", "arm64"} and hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported"):
        return cast(bool, torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return None


def seconds_per_product(dtype: torch.dtype) -> float:
    """The best of a dozen, or of those that fit a fifth of a second."""
    rows, inner, columns = PRODUCT
    a, b = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    taken: list[float] = []
    while len(taken) < 12 and sum(taken) < 0.2:
        began = time.perf_counter()
        F.linear(a, b)
        taken.append(time.perf_counter() - began)
    return min(taken)


def settled(recipe: Recipe, earlier: Recipe | None = None) -> Recipe:
    """The recipe with a format for each `dtype: auto`: the one that `earlier` has there (the same run, begun before,
    perhaps on another machine), else this machine's."""
    values = recipe.model_dump(mode="json")
    _settle(values, earlier.model_dump(mode="json") if earlier else None)
    return Recipe.model_validate(values)


def _settle(value: Any, earlier: Any) -> None:
    """In place, at any depth: policies, judges, members of panels and scoring judges all have a dtype."""
    if isinstance(value, list):
        for position, child in enumerate(value):
            same = isinstance(earlier, list) and position < len(earlier)
            _settle(child, earlier[position] if same else None)
    elif isinstance(value, dict):
        before = earlier if isinstance(earlier, dict) else {}
        if value.get("dtype") == "auto":
            value["dtype"] = resolve(before.get("dtype", "auto"))
        for key, child in value.items():
            _settle(child, before.get(key))


# --------------------------------------------------------------------------------------------------------- memory

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of mallopt(3), as in malloc.h."""


@cache
def _glibc() -> Any:
    """The C library with glibc's own calls; None where it is another."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_freed() -> None:
    """From here on this process keeps freed memory to itself. Without glibc nothing happens."""
    if (library := _glibc()) is not None:
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)


def give_back() -> None:
    """Return to the system what is free now, for other processes."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


_most: ContextVar[float] = ContextVar("_most", default=math.inf)


@contextlib.contextmanager
def heap_within(more: float) -> Iterator[None]:
    """Inside, `trim` bounds what this process keeps: to what it has now and so many bytes more."""
    token = _most.set(psutil.Process().memory_info().rss + more)
    try:
        yield
    finally:
        _most.reset(token)


def trim() -> None:
    """Give freed memory back where more is kept than `heap_within` allows. Between updates; changes no number."""
    most = _most.get()
    if most < math.inf and psutil.Process().memory_info().rss > most:
        give_back()
