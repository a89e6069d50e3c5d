"""One loop for all methods that learn from a fixed set of texts; what a method makes of log-probabilities is its own.

A minibatch is whole prompts, and each distinct row of it passes through the policy once, however many lessons it is
in: the pairs of a prompt share their responses, and these share the prompt's tokens (packing.py).
Shape suffixes: N lessons, K rows of a lesson.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rlaif.config.optimise import Offline
from rlaif.config.training import ComputeSection, Lora
from rlaif.models.local.packing import Row, microbatches
from rlaif.records import derive_seed
from rlaif.training import parallel
from rlaif.training.compute import prepare
from rlaif.training.lessons import distinct, minibatches
from rlaif.training.lora import trainable
from rlaif.training.policy_model import PolicyModel
from rlaif.training.session import Group, Session, check_finite
from rlaif.training.tracking import Tracker

AS_WRITTEN = 1.0
"""The temperature of every log-probability here: nothing was sampled."""


class TextLesson(NamedTuple):
    """Rows that are learnt from together (all after one prompt), and how much that counts."""

    place: int
    """Its position in the method's own lists."""
    id: str
    prompt_id: str
    rows: tuple[Row, ...]
    weight: float


class LessonLosses(NamedTuple):
    """What a method says of some lessons, each (N)."""

    loss_N: Tensor
    """Times the weight. The loss of a minibatch is its sum over the sum of weights."""
    seen: Mapping[str, Tensor]
    """What else to watch, by name; metrics show the means over lessons."""


class OfflineMethod(Protocol):
    """What is learnt from the log-probabilities of whole responses."""

    @property
    def name(self) -> str:
        """As `optimise.kind` has it."""
        ...

    @property
    def lessons(self) -> Sequence[TextLesson]:
        """All there is to learn."""
        ...

    def teach(self, lessons: Sequence[TextLesson], logprobs_NK: Tensor) -> LessonLosses:
        """The losses of these lessons. `logprobs_NK`: log pi(response | prompt), summed over tokens."""
        ...

    def describe(self, loss: float) -> dict[str, float]:
        """The minibatch's loss in other words, for the metrics."""
        ...


def make_learner(policy: PolicyModel, lora: Lora | None, seed: int, compute: ComputeSection) -> None:
    """Trainable, by an adapter or whole. No reference is kept: who needs one has asked it before."""
    if lora is None:
        policy.model.requires_grad_(True)
    else:
        policy.make_trainable(lora, seed)
    prepare(policy, compute)


def plan_of(method: OfflineMethod, section: Offline, seed: int) -> list[list[TextLesson]]:
    """The minibatches of all epochs, in order."""
    lessons = method.lessons
    return [
        [lessons[place] for place in batch]
        for epoch in range(section.epochs)
        for batch in minibatches(lessons, section.minibatch_size, derive_seed(seed, method.name, "order", epoch))
    ]


def planned_updates(method: OfflineMethod, section: Offline, seed: int) -> int:
    """How many updates training takes."""
    return len(plan_of(method, section, seed))


def train(
    policy: PolicyModel, method: OfflineMethod, section: Offline, seed: int, checkpoints: Path, tracker: Tracker
) -> None:
    """Train the policy in place. Goes on from the newest checkpoint, to the same numbers."""
    plan = plan_of(method, section, seed)
    session = Session(
        [Group(trainable(policy.model), section.learning_rate)],
        checkpoints,
        section.max_grad_norm,
        section.weight_decay,
    )
    for step, scale in session.steps(len(plan), section, tracker.rewind):
        where = f"{method.name} step {step}"
        row = learn(policy, method, plan[step], section.microbatch_tokens, where)
        row["gradient_norm"] = session.update(where, scale)
        row["learning_rate"] = scale * section.learning_rate
        tracker.log(step, row)


def learn(
    policy: PolicyModel, method: OfflineMethod, lessons: Sequence[TextLesson], max_tokens: int, where: str
) -> dict[str, float]:
    """Accumulate this process's part of the gradient of the minibatch's mean loss; returns the row of metrics."""
    total = sum(lesson.weight for lesson in lessons)
    rows = distinct(lessons)
    sums: dict[str, float] = defaultdict(float)
    for group, counts in parallel.turns(list(microbatches(rows, max_tokens))):
        present = [rows[i] for i in group]
        found = set(present)
        part = [lesson for lesson in lessons if lesson.rows[0] in found]  # a prompt's rows are in one group whole
        logprobs_B = policy.token_logprobs(present, AS_WRITTEN).sum(1)
        taught = method.teach(part, _by_lesson(logprobs_B, present, part))
        loss = taught.loss_N.sum() / total
        check_finite(loss, f"{where}, rows {[lesson.id for lesson in part][:4]}")
        (loss * counts).backward()
        sums["loss"] += float(loss.detach()) * counts
        for name, value_N in taught.seen.items():
            sums[name] += float(value_N.sum()) / len(lessons) * counts
    names = list(sums)
    added = parallel.add_up(torch.tensor([sums[name] for name in names], device=policy.model.device))
    means = dict(zip(names, added.tolist() if parallel.size() > 1 else sums.values(), strict=True))
    tokens = sum(len(row.response) for lesson in lessons for row in lesson.rows)
    return {**means, **method.describe(means["loss"]), "tokens": float(tokens)}


@torch.no_grad()
def look_at(policy: PolicyModel, lessons: Sequence[TextLesson], max_tokens: int) -> Tensor:
    """logprobs_NK of any number of lessons under the policy as it is, on its device."""
    rows = distinct(lessons)
    logprobs_B = torch.zeros(len(rows), device=policy.model.device)
    for group, counts in parallel.turns(list(microbatches(rows, max_tokens))):
        logprobs_B[group] += counts * policy.token_logprobs([rows[i] for i in group], AS_WRITTEN).sum(1)
    return _by_lesson(parallel.add_up(logprobs_B), rows, lessons)


def _by_lesson(logprobs_B: Tensor, rows: Sequence[Row], lessons: Sequence[TextLesson]) -> Tensor:
    """logprobs_NK from those of the distinct rows."""
    place = {row: i for i, row in enumerate(rows)}
    at_NK = torch.tensor([[place[row] for row in lesson.rows] for lesson in lessons], device=logprobs_B.device)
    return logprobs_B[at_NK]
