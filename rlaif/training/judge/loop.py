"""The loop in which a judge learns: epochs of lessons, each followed by a look at how the judge now does, which asks
the model as it stands, like any other judge.

A checkpoint holds the state of the loop, what was seen after each epoch and the best weights so far: a loop that is
killed and begun again ends with the same bytes.
Shape suffixes: N questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif.config.training import JudgeTrainSection
from rlaif.models.local.answers import KnownLabels
from rlaif.models.local.architecture import context_of
from rlaif.models.local.model import LocalChatModel
from rlaif.training.fit import plan_epochs
from rlaif.training.judge.lessons import Answer, Encoder, JudgeLesson, JudgeQuestion, Rows
from rlaif.training.lora import trainable
from rlaif.training.policy_model import PolicyModel
from rlaif.training.session import Group, Session, check_finite, warmup_then_linear
from rlaif.training.tracking import Tracker

STAGE = "judge"


class HeldoutAgreement(NamedTuple):
    """How the judge does on pairs that it does not learn from."""

    agreement: float
    """Share of the labels with a preference that its choice agrees with; no choice is worth a half."""
    loss: float
    """Cross-entropy with the labels, nats per pair."""
    failed: int
    """Pairs that came to no judgment."""


class JudgeTrainResult(NamedTuple):
    """What came of it."""

    epochs: list[HeldoutAgreement]
    """Before the first epoch, and after each."""
    best: int
    """0: no epoch was better than none. Else the policy now has the weights that it had after this one."""
    steps: int


class Learner(NamedTuple):
    """Who learns, and how."""

    encoder: Encoder
    answer: Answer
    """Of the mode."""
    section: JudgeTrainSection

    @property
    def policy(self) -> PolicyModel:
        """The judge."""
        return self.encoder.policy


class EncodedLesson(NamedTuple):
    """A lesson and the rows of its questions."""

    lesson: JudgeLesson
    rows: list[Rows]

    @property
    def tokens(self) -> int:
        """In one pass, what rows share counted once."""
        distinct = {row for rows in self.rows for row in rows}
        shared = {row.prompt for row in distinct}
        return sum(map(len, shared)) + sum(len(row.response) for row in distinct)


def train(
    learner: Learner,
    lessons_of: Callable[[int], Sequence[JudgeLesson]],
    seed: int,
    checkpoints: Path,
    tracker: Tracker,
    look: Callable[[], HeldoutAgreement],
) -> JudgeTrainResult:
    """Train a policy that is trainable by now; in the end it has the best epoch's weights.

    `lessons_of(epoch)` gives as many lessons, of the same pairs, for each epoch. The best epoch is the one with the
    most agreement, among equals the one with the least loss; it must agree more than the untrained judge. Training
    stops after `patience` epochs without a better one.
    """
    section, parameters = learner.section, trainable(learner.policy.model)
    plan = plan_epochs(lessons_of(0), section, seed, STAGE, "order")
    total = sum(map(len, plan))
    group = Group(parameters, section.learning_rate)
    session = Session([group], checkpoints, section.max_grad_norm, section.weight_decay)
    done, saved = session.restore()
    epochs = [HeldoutAgreement(*row) for row in saved.get("epochs", [])]
    best: dict[str, Tensor] = saved.get("best", {})  # the weights after the best epoch, on the CPU
    tracker.rewind(done)

    def save(step: int) -> None:
        session.save(step, {"epochs": [list(seen) for seen in epochs], "best": best})

    def see(step: int) -> None:
        epochs.append(look())
        tracker.say(_said(epochs))
        if best_of(epochs) == len(epochs) - 1 > 0:
            best.update({name: p.detach().to("cpu", copy=True) for name, p in parameters.items()})
        save(step)

    if not epochs:
        see(0)
    first = 0  # step of the epoch
    for epoch, batches in enumerate(plan):
        if stops(epochs, section.patience):
            break
        last = first + len(batches)
        if len(epochs) == epoch + 1:  # not yet looked at
            lessons = lessons_of(epoch)
            for step in range(max(first, done), last):
                scale, where = warmup_then_linear(step, total, section.warmup_share), f"judge step {step}"
                row = learn(learner, [lessons[place] for place in batches[step - first]], where)
                row["gradient_norm"] = session.update(where, scale)
                tracker.log(step, row | {"learning_rate": scale * section.learning_rate})
                if (step + 1) % section.checkpoint_every == 0:
                    save(step + 1)
            see(last)
        first = last
    _put_back(best, parameters)
    return JudgeTrainResult(epochs, best_of(epochs), first)


@torch.no_grad()
def _put_back(best: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    for name, weights in best.items():
        parameters[name].copy_(weights)


def best_of(epochs: Sequence[HeldoutAgreement]) -> int:
    """The epoch after which the judge was best, 0 where it was never better than untrained."""
    best = 0
    for number, seen in enumerate(epochs):
        ahead = (seen.agreement, -seen.loss) > (epochs[best].agreement, -epochs[best].loss)
        if seen.agreement > epochs[best].agreement if best == 0 else ahead:
            best = number
    return best


def stops(epochs: Sequence[HeldoutAgreement], patience: int) -> bool:
    """Whether the last `patience` epochs were no better than one before them."""
    return len(epochs) - 1 - best_of(epochs) >= patience


def learn(learner: Learner, lessons: Sequence[JudgeLesson], where: str) -> dict[str, float]:
    """Accumulate the gradient of the minibatch's loss, the mean over lessons by weight of each one's mean over its
    questions; returns the row of metrics."""
    total = sum(lesson.weight for lesson in lessons)
    encoded = [EncodedLesson(lesson, learner.encoder.rows(lesson)) for lesson in lessons]
    loss, masses, right = 0.0, list[float](), list[float]()
    for group in microbatches(encoded, learner.section.microbatch_tokens):
        asked = [question for one in group for question in one.lesson.questions]
        rows = [rows for one in group for rows in one.rows]
        answered = learner.answer(learner.encoder, asked, rows)
        shares = [one.lesson.weight / total / len(one.rows) for one in group for _ in one.rows]
        part = (torch.tensor(shares, device=answered.loss_N.device) * answered.loss_N).sum()
        check_finite(part, f"{where}, pairs {[one.lesson.id for one in group][:4]}")
        part.backward()
        loss += float(part.detach())
        masses += answered.mass_N.tolist() if answered.mass_N is not None else []
        right += _right(asked, answered.lead_N.tolist())
    found = {"loss": loss, "tokens": float(sum(one.tokens for one in encoded))}
    means = {"accuracy": right, "label_mass": masses}
    return found | {name: fmean(values) for name, values in means.items() if values}


def _right(questions: Sequence[JudgeQuestion], leads: Sequence[float]) -> list[float]:
    """Of the questions whose label has a preference: 1 where the judge's choice is the label's, a half for none."""
    return [
        0.5 if lead == 0 else float((lead > 0) == (question.p_a > 0.5))
        for question, lead in zip(questions, leads, strict=True)
        if question.p_a != 0.5
    ]


def microbatches(encoded: Sequence[EncodedLesson], max_tokens: int) -> Iterator[list[EncodedLesson]]:
    """Whole lessons in groups of at most `max_tokens`, shortest first; a longer one is a group of its own."""
    group: list[EncodedLesson] = []
    tokens = 0
    for one in sorted(encoded, key=lambda one: (one.tokens, one.lesson.id)):
        if group and tokens + one.tokens > max_tokens:
            yield group
            group, tokens = [], 0
        group = [*group, one]
        tokens += one.tokens
    if group:
        yield group


def _said(epochs: Sequence[HeldoutAgreement]) -> str:
    """One line of the epoch that ended."""
    seen, number = epochs[-1], len(epochs) - 1
    which = f"after epoch {number}" if number else "untrained"
    failed = f", {seen.failed} without a judgment" if seen.failed else ""
    best = "; the best so far" if number and best_of(epochs) == number else ""
    return f"  judge {which}: agrees with {seen.agreement:.1%} of held-out labels, loss {seen.loss:.3f}{failed}{best}"


class JudgeInside(LocalChatModel):
    """The model of the training loop as a judge: it is loaded already, and goes on learning when this is closed."""

    def __init__(self, policy: PolicyModel, batch_size: int) -> None:
        self.name = self.revision = "the judge that learns"
        self._batch_size = batch_size
        self._thinking = False
        self._model, self._tokenizer = policy.model, policy.tokenizer
        self._context = context_of(policy.model.config)
        self._labels = KnownLabels(policy.tokenizer)

    def close(self) -> None:
        """Nothing."""


@contextmanager
def as_judge(policy: PolicyModel, batch_size: int) -> Iterator[JudgeInside]:
    """Inside, the judge that its folder would be: with the adapter merged, as it will be saved."""
    with policy.for_generation():
        yield JudgeInside(policy, batch_size)
