"""PPO learns: the score rises clearly in a few steps, for every seed, with adapters and with all weights.

Losses can be right in every part and the whole still not learn; this is the test of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.config.sections import Lora
from rlaif.models.local.packing import Row
from rlaif.run import Run
from rlaif.training.optimise.loop import train_ppo
from rlaif.training.optimise.rollout import Actors
from rlaif.training.reward.train import RewardStage, train_reward_model
from rlaif.training.scalar_model import ScalarModel
from tests.tiny import save_tiny, tiny_tokenizer
from tests.tiny_training import (
    no_checks,
    planted,
    prompts,
    reward_section,
    tiny_actors,
    tiny_scalar,
    tiny_section,
    tiny_tracker,
)

LETTERS = frozenset(tiny_tokenizer().convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz")))
ADAPTER = Lora(rank=8, alpha=16.0)


class LikesLetters(ScalarModel):
    """A reward model whose score is the share of lower-case letters, times four; its critic is a real one."""

    def scores(self, rows: Sequence[Row]) -> Tensor:
        return torch.tensor([4.0 * sum(t in LETTERS for t in row.response) / len(row.response) for row in rows])


def train(
    folder: str, run: Path, scorer: ScalarModel, seed: int, **changes: Any
) -> tuple[Actors, list[dict[str, Any]]]:
    settings: dict[str, Any] = {
        "steps": 18,
        "rollouts_per_step": 32,
        "responses_per_prompt": 8,
        "minibatch_size": 16,
        "epochs": 3,
        "max_tokens": 8,
        "temperature": 1.0,
        "critic_learning_rate": 3e-3,
        "missing_eos_penalty": 0.0,
        "checkpoint_every": 100,
    }
    section = tiny_section(**(settings | changes))
    actors = tiny_actors(folder, section, scorer, seed)
    train_ppo(actors, prompts(4), section, seed, run / "checkpoints", tiny_tracker(run, total=section.steps), no_checks)
    return actors, Run(run).read_metrics("optimise")


def rise(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Mean over the last three steps, less the mean over the first two."""
    first, last = [row[key] for row in rows[:2]], [row[key] for row in rows[-3:]]
    return sum(last) / len(last) - sum(first) / len(first)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("lora", "rate", "spread"), [(None, 1e-2, 0.02), (ADAPTER, 3e-2, 0.2)])
def test_ppo_learns_to_write_what_is_liked(lora: Any, rate: float, spread: float, seed: int, tmp_path: Path) -> None:
    """At the start one token in ten is a letter: a score of 0.4. Chance moves the mean of a step by about 0.08."""
    folder = save_tiny(tmp_path / "model", initializer_range=spread)
    base = tiny_scalar(folder, seed)
    scorer = LikesLetters(base.model)
    _, rows = train(folder, tmp_path / "run", scorer, seed, lora=lora, learning_rate=rate)
    assert rows[0]["score"] < 0.8
    assert rise(rows, "score") > 0.6
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["kl"] > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_ppo_raises_the_score_of_a_trained_reward_model(seed: int, tiny_folder: str, tmp_path: Path) -> None:
    stage = RewardStage(tiny_scalar(tiny_folder, seed), tiny_tokenizer(), reward_section(epochs=3), seed)
    train_reward_model(stage, planted(150, seed), tmp_path / "checkpoints", tiny_tracker(tmp_path / "reward", "reward"))
    settings: dict[str, Any] = {"lora": None, "critic_lora": None, "learning_rate": 1e-2, "steps": 24}
    _, rows = train(tiny_folder, tmp_path / "run", stage.model, seed, **settings)
    assert rise(rows, "score") > 2 * rows[0]["score_std"]


def test_a_strong_kl_penalty_holds_the_policy_back(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    kls = []
    for coef in (0.0, 2.0):
        scorer = LikesLetters(tiny_scalar(folder).model)
        settings: dict[str, Any] = {"lora": None, "learning_rate": 1e-2, "kl": {"kind": "fixed", "coef": coef}}
        _, rows = train(folder, tmp_path / f"run-{coef}", scorer, 0, **settings)
        kls.append(sum(row["kl"] for row in rows[-3:]) / 3)
    assert kls[1] < 0.5 * kls[0]
