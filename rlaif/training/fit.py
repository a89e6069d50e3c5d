"""The supervised loop: reward models, SFT and DPO learn by it, each with losses of its own.

A judge learns over the same plan of minibatches, in a loop that looks at it after each epoch (`judge/loop.py`).
A minibatch is whole prompts, and each distinct row of it passes through the model once, however many lessons it is
in: the pairs of a prompt share their responses, and these share the prompt's tokens (InstructGPT, arXiv 2203.02155,
section 3.5; packing.py).
Shape suffixes: B rows; dots stand for whatever is read of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rlaif.config.optimise import Offline
from rlaif.config.reward import RewardSection
from rlaif.config.training import JudgeTrainSection
from rlaif.models.local.packing import Row, microbatches
from rlaif.records import derive_seed
from rlaif.training import parallel
from rlaif.training.lessons import Lesson, OfPrompt, distinct, minibatches
from rlaif.training.session import Group, Session


class Log(Protocol):
    """Where the loop reports to; `tracking.Tracker` says more."""

    def rewind(self, step: int) -> None: ...

    def log(self, step: int, row: Mapping[str, float]) -> None: ...


class Pass(NamedTuple):
    """One forward pass: some rows of a minibatch, and the lessons made of them."""

    rows: list[Row]
    lessons: list[int]
    """Their places in the minibatch."""
    at: list[list[int]]
    """(N, K): where in `rows` the rows of each lesson are."""
    counts: float
    """0: this process computes it for company alone, another one counts it (`parallel.turns`)."""


def passes(lessons: Sequence[Lesson], max_tokens: int) -> Iterator[Pass]:
    """This process's share of the passes over a minibatch."""
    rows = distinct(lessons)
    for group, counts in parallel.turns(list(microbatches(rows, max_tokens))):
        place = {rows[i]: position for position, i in enumerate(group)}
        # A prompt's rows are together, so a lesson is in one group whole.
        part = [i for i, lesson in enumerate(lessons) if lesson.rows[0] in place]
        yield Pass(list(place), part, [[place[row] for row in lessons[i].rows] for i in part], counts)


@torch.no_grad()
def read_all(read: Callable[[list[Row]], Tensor], rows: Sequence[Row], max_tokens: int) -> Tensor:
    """What `read` gives for any number of rows (B, ...), in their order; the processes share the work."""
    found_B = torch.zeros(0)
    for group, counts in parallel.turns(list(microbatches(rows, max_tokens))):
        part_B = read([rows[i] for i in group])
        if not len(found_B):  # only now its shape is known
            found_B = part_B.new_zeros(len(rows), *part_B.shape[1:])
        if counts:
            found_B[group] = part_B
    return parallel.add_up(found_B)


def plan_epochs(
    lessons: Sequence[OfPrompt], section: RewardSection | Offline | JudgeTrainSection, seed: int, *names: str
) -> list[list[list[int]]]:
    """The minibatches of each epoch, as places in `lessons`; `names` say whose order this is."""
    return [
        minibatches(lessons, section.minibatch_size, derive_seed(seed, *names, epoch))
        for epoch in range(section.epochs)
    ]


def fit(
    parameters: Mapping[str, Tensor],
    plan: Sequence[Sequence[int]],
    learn: Callable[[Sequence[int], str], dict[str, float]],
    section: RewardSection | Offline,
    checkpoints: Path,
    log: Log,
    where: str,
) -> None:
    """Train in place, an update per minibatch of the plan. Goes on from the newest checkpoint, to the same numbers.

    `learn` accumulates the gradient of a minibatch's loss and returns its row of metrics. `where` begins errors.
    """
    group = Group(parameters, section.learning_rate)
    session = Session([group], checkpoints, section.max_grad_norm, section.weight_decay)
    for step, scale in session.steps(len(plan), section, log.rewind):
        at = f"{where} step {step}"
        row = learn(plan[step], at)
        norm = session.update(at, scale)
        if isinstance(section, Offline):  # the reward model's rows have none: metrics are the same over versions
            row["gradient_norm"] = norm
        log.log(step, row | {"learning_rate": scale * section.learning_rate})
