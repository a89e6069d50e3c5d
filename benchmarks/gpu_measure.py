"""What gpu.py measures with: lines and time for a person, the card's rate, memory, operations."""

from __future__ import annotations

import gc
import math
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu_rlaif import now
from benchmarks.gpu_work import Case
from rlaif.models.local.packing import Row, packs

PEAKS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 989,
    "H20": 148,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense bf16 TFLOP/s by the card's name; of two names that fit the longer one counts."""
EVERY_S = 10.0


class Console:
    """Lines with the time since the start; where none came for a while, one that says what is being done."""

    def __init__(self) -> None:
        self.doing = "starting"
        self._began = self._last = time.monotonic()

    def watch(self) -> None:
        """From here on there is a line every so many seconds, whatever happens."""
        threading.Thread(target=self._beat, daemon=True).start()

    def say(self, line: str) -> None:
        self._last = time.monotonic()
        print(f"[{self._last - self._began:5.0f} s] {line}", flush=True)

    def _beat(self) -> None:
        while True:
            time.sleep(1.0)
            if time.monotonic() - self._last >= EVERY_S:
                self.say(f"... {self.doing}")


class Budget:
    """Minutes for everything. A kind of work that has taken longer before than is left now is not begun."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes
        self._longest: dict[str, float] = {}

    def left(self) -> float:
        return self._end - time.monotonic()

    def allows(self, kind: str) -> bool:
        return self.left() > self._longest.get(kind, 0.0)

    @contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._longest[kind] = max(self._longest.get(kind, 0.0), time.monotonic() - began)


def peak_rate(device: str, dtype: str) -> tuple[float, str]:
    """Operations a second of dense products, and where the figure is from."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    known = [card for card in PEAKS if card in name]
    if known and dtype == "bfloat16":
        card = max(known, key=len)
        return PEAKS[card] * 1e12, f"{card}, as specified"
    side = 8192 if device == "cuda" else 256
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = math.inf
    for _ in range(10):
        began = now()
        a @ b
        best = min(best, now() - began)
    return 2 * side**3 / best, f"{name}, measured"


def peak_gb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def operations(case: Case, rows: list[Row], weights: tuple[int, int], shared: bool) -> float:
    """Multiplications and additions that one update needs. `weights`: of the layers, and of the output layer."""
    layers, output = weights
    responses = sum(len(row.response) for row in rows)
    whole = sum(len(row.prompt) + len(row.response) for row in rows)
    passed = sum(pack.length for pack in packs(rows)) if shared else whole
    learns = 4 if case.lora else 6
    policy = layers * passed + output * responses
    if case.kind == "reward":
        return learns * layers * passed
    if not case.on_policy:
        return learns * policy  # DPO's reference was asked before
    own = case.critic == "own"
    total = 2 * (layers * whole + output * responses)  # writing
    total += 2 * 2 * policy + 2 * layers * passed * (1 + own)  # the policy, the reference; reward model and critic
    return total + case.epochs * learns * (policy + own * layers * passed)


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
