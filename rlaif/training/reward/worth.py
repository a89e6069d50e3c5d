"""What finished reward models say of held-out preferences: the rows from which evaluation tells what they are worth.

Shape suffixes: M members, N pairs or rated responses, K scores of a row (the common one, then one a principle).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rlaif.config.reward import RewardSection
from rlaif.records import Preference, Score
from rlaif.training.reward.data import PrincipleLabels, by_principle, encode_pairs, encode_rating, heldout_prompts
from rlaif.training.reward.train import score_rows
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.truncation import Truncation


class HeldoutScores(NamedTuple):
    """What is said of one held-out preference; margin = score(chosen) - score(rejected)."""

    pair_id: str
    prompt_id: str
    source: str
    p_chosen: float
    margin: float
    """The mean over the members."""
    margins: tuple[float, ...] = ()
    """Each member's, where there are several."""
    heads: Mapping[str, Mapping[str, float]] = {}
    """By principle: `margin`, of that principle's head, and `p_chosen`, that principle's own label."""

    def row(self) -> dict[str, Any]:
        """Without the fields that this kind of reward model has not."""
        return {name: value for name, value in self._asdict().items() if value not in ((), {})}


def score_heldout(
    models: Iterable[ScalarModel],
    tokenizer: Any,
    section: RewardSection,
    preferences: Sequence[Preference],
    labels: PrincipleLabels | None = None,
    truncation: Truncation | None = None,
) -> list[HeldoutScores]:
    """What these models, the members or the only one, say of the rows of split `heldout`, in order."""
    rows = [p for p in preferences if p.split == "heldout"]
    pairs = encode_pairs(tokenizer, rows, section.max_length, truncation)
    if not pairs:
        return []
    found, names = [], tuple[str, ...]()
    for model in models:
        names = model.heads.names if model.heads else ()
        chosen_NK = score_rows(model, [pair.chosen for pair in pairs], section.microbatch_tokens)
        rejected_NK = score_rows(model, [pair.rejected for pair in pairs], section.microbatch_tokens)
        found.append(chosen_NK - rejected_NK)
    margin_MNK = torch.stack(found)
    mean_NK = margin_MNK.mean(0).tolist()
    heldout = []
    for i, pair in enumerate(pairs):
        preference, own = pair.preference, by_principle(labels or {}, pair.preference)
        members = tuple(round(value, 6) for value in margin_MNK[:, i, 0].tolist())
        heldout.append(
            HeldoutScores(
                preference.pair_id,
                preference.prompt_id,
                preference.source,
                preference.p_chosen,
                round(mean_NK[i][0], 6),
                members if len(members) > 1 else (),
                {
                    name: {"margin": round(value, 6), "p_chosen": own[name]}
                    for name, value in zip(names, mean_NK[i][1:], strict=True)
                    if name in own
                },
            )
        )
    return heldout


class RatedResponse(NamedTuple):
    """What is said of one held-out response that was rated; scores and ratings have zeros of their own."""

    id: str
    prompt_id: str
    rating: float
    score: float
    """The mean over the members."""


def score_ratings(
    models: Iterable[ScalarModel],
    tokenizer: Any,
    section: RewardSection,
    scores: Sequence[Score],
    preferences: Sequence[Preference],
) -> list[RatedResponse]:
    """What these models say of the rated responses to prompts whose preferences are held out, in order."""
    heldout = heldout_prompts(preferences)
    rated = [score for score in scores if score.prompt_id in heldout]
    if not rated:
        return []
    rows = [encode_rating(tokenizer, each, section.max_length) for each in rated]
    found_MN = torch.stack([score_rows(model, rows, section.microbatch_tokens)[:, 0] for model in models])
    return [
        RatedResponse(each.id, each.prompt_id, each.value, round(value, 6))
        for each, value in zip(rated, found_MN.mean(0).tolist(), strict=True)
    ]
