"""How a reward model is made: lessons in, a scalar model out. It never learns where a row came from.

Not here: what is learnt, and its losses (`data.py`); several models (`ensemble.py`); what a finished model says of its
own labels and of held-out ones (`worth.py`).
Shape suffixes: N lessons of a pass, B rows, K scores of a row (the common one, then the principles').
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.config import Recipe
from rlaif.config.reward import Regression, RewardSection
from rlaif.config.training import ComputeSection, Lora
from rlaif.errors import ConfigError, DataError
from rlaif.models.embedded import resolve_model
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.machine import torch_dtype
from rlaif.models.local.packing import Row
from rlaif.records import Preference, derive_seed
from rlaif.training import parallel
from rlaif.training.compute import prepare
from rlaif.training.fit import Log, fit, passes, plan_epochs
from rlaif.training.lessons import Lesson
from rlaif.training.lora import trainable
from rlaif.training.reward.data import hits, labels_of, lesson_losses, pair_lessons
from rlaif.training.scalar_model import Heads, ScalarModel
from rlaif.training.session import check_finite


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


def _purpose(name: str) -> list[str]:
    """What the seeds of this model are derived from, beside the recipe's."""
    return ["reward"] if name == "model" else ["reward", name]


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
        seed=derive_seed(recipe.seed, *_purpose(name), "head"),
    )
    return RewardStage(model, tokenizer, section, recipe.seed, name, recipe.compute)


def plan(lessons: Sequence[Lesson], section: RewardSection, seed: int, name: str) -> list[list[int]]:
    """The minibatches of all epochs, in order, as places in `lessons`."""
    return list(chain(*plan_epochs(lessons, section, seed, *_purpose(name))))


def train_reward_model(stage: RewardStage, preferences: Sequence[Preference], checkpoints: Path, log: Log) -> None:
    """Train in place on the preferences of split `train`, as they are."""
    train(stage, pair_lessons(stage.tokenizer, preferences, stage.section), checkpoints, log)


def train(stage: RewardStage, lessons: Sequence[Lesson], checkpoints: Path, log: Log) -> None:
    """Train in place. Goes on from the newest checkpoint, to the same numbers."""
    section, model = stage.section, stage.model

    def learn_batch(batch: Sequence[int], where: str) -> dict[str, float]:
        return learn(model, [lessons[place] for place in batch], section, where)

    batches = plan(lessons, section, stage.seed, stage.name)
    _prepare(stage, lessons)
    parameters = trainable(model.backbone, model.head, *([model.heads] if model.heads else []))
    where = "reward" if stage.name == "model" else f"reward, {stage.name},"
    fit(parameters, batches, learn_batch, section, checkpoints, log, where)


def _prepare(stage: RewardStage, lessons: Sequence[Lesson]) -> None:
    """Adapter and heads, as the section wants them. DataError where no principle was judged."""
    model, purpose = stage.model, _purpose(stage.name)
    if stage.lora is not None:
        model.add_adapter(stage.lora, derive_seed(stage.seed, *purpose, "lora"))
        model.head.requires_grad_(True)
    if stage.section.principle_heads:
        names = tuple(sorted({name for lesson in lessons for name in lesson.by_principle}))
        if not names:
            raise DataError("reward.principle_heads: judgments.jsonl has no principle's own label of a training pair")
        weight = model.head.weight
        heads = Heads.new(names, weight.shape[1], derive_seed(stage.seed, *purpose, "principle heads"))
        model.heads = heads.to(weight.device)
    prepare(model, stage.compute)


def learn(model: ScalarModel, batch: Sequence[Lesson], section: RewardSection, where: str) -> dict[str, float]:
    """Accumulate the gradient of the batch's weighted mean loss, in microbatches; returns what the metrics show.

    A principle's head learns from the pairs that have its label; the heads' losses are added with weight 1/K.
    TrainingError where the loss is not finite, naming lessons.
    """
    paired = not isinstance(section.loss, Regression)
    labels = labels_of(batch, model.heads.names if model.heads else (), model.head.weight.device)
    parts: list[list[int]] = []
    figures: list[Tensor] = []
    for part in passes(batch, section.microbatch_tokens):
        score_BK = model.scores_by_head(part.rows)
        found_NK = score_BK[[at[0] for at in part.at]]
        if paired:
            found_NK = found_NK - score_BK[[at[1] for at in part.at]]
        taught = labels.take(part.lessons)
        loss_NK = part.counts * lesson_losses(found_NK, taught, section.loss)
        loss_NK.sum().backward()  # a share is of the whole minibatch, so the passes' gradients add up to its
        with torch.no_grad():
            hit = part.counts * hits(found_NK[:, 0], taught).sum() / len(batch)
            figures.append(torch.stack([loss_NK[:, 0].sum(), loss_NK[:, 1:].sum(), hit]))
        parts.append(part.lessons)
    # Read once per batch: asking a GPU for a number at every microbatch would keep it waiting.
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


def set_reference(stage: RewardStage, rows: Sequence[Row]) -> None:
    """Finish the model and record the mean score, each head's for itself, of these (reference) responses. Scores stay
    as they are; whoever wants them centred (N+ detail 12) subtracts the recorded number."""
    stage.model.finish()
    mean_K = stage.model.score_heads(rows, stage.section.microbatch_tokens).mean(0)
    stage.model.reference = float(mean_K[0])
    if stage.model.heads is not None:
        stage.model.heads.reference_K = mean_K[1:].to(stage.model.heads.reference_K)
