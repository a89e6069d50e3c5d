"""A finished reward model on pairs that it may never have seen: for routing, and for accuracy on people's labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rlaif.config.models import Dtype
from rlaif.config.reward import RewardSection
from rlaif.models.local.dtype import torch_dtype
from rlaif.models.local.load import load_tokenizer
from rlaif.records import Pair
from rlaif.training.lessons import encode_scored
from rlaif.training.reward.ensemble import each_member, member_folders
from rlaif.training.reward.train import score_rows
from rlaif.training.scalar_model import ScalarModel


def score_pairs(folder: Path, section: RewardSection, dtype: Dtype, pairs: Sequence[Pair]) -> dict[str, float]:
    """score(a) - score(b) by pair id, as each pair is held; of an ensemble the members' mean."""
    if not pairs:
        return {}
    members = member_folders(folder)
    tokenizer = load_tokenizer(str(members[0] if members else folder))
    rows = [
        row for pair in pairs for row in encode_scored(tokenizer, pair.prompt, [pair.a, pair.b], section.max_length)
    ]
    models = each_member(folder, torch_dtype(dtype)) if members else [ScalarModel.load(folder, torch_dtype(dtype))]
    score_MN = torch.stack([score_rows(model, rows, section.microbatch_tokens)[:, 0] for model in models])
    score_N = score_MN.mean(0)
    margins = (score_N[0::2] - score_N[1::2]).tolist()
    return {pair.id: round(margin, 6) for pair, margin in zip(pairs, margins, strict=True)}
