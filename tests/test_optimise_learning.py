"""Every method learns: the score rises clearly in a few steps, for every seed, and the KL stays where it should.

PPO with a critic of its own is in test_learning.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaif.config.scoring import ChecksScore
from rlaif.records import Prompt
from rlaif.run_folder import Run
from rlaif.testing import save_tiny
from rlaif.training.optimise.loop import train_policy
from tests.tiers import seeds, some
from tests.tiny_training import TextReward, no_checks, prompts, tiny_actors, tiny_method, tiny_tracker

WAYS: dict[str, dict[str, Any]] = {
    "ppo": {"critic": "shared", "critic_learning_rate": 1e-2, "epochs": 2},
    "reinforce": {"baseline_decay": 0.5},
    "rloo": {},
    "grpo": {},
}


def likes_letters(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
    """The share of lower-case letters among all characters, times four."""
    return [4.0 * sum(c.islower() and c.isascii() for c in text) / max(1, len(text)) for text in texts]


def train(folder: Path, kind: str, seed: int, **changes: Any) -> list[dict[str, Any]]:
    model = save_tiny(folder / "model")
    settings: dict[str, Any] = {
        "steps": 12,
        "rollouts_per_step": 32,
        "responses_per_prompt": 8,
        "minibatch_size": 32,
        "epochs": 1,
        "max_tokens": 8,
        "temperature": 1.0,
        "lora": None,
        "learning_rate": 2e-2,
        "missing_eos_penalty": 0.0,
        "scoring": ChecksScore(),
        "checkpoint_every": 100,
    }
    section = tiny_method(kind, **(settings | WAYS[kind] | changes))
    actors = tiny_actors(model, section, seed=seed, text=lambda source: TextReward(likes_letters))
    train_policy(actors, prompts(4), section, seed, folder / "checkpoints", tiny_tracker(folder), no_checks)
    return Run(folder).read_metrics("optimise")


@seeds(3)
@pytest.mark.parametrize("kind", WAYS)
def test_the_method_learns_to_write_what_is_liked(kind: str, seed: int, tmp_path: Path) -> None:
    """At the start one token in ten is a letter. Chance moves the mean of a step by about 0.1."""
    rows = train(tmp_path, kind, seed)
    first, last = (sum(row["score"] for row in part) / len(part) for part in (rows[:2], rows[-3:]))
    assert first < 1.0
    assert last - first > 0.8


@some("kind", ["rloo"], ["grpo"])
def test_the_penalty_holds_the_kl_back(kind: str, tmp_path: Path) -> None:
    """In the reward (RLOO) as in the loss (GRPO)."""
    held, free = (
        train(tmp_path / f"{coef}", kind, 0, kl={"kind": "fixed", "coef": coef}, steps=14) for coef in (1.0, 0.0)
    )
    kl_held, kl_free = (sum(row["kl"] for row in rows[-5:]) / 5 for rows in (held, free))
    assert 0.1 < kl_held < 0.3 * kl_free
    assert kl_free > 3
