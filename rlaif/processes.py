"""Which of several processes this is, as the launcher says it; torch is not needed.

What they do together is in `training/parallel.py`. Here is only who speaks and writes: the first. What srun and mpirun
say is put in torch's words when this module is imported, before anybody asks.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from rlaif.errors import ConfigError
from rlaif.launchers import as_torch

CGROUP = Path("/sys/fs/cgroup")
_refused: list[ConfigError] = []


def _adopt() -> None:
    try:
        os.environ.update(as_torch(os.environ))
    except ConfigError as error:
        _refused.append(error)


_adopt()


def check_launcher() -> None:
    """ConfigError where the launcher said what cannot be followed."""
    if _refused:
        raise _refused[0]


def several() -> bool:
    """Whether a launcher started more than one process."""
    return not _refused and int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Whether this process is the one that prints, and writes the run folder."""
    return not several() or int(os.environ.get("RANK", "0")) == 0


def cores() -> int:
    """How many processor cores this process may use: those it is bound to, within its container's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return min(bound, max(1, math.ceil(int(quota) / int(period))))  # "max" is no number: no limit
    except (OSError, ValueError):
        return bound
