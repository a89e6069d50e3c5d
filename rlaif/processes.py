"""Which of several processes this is, as the launcher (`accelerate launch`, torchrun) says it; torch is not needed.

What they do together is in `training/parallel.py`. Here is only who speaks and writes: the first.
"""

from __future__ import annotations

import os


def several() -> bool:
    """Whether a launcher started more than one process."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Whether this process is the one that prints, and writes the run folder."""
    return not several() or int(os.environ.get("RANK", "0")) == 0
