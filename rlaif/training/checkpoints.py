"""Checkpoint files: the newest state of a training loop, whole or not at all.

One file, written by the first process; where the model is sharded, one of each process with its own part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rlaif.errors import TrainingError
from rlaif.files import no_link, writing
from rlaif.training import parallel


class Checkpoint(NamedTuple):
    """What was found: the state after `step` steps."""

    path: Path
    step: int
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder. All processes call every method together."""

    def __init__(self, folder: Path, sharded: bool) -> None:
        self._folder = folder
        self._sharded = sharded and parallel.size() > 1
        self._ending = f".{parallel.rank() + 1}-of-{parallel.size()}.pt" if self._sharded else ".pt"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state after `step` steps; older ones go once every process has written."""
        final = self._folder / f"step-{step:06d}{self._ending}"
        writes = self._sharded or parallel.rank() == 0
        if writes:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = self._folder / f".writing-{os.getpid()}.pt"
            with writing(final):
                with open(temporary, "wb", opener=no_link) as file:
                    torch.save({"step": step, **state}, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, final)
        if self._sharded:
            parallel.wait()
        if parallel.rank() == 0:
            for old in self._folder.glob("*.pt"):
                if not old.name.startswith(f"step-{step:06d}."):
                    old.unlink(missing_ok=True)

    def newest(self) -> Checkpoint | None:
        """The last step that every process has; None where there is none.

        TrainingError for checkpoints of another number of processes: their parts fit no other.
        """
        files = {int(path.name[5:11]): path for path in self._folder.glob(f"step-??????{self._ending}")}
        if not files and (others := list(self._folder.glob("step-*.pt"))):
            parts = re.search(r"-of-(\d+)", others[0].name)
            made = f"{parts[1]} processes, sharded" if parts else "no sharding"
            raise TrainingError(
                f"{others[0]}: made with {made}; go on as it was begun, or delete {self._folder} to start anew"
            )
        steps = set.intersection(*map(set, parallel.gather(list(files))))
        if not steps:
            return None
        path = files[max(steps)]
        try:
            with open(path, "rb", opener=no_link) as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
            return Checkpoint(path, int(state["step"]), state)
        except Exception as error:  # whatever torch, zip and pickle make of a damaged file
            raise TrainingError(
                f"{path}: no checkpoint that can be read ({type(error).__name__}); delete {self._folder} to start anew"
            ) from None
