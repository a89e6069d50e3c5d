"""One reward model or several: which the stage trains, and how a folder of them is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from rlaif.config.reward import KeepLabels, RewardSection
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.tracking import Tracker


def load_members(folder: str | Path, dtype: torch.dtype, head: str | None = None) -> list[ScalarModel]:
    """The reward models of a folder that the stage `reward` wrote: a single one, or the members of an ensemble.

    With `head` the scores are those of that principle's own head. ConfigError where there is no such head.
    """
    return [ScalarModel.load(path, dtype, head) for path in member_folders(Path(folder)) or [Path(folder)]]


class RewardModels:
    """The reward models of a run, loaded when they are first asked for, once for each head."""

    def __init__(self, folder: Path | None, dtype: torch.dtype) -> None:
        self._folder = folder
        self._dtype = dtype
        self.opened: dict[str | None, list[ScalarModel]] = {}

    def __call__(self, head: str | None = None) -> list[ScalarModel]:
        """Those read through the common head (None) or a principle's."""
        assert self._folder is not None, "a recipe that reads a reward model trains one"
        if head not in self.opened:
            self.opened[head] = load_members(self._folder, self._dtype, head)
        return self.opened[head]


def member_folders(folder: Path) -> list[Path]:
    """The members of an ensemble's folder, in order; none for a single model."""
    found = (path for path in folder.glob("member-*") if path.is_dir())
    return sorted(found, key=lambda path: int(path.name.removeprefix("member-")))


def each_member(folder: Path, dtype: torch.dtype, head: str | None = None) -> Iterator[ScalarModel]:
    """The members one after the other, one in memory at a time."""
    for member in member_folders(folder):
        yield ScalarModel.load(member, dtype, head)


def member_names(section: RewardSection) -> list[str]:
    """The models that the stage keeps."""
    return ["model"] if section.ensemble is None else [f"member-{i}" for i in range(section.ensemble.members)]


def measuring_names(section: RewardSection) -> list[str]:
    """The models that are trained before, to find doubtful labels, and dropped."""
    treatment = section.denoise
    return [] if isinstance(treatment, KeepLabels) else [f"denoise-{i}" for i in range(treatment.members)]


class MetricsPart(NamedTuple):
    """One model's share of the stage's steps: it counts its own from 0, the metrics count on."""

    tracker: Tracker
    first: int
    number: int
    """Which of the stage's models it is, from 0."""
    begun: list[int]
    """The numbers of the models that this process has reported on, shared by all parts."""

    def rewind(self, step: int) -> None:
        """Forget rows at or after `step`: they will be made again. Rows of models before this one stay."""
        if not self.begun:
            self.tracker.rewind(self.first + step)
        self.begun.append(self.number)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Write the row of this step everywhere."""
        self.tracker.log(self.first + step, {"model": self.number, **row})


def parts_of(tracker: Tracker, steps: Mapping[str, int]) -> dict[str, MetricsPart]:
    """A part for every model, in the order in which they are trained, given how many steps each takes."""
    begun: list[int] = []
    parts, first = {}, 0
    for number, (name, count) in enumerate(steps.items()):
        parts[name] = MetricsPart(tracker, first, number, begun)
        first += count
    return parts
