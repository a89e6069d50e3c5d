"""What a reward model is taught: preferences and ratings as token rows, and the minibatches they come in.

A minibatch is whole prompts: every distinct response of a prompt passes through the model once, however many pairs
it is in (InstructGPT, arXiv 2203.02155, section 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rlaif.config.reward import BradleyTerry, RewardSection
from rlaif.errors import DataError
from rlaif.models.local.packing import Row
from rlaif.records import Judgment, Preference, Response, Score
from rlaif.training import losses
from rlaif.training.lessons import encode_scored
from rlaif.training.truncation import Truncation

PrincipleLabels = Mapping[str, Mapping[str, tuple[str, float]]]
"""By pair id, then principle: the text of response a, and P(a is better by that principle)."""


class EncodedPair(NamedTuple):
    """A preference as token rows."""

    preference: Preference
    chosen: Row
    rejected: Row


class RewardLesson(NamedTuple):
    """What one update may learn: a pair, of which the first row is the chosen one, or one rated response."""

    id: str
    prompt_id: str
    rows: tuple[Row, ...]
    target: float
    """P(the chosen one is better), or the rating."""
    weight: float
    tie: bool = False
    margin: float = 0.0
    """Inside the sigmoid; how far the better one must be ahead."""
    by_principle: Mapping[str, float] = {}
    """P(the chosen one is better) by each principle that was judged on this pair."""


def encode_pair(tokenizer: Any, preference: Preference, max_length: int) -> EncodedPair:
    """Conversation and responses as ids. Too long: the oldest prompt tokens go, then the responses' last ones.

    The prompt is cut for the longer response, so that both are scored after the same conversation.
    """
    sides = [side[-1].content for side in (preference.chosen, preference.rejected)]
    return EncodedPair(preference, *encode_scored(tokenizer, preference.prompt, sides, max_length))


def encode_pairs(
    tokenizer: Any, preferences: Sequence[Preference], max_length: int, truncation: Truncation | None = None
) -> list[EncodedPair]:
    """Token rows of all preferences; pairs that are identical after truncation are dropped (nothing to learn)."""
    pairs = [encode_pair(tokenizer, p, max_length) for p in preferences]
    if truncation is not None:
        for pair in pairs:
            truncation.saw(pair[1:], partial(_sides, tokenizer, pair.preference))
        truncation.check()
    return [pair for pair in pairs if pair.chosen != pair.rejected]


def _sides(tokenizer: Any, preference: Preference, max_length: int) -> tuple[Row, ...]:
    return encode_pair(tokenizer, preference, max_length)[1:]


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
) -> list[RewardLesson]:
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
        RewardLesson(
            id=row.pair_id,
            prompt_id=row.prompt_id,
            rows=(pair.chosen, pair.rejected),
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


def encode_rating(tokenizer: Any, score: Score, max_length: int) -> Row:
    """Conversation and rated response as ids."""
    (row,) = encode_scored(tokenizer, score.prompt, [score.text], max_length)
    return row


def _alone(tokenizer: Any, score: Score, max_length: int) -> tuple[Row, ...]:
    return (encode_rating(tokenizer, score, max_length),)


def rating_lessons(
    tokenizer: Any,
    scores: Sequence[Score],
    preferences: Sequence[Preference],
    max_length: int,
    truncation: Truncation | None = None,
) -> list[RewardLesson]:
    """The rated responses to all prompts but those whose preferences are held out.

    DataError where there are none, or too much of them is cut.
    """
    heldout = heldout_prompts(preferences)
    rated = [score for score in scores if score.prompt_id not in heldout]
    lessons = [
        RewardLesson(score.id, score.prompt_id, (encode_rating(tokenizer, score, max_length),), score.value, 1.0)
        for score in rated
    ]
    if truncation is not None:
        for lesson, score in zip(lessons, rated, strict=True):
            truncation.saw(lesson.rows, partial(_alone, tokenizer, score))
        truncation.check()
    if not lessons:
        raise DataError("scores.jsonl: no ratings of training prompts; see label.mode and label failures")
    return lessons


def reference_rows(
    tokenizer: Any, responses: Sequence[Response], preferences: Sequence[Preference], max_length: int
) -> list[Row]:
    """What scores are told against: the untrained policy's samples, or without any the training responses."""
    if responses:
        return [row for r in responses if r.text for row in encode_scored(tokenizer, r.prompt, [r.text], max_length)]
    pairs = encode_pairs(tokenizer, [p for p in preferences if p.split == "train"], max_length)
    return list(dict.fromkeys(row for pair in pairs for row in (pair.chosen, pair.rejected)))
