"""What a reward model is taught, preferences and ratings as lessons, and the loss of a minibatch of them.

Shape suffixes: N lessons, K scores of a row (the common one, then one per principle).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.config.reward import BradleyTerry, Demonstrations, RaoKupper, Regression, RewardLoss, RewardSection
from rlaif.errors import DataError
from rlaif.models.local.packing import Row
from rlaif.records import Judgment, Preference, Response, Score
from rlaif.training.lessons import Lesson, encode_each, encode_scored
from rlaif.training.losses import preference as losses
from rlaif.training.truncation import Truncation

PrincipleLabels = Mapping[str, Mapping[str, tuple[str, float]]]
"""By pair id, then principle: the text of response a, and P(a is better by that principle)."""


class EncodedPair(NamedTuple):
    """A preference as token rows."""

    preference: Preference
    chosen: Row
    rejected: Row


def encode_pair(tokenizer: Any, preference: Preference, max_length: int) -> tuple[Row, ...]:
    """(chosen, rejected): conversation and response. Too long: the oldest prompt tokens go, then the responses' last
    ones. The prompt is cut for the longer response, so that both are scored after the same conversation."""
    sides = [side[-1].content for side in (preference.chosen, preference.rejected)]
    return encode_scored(tokenizer, preference.prompt, sides, max_length)


def encode_pairs(
    tokenizer: Any, preferences: Sequence[Preference], max_length: int, truncation: Truncation | None = None
) -> list[EncodedPair]:
    """Token rows of all preferences; pairs that are identical after truncation are dropped (nothing to learn)."""
    encoded = encode_each(preferences, partial(encode_pair, tokenizer), max_length, truncation)
    return [EncodedPair(preference, *rows) for preference, rows in encoded]


def encode_rating(tokenizer: Any, score: Score, max_length: int) -> tuple[Row, ...]:
    """Conversation and rated response, as the only row."""
    return encode_scored(tokenizer, score.prompt, [score.text], max_length)


def principle_labels(judgments: Sequence[Judgment]) -> PrincipleLabels:
    """What every judged principle says of every pair. Checked principles are left out: code decides them for free."""
    return {
        judgment.pair.id: {p.principle: (judgment.pair.a, p.p_a) for p in judgment.principles if not p.checked}
        for judgment in judgments
    }


def by_principle(labels: PrincipleLabels, preference: Preference) -> dict[str, float]:
    """P(chosen is better) by each principle, however the judgment held the pair."""
    chosen = preference.chosen[-1].content
    found = labels.get(preference.pair_id, {})
    return {principle: p_a if a == chosen else 1 - p_a for principle, (a, p_a) in found.items()}


def pair_lessons(
    tokenizer: Any,
    preferences: Sequence[Preference],
    section: RewardSection,
    tie_margin: float = 0.0,
    labels: PrincipleLabels | None = None,
    truncation: Truncation | None = None,
) -> list[Lesson]:
    """The rows of split `train`, with their weights, ties and margins as the section has them.

    A pair whose label is at most `tie_margin` above 0.5 is a tie, which only losses with ties tell apart. DataError
    where there is nothing to learn from, or too much of it is cut.
    """
    pairs = encode_pairs(tokenizer, [p for p in preferences if p.split == "train"], section.max_length, truncation)
    if not pairs:
        raise DataError("preferences.jsonl: no training pairs; see preferences.tie_margin and label failures")
    shares = losses.pair_weights([pair.preference.prompt_id for pair in pairs], section.pair_weighting).tolist()
    scale = section.loss.margin if isinstance(section.loss, BradleyTerry) else 0.0
    return [
        Lesson(
            id=row.pair_id,
            prompt_id=row.prompt_id,
            rows=pair[1:],
            target=row.p_chosen,
            weight=row.weight * share,
            tie=row.is_tie(tie_margin),
            margin=scale * (2 * row.p_chosen - 1),
            by_principle=by_principle(labels or {}, row),
        )
        for pair, share in zip(pairs, shares, strict=True)
        for row in [pair.preference]
    ]


def heldout_prompts(preferences: Sequence[Preference]) -> set[str]:
    """Ids of the prompts that only measure."""
    return {p.prompt_id for p in preferences if p.split == "heldout"}


def rating_lessons(
    tokenizer: Any,
    scores: Sequence[Score],
    preferences: Sequence[Preference],
    max_length: int,
    truncation: Truncation | None = None,
) -> list[Lesson]:
    """The rated responses to all prompts but those whose preferences are held out.

    DataError where there are none, or too much of them is cut.
    """
    heldout = heldout_prompts(preferences)
    rated = [score for score in scores if score.prompt_id not in heldout]
    encoded = encode_each(rated, partial(encode_rating, tokenizer), max_length, truncation)
    if not encoded:
        raise DataError("scores.jsonl: no ratings of training prompts; see label.mode and label failures")
    return [Lesson(score.id, score.prompt_id, rows, score.value, 1.0) for score, rows in encoded]


def reference_rows(
    tokenizer: Any, responses: Sequence[Response], preferences: Sequence[Preference], max_length: int
) -> list[Row]:
    """What scores are told against: the untrained policy's samples, or without any the training responses."""
    if responses:
        return [row for r in responses if r.text for row in encode_scored(tokenizer, r.prompt, [r.text], max_length)]
    pairs = encode_pairs(tokenizer, [p for p in preferences if p.split == "train"], max_length)
    return list(dict.fromkeys(row for pair in pairs for row in (pair.chosen, pair.rejected)))


# ---------------------------------------------------------------------------------------------------------- losses


class Labels(NamedTuple):
    """What the lessons of a minibatch are to teach."""

    target_NK: Tensor
    """P(the chosen one is better), by all principles together and by each; or the rating."""
    share_NK: Tensor
    """Of the minibatch's loss; a column adds up to 1, those of principles together too. 0: no such label."""
    margin_N: Tensor
    tie_N: Tensor

    def take(self, places: Sequence[int]) -> Labels:
        """Those of some lessons."""
        at_N = torch.tensor(places, device=self.tie_N.device)
        return Labels(*(column[at_N] for column in self))


def labels_of(lessons: Sequence[Lesson], principles: Sequence[str], device: torch.device) -> Labels:
    """The labels of a whole minibatch, so that shares are of its totals however it is divided afterwards."""
    target_NK = torch.tensor([[x.target, *(x.by_principle.get(p, 0.5) for p in principles)] for x in lessons])
    weight_NK = torch.tensor([[x.weight, *(x.weight * (p in x.by_principle) for p in principles)] for x in lessons])
    share_NK = weight_NK / weight_NK.sum(0).clamp(min=1e-12)  # a principle that no lesson has: 0, not NaN
    share_NK[:, 1:] /= max(1, len(principles))
    margin_N = torch.tensor([x.margin for x in lessons])
    tie_N = torch.tensor([x.tie for x in lessons])
    return Labels(*(column.to(device) for column in (target_NK, share_NK, margin_N, tie_N)))


def lesson_losses(found_NK: Tensor, labels: Labels, loss: RewardLoss) -> Tensor:
    """loss_NK, each times its share: the sum over all lessons is the minibatch's loss.

    `found_NK` holds margins, score(chosen) - score(rejected); with ratings it holds the scores. Principles' heads
    learn soft labels by Bradley-Terry, whatever the common score learns by.
    """
    own_N = _common(found_NK[:, 0], labels, loss)
    heads_NK = losses.bradley_terry_loss(found_NK[:, 1:], labels.target_NK[:, 1:], labels.share_NK[:, 1:])
    return torch.cat([own_N.unsqueeze(1), heads_NK], 1)


def _common(found_N: Tensor, labels: Labels, loss: RewardLoss) -> Tensor:
    target_N, share_N = labels.target_NK[:, 0], labels.share_NK[:, 0]
    if isinstance(loss, Regression):
        return losses.regression_loss(found_N, target_N, share_N)
    if isinstance(loss, Demonstrations):
        if loss.form == "hinge":
            return losses.hinge_loss(found_N, target_N, share_N, loss.margin)
        return losses.bradley_terry_loss(found_N, target_N, share_N, labels.margin_N)
    if isinstance(loss, BradleyTerry):
        return losses.bradley_terry_loss(found_N, target_N, share_N, labels.margin_N, loss.label_smoothing)
    if isinstance(loss, RaoKupper):
        return losses.rao_kupper_loss(found_N, target_N, labels.tie_N, share_N, loss.theta)
    return losses.davidson_loss(found_N, target_N, labels.tie_N, share_N, loss.nu)


def hits(margin_N: Tensor, labels: Labels) -> Tensor:
    """1 where the margin is on the label's side, 0.5 where it is 0 (N); an even label counts as chosen's side."""
    towards_N = torch.where(labels.target_NK[:, 0] >= 0.5, margin_N, -margin_N)
    return (towards_N > 0).float() + 0.5 * (towards_N == 0).float()
