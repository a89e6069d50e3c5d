"""The loop that makes a reward model: lessons in, a scalar model out. It never learns where a row came from.

Not here: what is learnt (`data.py`), from how many models (`ensemble.py`), doubtful labels (`denoise.py`).
Shape suffixes: N lessons of a microbatch, B rows, K scores of a row (the common one, then the principles').
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rlaif.config import Recipe
from rlaif.config.reward import Regression, RewardSection
from rlaif.config.training import ComputeSection, Lora
from rlaif.errors import ConfigError, DataError
from rlaif.models.embedded import resolve_model
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.machine import torch_dtype
from rlaif.models.local.packing import Row, microbatches
from rlaif.records import Preference, derive_seed
from rlaif.training import parallel
from rlaif.training.compute import prepare
from rlaif.training.lessons import distinct, minibatches
from rlaif.training.lora import trainable
from rlaif.training.reward.data import RewardLesson, pair_lessons
from rlaif.training.reward.heads import Heads
from rlaif.training.reward.objective import hits, labels_of, lesson_losses
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.session import Group, Session, check_finite
from rlaif.training.tracking import Tracker


class Log(Protocol):
    """Where the loop reports to; `tracking.Tracker` says more."""

    def rewind(self, step: int) -> None: ...

    def log(self, step: int, row: Mapping[str, float]) -> None: ...


class RewardStage(NamedTuple):
    """A model to be trained, and how."""

    model: ScalarModel
    tokenizer: Any
    section: RewardSection
    seed: int
    name: str = "model"
    """Which of the stage's models it is; all but the one called `model` draw seeds of their own."""
    compute: ComputeSection = ComputeSection()

    @property
    def lora(self) -> Lora | None:
        """The adapter to learn through; none = all weights learn."""
        ensemble = self.section.ensemble
        return None if ensemble is not None and ensemble.kind == "independent" else self.section.lora


def seed_of(seed: int, name: str, *parts: str | int) -> int:
    """The seed of one random choice in the training of one of the stage's models."""
    return derive_seed(seed, "reward", *([] if name == "model" else [name]), *parts)


def open_stage(recipe: Recipe, name: str = "model") -> RewardStage:
    """A new reward model over the recipe's backbone, with the policy's tokenizer."""
    section = recipe.reward
    backbone, revision = section.model or recipe.policy.model, None if section.model else recipe.policy.revision
    tokenizer = load_tokenizer(recipe.policy.model, recipe.policy.revision)
    if section.model and load_tokenizer(backbone, revision).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"reward.model={backbone}: another tokenizer than the policy's; token ids could not be shared"
        )
    model = ScalarModel.from_language_model(
        resolve_model(backbone, revision).path,
        revision,
        torch_dtype(recipe.policy.dtype),
        pad_id=tokenizer.pad_token_id,
        seed=seed_of(recipe.seed, name, "head"),
    )
    return RewardStage(model, tokenizer, section, recipe.seed, name, recipe.compute)


def plan(lessons: Sequence[RewardLesson], section: RewardSection, seed: int, name: str) -> list[list[int]]:
    """The minibatches of all epochs, in order, as places in `lessons`."""
    return [
        batch
        for epoch in range(section.epochs)
        for batch in minibatches(lessons, section.minibatch_size, seed_of(seed, name, epoch))
    ]


def train_reward_model(
    stage: RewardStage, preferences: Sequence[Preference], checkpoints: Path, tracker: Tracker
) -> None:
    """Train in place on the preferences of split `train`, as they are."""
    train(stage, pair_lessons(stage.tokenizer, preferences, stage.section), checkpoints, tracker)


def train(stage: RewardStage, lessons: Sequence[RewardLesson], checkpoints: Path, log: Log) -> None:
    """Train in place. Goes on from the newest checkpoint, to the same numbers."""
    section, model = stage.section, stage.model
    batches = plan(lessons, section, stage.seed, stage.name)
    _prepare(stage, lessons)
    session = Session(
        [Group(trainable(model.backbone, model.head, *([model.heads] if model.heads else [])), section.learning_rate)],
        checkpoints,
        section.max_grad_norm,
        section.weight_decay,
    )
    for step, scale in session.steps(len(batches), section, log.rewind):
        where = f"reward step {step}" if stage.name == "model" else f"reward, {stage.name}, step {step}"
        row = learn(model, [lessons[place] for place in batches[step]], section, where)
        session.update(where, scale)
        log.log(step, {**row, "learning_rate": scale * section.learning_rate})


def _prepare(stage: RewardStage, lessons: Sequence[RewardLesson]) -> None:
    """Adapter and heads, as the section wants them. DataError where no principle was judged."""
    model = stage.model
    if stage.lora is not None:
        model.add_adapter(stage.lora, seed_of(stage.seed, stage.name, "lora"))
        model.head.requires_grad_(True)
    if stage.section.principle_heads:
        names = tuple(sorted({name for lesson in lessons for name in lesson.by_principle}))
        if not names:
            raise DataError("reward.principle_heads: judgments.jsonl has no principle's own label of a training pair")
        weight = model.head.weight
        heads = Heads.new(names, weight.shape[1], seed_of(stage.seed, stage.name, "principle heads"))
        model.heads = heads.to(weight.device)
    prepare(model, stage.compute)


def learn(model: ScalarModel, batch: Sequence[RewardLesson], section: RewardSection, where: str) -> dict[str, float]:
    """Accumulate the gradient of the batch's weighted mean loss, in microbatches; returns what the metrics show.

    A principle's head learns from the pairs that have its label; the heads' losses are added with weight 1/K.
    TrainingError where the loss is not finite, naming lessons.
    """
    rows, paired = distinct(batch), not isinstance(section.loss, Regression)
    labels = labels_of(batch, model.heads.names if model.heads else (), model.head.weight.device)
    parts: list[list[int]] = []
    figures: list[Tensor] = []
    for group, counts in parallel.turns(list(microbatches(rows, section.microbatch_tokens))):
        place = {rows[i]: position for position, i in enumerate(group)}
        # A prompt's rows are together, so a pair is in one group whole.
        part = [i for i, lesson in enumerate(batch) if lesson.rows[0] in place]
        score_BK = model.scores_by_head(list(place))
        found_NK = score_BK[[place[batch[i].rows[0]] for i in part]]
        if paired:
            found_NK = found_NK - score_BK[[place[batch[i].rows[1]] for i in part]]
        taught = labels.take(part)
        loss_NK = counts * lesson_losses(found_NK, taught, section.loss)
        loss_NK.sum().backward()
        with torch.no_grad():
            hit = counts * hits(found_NK[:, 0], taught).sum() / len(batch)
            figures.append(torch.stack([loss_NK[:, 0].sum(), loss_NK[:, 1:].sum(), hit]))
        parts.append(part)
    # Read once a batch: asking a GPU for a number at every microbatch would keep it waiting.
    loss, heads_loss, accuracy = parallel.add_up(torch.stack(figures).sum(0)).tolist()
    if not math.isfinite(loss + heads_loss):
        bad = [i for part, figure in zip(parts, figures, strict=True) if not figure[:2].isfinite().all() for i in part]
        named = [batch[i].id for i in bad[:4]]
        check_finite(torch.tensor(loss + heads_loss), f"{where}, {'pairs' if paired else 'ratings'} {named}")
    return (
        {"loss": loss}
        | ({"accuracy": accuracy} if paired else {})
        | ({"heads_loss": heads_loss} if model.heads is not None else {})
    )


def score_rows(model: ScalarModel, rows: Sequence[Row], max_tokens: int) -> Tensor:
    """score_BK of any number of rows, on the CPU, in their order; the processes share the work."""
    width = 1 + (len(model.heads.names) if model.heads else 0)
    score_BK = torch.zeros((len(rows), width), device=model.head.weight.device)
    with torch.no_grad():
        for group, counts in parallel.turns(list(microbatches(rows, max_tokens))):
            part_BK = model.scores_by_head([rows[i] for i in group]).float()
            if counts:
                score_BK[group] = part_BK
    return parallel.add_up(score_BK).cpu()


def set_reference(stage: RewardStage, rows: Sequence[Row]) -> None:
    """Finish the model and record the mean score, each head's for itself, of these (reference) responses. Scores stay
    as they are; whoever wants them centred (N+ detail 12) subtracts the recorded number."""
    stage.model.finish()
    mean_K = score_rows(stage.model, rows, stage.section.microbatch_tokens).mean(0)
    stage.model.reference = float(mean_K[0])
    if stage.model.heads is not None:
        stage.model.heads.reference_K = mean_K[1:].to(stage.model.heads.reference_K)
