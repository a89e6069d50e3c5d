"""The reward-model stage: preferences in, a scalar model out. It never learns where a row came from.

A minibatch is whole prompts: every distinct response of a prompt passes through the model once, however many pairs
it is in (InstructGPT, arXiv 2203.02155, section 3.5).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rlaif.config import Recipe
from rlaif.config.sections import RewardSection
from rlaif.errors import ConfigError, DataError
from rlaif.models.embedded import resolve_model
from rlaif.models.local.load import DTYPES, load_tokenizer
from rlaif.models.local.packing import Row, microbatches
from rlaif.models.local.tokens import encode_prompt, encode_response, response_tokens
from rlaif.records import Preference, Response, derive_seed
from rlaif.training.lora import trainable
from rlaif.training.losses import bradley_terry_loss
from rlaif.training.scalar_model import ScalarModel, as_ended
from rlaif.training.session import Group, Session, check_finite, warmup_then_linear
from rlaif.training.tracking import Tracker


class EncodedPair(NamedTuple):
    """A preference as token rows."""

    preference: Preference
    chosen: Row
    rejected: Row


class Heldout(NamedTuple):
    """What the finished model says of one held-out preference; margin = score(chosen) - score(rejected)."""

    pair_id: str
    prompt_id: str
    source: str
    p_chosen: float
    margin: float


class RewardStage(NamedTuple):
    """What the stage learns from and with."""

    model: ScalarModel
    tokenizer: Any
    section: RewardSection
    seed: int


def open_stage(recipe: Recipe) -> RewardStage:
    """A new reward model over the recipe's backbone, with the policy's tokenizer."""
    section = recipe.reward
    name, revision = section.model or recipe.policy.model, None if section.model else recipe.policy.revision
    tokenizer = load_tokenizer(recipe.policy.model, recipe.policy.revision)
    if section.model and load_tokenizer(name, revision).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(f"reward.model={name}: another tokenizer than the policy's; token ids could not be shared")
    model = ScalarModel.from_language_model(
        resolve_model(name, revision).path,
        revision,
        DTYPES[recipe.policy.dtype],
        pad_id=tokenizer.pad_token_id,
        seed=derive_seed(recipe.seed, "reward", "head"),
    )
    return RewardStage(model, tokenizer, section, recipe.seed)


def reference_rows(stage: RewardStage, responses: Sequence[Response], preferences: Sequence[Preference]) -> list[Row]:
    """What scores are centred on: the untrained policy's samples, or without any the training responses."""
    if responses:
        return [
            Row(tuple(encode_prompt(stage.tokenizer, r.prompt, stage.section.max_length - len(ids))), tuple(ids))
            for r in responses
            if (ids := response_tokens(stage.tokenizer, r)[: stage.section.max_length - 1])
        ]
    train = [p for p in preferences if p.split == "train"]
    return _distinct(encode_pairs(stage.tokenizer, train, stage.section.max_length))


def encode_pair(tokenizer: Any, preference: Preference, max_length: int) -> EncodedPair:
    """Conversation and responses as ids. Too long: the oldest prompt tokens go, then the responses' last ones.

    The prompt is cut for the longer response, so that both are scored after the same conversation.
    """
    chosen, rejected = (
        encode_response(tokenizer, side[-1].content)[: max_length - 1]
        for side in (preference.chosen, preference.rejected)
    )
    prompt = tuple(encode_prompt(tokenizer, preference.prompt, max_length - max(len(chosen), len(rejected))))
    return EncodedPair(preference, Row(prompt, tuple(chosen)), Row(prompt, tuple(rejected)))


def encode_pairs(tokenizer: Any, preferences: Sequence[Preference], max_length: int) -> list[EncodedPair]:
    """Token rows of all preferences; pairs that are identical after truncation are dropped (nothing to learn)."""
    pairs = [encode_pair(tokenizer, p, max_length) for p in preferences]
    return [pair for pair in pairs if pair.chosen != pair.rejected]


def train_reward_model(
    stage: RewardStage, preferences: Sequence[Preference], checkpoints: Path, tracker: Tracker
) -> None:
    """Train in place on the rows of split `train`. Goes on from the newest checkpoint, to the same numbers."""
    section = stage.section
    plan = _plan(stage, preferences)
    model = stage.model
    if section.lora is not None:
        model.add_adapter(section.lora, derive_seed(stage.seed, "reward", "lora"))
        model.head.requires_grad_(True)
    session = Session(
        [Group(trainable(model.backbone, model.head), section.learning_rate)],
        checkpoints,
        section.max_grad_norm,
        section.weight_decay,
    )
    done, _ = session.restore()
    tracker.rewind(done)
    for step in range(done, len(plan)):
        loss, accuracy = _learn(model, plan[step], section.microbatch_tokens, f"reward step {step}")
        scale = warmup_then_linear(step, len(plan), section.warmup_share)
        session.update(f"reward step {step}", scale)
        tracker.log(step, {"loss": loss, "accuracy": accuracy, "learning_rate": scale * section.learning_rate})
        if (step + 1) % 10 == 0:
            session.save(step + 1, {})


def planned_updates(stage: RewardStage, preferences: Sequence[Preference]) -> int:
    """How many updates training takes."""
    return len(_plan(stage, preferences))


def _plan(stage: RewardStage, preferences: Sequence[Preference]) -> list[list[EncodedPair]]:
    """The minibatches of all epochs, in order."""
    section = stage.section
    pairs = encode_pairs(stage.tokenizer, [p for p in preferences if p.split == "train"], section.max_length)
    if not pairs:
        raise DataError("preferences.jsonl: no training pairs; see preferences.tie_margin and label failures")
    return [
        batch
        for epoch in range(section.epochs)
        for batch in _minibatches(pairs, section.minibatch_size, derive_seed(stage.seed, "reward", epoch))
    ]


def _minibatches(pairs: Sequence[EncodedPair], size: int, seed: int) -> Iterator[list[EncodedPair]]:
    """Whole prompts in seeded order, gathered until a batch has at least `size` pairs."""
    by_prompt = _by_prompt(pairs)
    order = list(by_prompt)
    random.Random(seed).shuffle(order)
    batch: list[EncodedPair] = []
    for prompt_id in order:
        batch += by_prompt[prompt_id]
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def _by_prompt(pairs: Sequence[EncodedPair]) -> dict[str, list[EncodedPair]]:
    by_prompt = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.preference.prompt_id].append(pair)
    return dict(by_prompt)


def _learn(model: ScalarModel, batch: Sequence[EncodedPair], max_tokens: int, where: str) -> tuple[float, float]:
    """Accumulate the gradient of the batch's weighted mean loss; returns (loss, accuracy)."""
    total_weight = sum(pair.preference.weight for pair in batch)
    loss_sum = 0.0
    correct = 0.0
    rows = _distinct(batch)
    for group in microbatches(rows, max_tokens):
        present = {rows[i] for i in group}  # a prompt's rows are together, so a pair is in one group whole
        part = [pair for pair in batch if pair.chosen in present]
        margin_N = _margins(model, part)
        p_N = torch.tensor([pair.preference.p_chosen for pair in part], device=margin_N.device)
        weight_N = torch.tensor([pair.preference.weight for pair in part], device=margin_N.device)
        loss = bradley_terry_loss(margin_N, p_N, weight_N).sum() / total_weight
        check_finite(loss, f"{where}, pairs {[pair.preference.pair_id for pair in part][:4]}")
        loss.backward()
        loss_sum += float(loss.detach())
        correct += float((margin_N > 0).sum() + 0.5 * (margin_N == 0).sum())
    return loss_sum, correct / len(batch)


def _distinct(pairs: Sequence[EncodedPair]) -> list[Row]:
    """Each different row once, in order of first appearance."""
    return list(dict.fromkeys(row for pair in pairs for row in (pair.chosen, pair.rejected)))


def _margins(model: ScalarModel, pairs: Sequence[EncodedPair]) -> torch.Tensor:
    """margin_N, each distinct row computed once."""
    rows = _distinct(pairs)
    place = {row: i for i, row in enumerate(rows)}
    score_B = model.scores(rows)
    return score_B[[place[p.chosen] for p in pairs]] - score_B[[place[p.rejected] for p in pairs]]


def centre(stage: RewardStage, rows: Sequence[Row]) -> None:
    """Finish the model and shift its scores so that these (reference) responses have mean 0 (N+ detail 12)."""
    stage.model.finish()
    rows = as_ended(rows, stage.tokenizer)
    stage.model.offset += float(stage.model.score_all(rows, stage.section.microbatch_tokens).mean())


def score_heldout(stage: RewardStage, preferences: Sequence[Preference]) -> list[Heldout]:
    """Margins of the rows of split `heldout`, in order."""
    rows = [p for p in preferences if p.split == "heldout"]
    pairs = encode_pairs(stage.tokenizer, rows, stage.section.max_length)
    chosen = stage.model.score_all([pair.chosen for pair in pairs], stage.section.microbatch_tokens)
    rejected = stage.model.score_all([pair.rejected for pair in pairs], stage.section.microbatch_tokens)
    return [
        Heldout(p.pair_id, p.prompt_id, p.source, p.p_chosen, round(margin, 6))
        for (p, _, _), margin in zip(pairs, (chosen - rejected).tolist(), strict=True)
    ]
