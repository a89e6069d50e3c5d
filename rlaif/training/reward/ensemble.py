"""Several reward models as one: which the stage trains, and the folder of them read as a single scorer.

Shape suffixes: M members, B rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rlaif.config.reward import KeepLabels, RewardSection
from rlaif.config.training import Lora
from rlaif.models.local.packing import Row
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.tracking import Tracker


class Scorer(Protocol):
    """What rollouts and evaluation ask of a reward model, be it one or several."""

    @property
    def members(self) -> Sequence[ScalarModel]:
        """Which models it is."""

    def scores_by_member(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        """score_MB, on the CPU, in the rows' order."""

    def score_all(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        """score_B: the mean over the members."""

    def as_critic(self, lora: Lora | None, seed: int) -> ScalarModel:
        """A critic that starts as the first member, which itself stays as it is."""


class EnsembleModel:
    """Reward models that were trained apart; each has a reference score of its own."""

    def __init__(self, members: Sequence[ScalarModel]) -> None:
        self.members: Sequence[ScalarModel] = list(members)

    def scores_by_member(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        """score_MB, on the CPU, in the rows' order."""
        return torch.stack([member.score_all(rows, max_tokens) for member in self.members])

    def score_all(self, rows: Sequence[Row], max_tokens: int) -> Tensor:
        """score_B: the mean over the members."""
        return self.scores_by_member(rows, max_tokens).mean(0)

    def as_critic(self, lora: Lora | None, seed: int) -> ScalarModel:
        """A critic that starts as the first member, which itself stays as it is."""
        return self.members[0].as_critic(lora, seed)


def load_scorer(folder: str | Path, dtype: torch.dtype, head: str | None = None) -> Scorer:
    """The reward model of a folder that the stage `reward` wrote, an ensemble where it holds members.

    With `head` the scores are those of that principle's own head. ConfigError where there is no such head.
    """
    members = member_folders(Path(folder))
    if not members:
        return ScalarModel.load(folder, dtype, head)
    return EnsembleModel([ScalarModel.load(member, dtype, head) for member in members])


def member_folders(folder: Path) -> list[Path]:
    """The members of an ensemble's folder, in order; none for a single model."""
    found = (path for path in folder.glob("member-*") if path.is_dir())
    return sorted(found, key=lambda path: int(path.name.removeprefix("member-")))


def each_member(folder: Path, dtype: torch.dtype) -> Iterator[ScalarModel]:
    """The members one after the other, one in memory at a time."""
    for member in member_folders(folder):
        yield ScalarModel.load(member, dtype)


def member_names(section: RewardSection) -> list[str]:
    """The models that the stage keeps."""
    return ["model"] if section.ensemble is None else [f"member-{i}" for i in range(section.ensemble.members)]


def measuring_names(section: RewardSection) -> list[str]:
    """The models that are trained before, to find doubtful labels, and dropped."""
    treatment = section.denoise
    return [] if isinstance(treatment, KeepLabels) else [f"denoise-{i}" for i in range(treatment.members)]


class Part(NamedTuple):
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


def parts_of(tracker: Tracker, steps: Mapping[str, int]) -> dict[str, Part]:
    """A part for every model, in the order in which they are trained, given how many steps each takes."""
    begun: list[int] = []
    parts, first = {}, 0
    for number, (name, count) in enumerate(steps.items()):
        parts[name] = Part(tracker, first, number, begun)
        first += count
    return parts
