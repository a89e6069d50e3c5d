"""Every optimiser learns: the score rises clearly in a few steps, for every seed; PPO also through adapters.

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

from rlaif.config.optimise import Dpo, OnPolicy
from rlaif.config.training import ComputeSection, Lora
from rlaif.models.local.generate import Sampling
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt
from rlaif.run_folder import Run
from rlaif.testing import save_tiny, tiny_tokenizer
from rlaif.training import offline
from rlaif.training.lessons import Lesson
from rlaif.training.offline import DpoMethod
from rlaif.training.optimise.actors import Actors
from rlaif.training.optimise.loop import train_policy
from rlaif.training.policy_model import PolicyModel
from rlaif.training.reward.train import RewardStage, train_reward_model
from rlaif.training.samplers import LocalSampler
from rlaif.training.scalar_model import ScalarModel
from tests.tiers import seeds, some
from tests.tiny_training import (
    no_checks,
    planted,
    prompts,
    reward_section,
    tiny_actors,
    tiny_method,
    tiny_scalar,
    tiny_section,
    tiny_tracker,
)

pytestmark = pytest.mark.slow  # what the fast tier has of it: test_end_to_end.py, test_optimise_learning.py
LETTERS = frozenset(tiny_tokenizer().convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz")))
ADAPTER = Lora(rank=8, alpha=16.0)


class LikesLetters(ScalarModel):
    """A reward model whose score is the share of lower-case letters, times four; its critic is a real one.

    The end of a turn, two tokens here, counts as one that is no letter.
    """

    def scores(self, rows: Sequence[Row]) -> Tensor:
        return torch.tensor(
            [4.0 * sum(t in LETTERS for t in row.response) / max(1, len(row.response) - 1) for row in rows]
        )


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
    return run_section(folder, run, scorer, seed, tiny_section(**(settings | changes)))


def run_section(
    folder: str, run: Path, scorer: ScalarModel, seed: int, section: OnPolicy
) -> tuple[Actors, list[dict[str, Any]]]:
    actors = tiny_actors(folder, section, scorer, seed)
    train_policy(
        actors, prompts(4), section, seed, run / "checkpoints", tiny_tracker(run, total=section.steps), no_checks
    )
    return actors, Run(run).read_metrics("optimise")


def rise(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Mean over the last three steps, less the mean over the first two."""
    first, last = [row[key] for row in rows[:2]], [row[key] for row in rows[-3:]]
    return sum(last) / len(last) - sum(first) / len(first)


@seeds(3)
@pytest.mark.parametrize(("lora", "rate", "spread"), [(None, 1e-2, 0.02), (ADAPTER, 2e-2, 0.2)])
def test_ppo_learns_to_write_what_is_liked(lora: Any, rate: float, spread: float, seed: int, tmp_path: Path) -> None:
    """At the start one token in ten is a letter: a score of 0.4. Chance moves the mean of a step by about 0.06."""
    folder = save_tiny(tmp_path / "model", initializer_range=spread)
    base = tiny_scalar(folder, seed)
    scorer = LikesLetters(base.model)
    size = {"rollouts_per_step": 64, "minibatch_size": 32}
    _, rows = train(folder, tmp_path / "run", scorer, seed, lora=lora, learning_rate=rate, **size)
    assert rows[0]["score"] < 0.8
    assert rise(rows, "score") > 0.6
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["kl"] > 0.5


@pytest.mark.slow  # test_end_to_end.py has one
@pytest.mark.parametrize("seed", range(3))
def test_ppo_raises_the_score_of_a_trained_reward_model(seed: int, tiny_folder: str, tmp_path: Path) -> None:
    stage = RewardStage(tiny_scalar(tiny_folder, seed), tiny_tokenizer(), reward_section(epochs=3), seed)
    train_reward_model(stage, planted(150, seed), tmp_path / "checkpoints", tiny_tracker(tmp_path / "reward", "reward"))
    settings: dict[str, Any] = {"lora": None, "critic_lora": None, "learning_rate": 1e-2, "steps": 24}
    _, rows = train(tiny_folder, tmp_path / "run", stage.model, seed, **settings)
    assert rise(rows, "score") > 2 * rows[0]["score_std"]


@pytest.mark.slow  # test_optimise_learning.py has RLOO and GRPO
def test_a_strong_kl_penalty_holds_the_policy_back(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    kls = []
    for coef in (0.0, 2.0):
        scorer = LikesLetters(tiny_scalar(folder).model)
        settings: dict[str, Any] = {"lora": None, "learning_rate": 1e-2, "kl": {"kind": "fixed", "coef": coef}}
        _, rows = train(folder, tmp_path / f"run-{coef}", scorer, 0, **settings)
        kls.append(sum(row["kl"] for row in rows[-3:]) / 3)
    assert kls[1] < 0.5 * kls[0]


# ------------------------------------------------------------------------------------------- every optimiser

START, TARGET = 0.4, 6.0


def held(kind: str, folder: str, run: Path, seed: int, kl: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of a run of this method for letters, under this KL control."""
    section = tiny_method(
        kind,
        steps=28,
        rollouts_per_step=32,
        responses_per_prompt=8,
        minibatch_size=16,
        max_tokens=8,
        temperature=1.0,
        learning_rate=1e-2,
        lora=None,
        missing_eos_penalty=0.0,
        checkpoint_every=100,
        kl=kl,
        **({"critic_lora": None, "critic_learning_rate": 3e-3} if kind == "ppo" else {}),
    )
    return run_section(folder, run, LikesLetters(tiny_scalar(folder, seed).model), seed, section)[1]


def last(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Mean over the last eight steps."""
    return sum(row[key] for row in rows[-8:]) / 8


@seeds(3)
@some("kind", ["grpo"], ["ppo", "reinforce", "rloo"])
def test_the_score_rises_and_the_adaptive_coefficient_holds_the_kl(
    kind: str, seed: int, tiny_folder: str, tmp_path: Path
) -> None:
    """Left alone the policy goes to 15 nats and more. Chance moves the mean score of a step by about 0.08."""
    rows = held(kind, tiny_folder, tmp_path, seed, {"kind": "adaptive", "coef": START, "target": TARGET, "gain": 0.3})
    assert rows[0]["score"] < 0.8
    assert rise(rows, "score") > 1.0
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert 0.5 * TARGET < last(rows, "kl") < 1.7 * TARGET
    assert rows[-1]["kl_coef"] != START


@pytest.mark.slow
def test_without_control_the_kl_leaves_the_target_behind(tiny_folder: str, tmp_path: Path) -> None:
    rows = held("grpo", tiny_folder, tmp_path, 0, {"kind": "fixed", "coef": 0.02})
    assert last(rows, "kl") > 2 * TARGET


@seeds(3)
def test_dpo_writes_what_was_preferred_among_its_own_responses(seed: int, tiny_folder: str, tmp_path: Path) -> None:
    """Without a reward model or a rollout while it learns: the score is that of fresh responses, before and after."""
    policy = PolicyModel.load(tiny_folder, None, torch.float32)
    scorer = LikesLetters(tiny_scalar(tiny_folder).model)

    def write(count: int, first: int) -> list[Row]:
        asked = [tuple(encode_prompt(policy.tokenizer, p.messages)) for p in prompts(4) for _ in range(count)]
        own = [10_000 * seed + first + i for i in range(len(asked))]
        written = LocalSampler(policy).sample(asked, Sampling(max_tokens=8, temperature=1.0), own)
        return [Row(prompt, tuple(each.tokens)) for prompt, each in zip(asked, written, strict=True)]

    section = Dpo(epochs=3, minibatch_size=16, learning_rate=3e-3, lora=None)
    rows = write(256, 0)
    score = dict(zip(rows, scorer.scores(rows).tolist(), strict=True))
    pairs = [sorted(pair, key=lambda row: -score[row]) for pair in zip(rows[::2], rows[1::2], strict=True)]
    unequal = [(a, b) for a, b in pairs if score[a] > score[b]]
    lessons = [Lesson(f"pair {i}", f"prompt {i}", rows, 1.0, 1.0) for i, rows in enumerate(unequal)]
    reference_NK = offline.look_at(policy, lessons, section.microbatch_tokens)
    before = float(scorer.scores(write(32, 5000)).mean())
    offline.make_learner(policy, section.lora, seed, ComputeSection())
    method = DpoMethod(lessons, reference_NK, section)
    offline.train(policy, method, section, seed, tmp_path / "checkpoints", tiny_tracker(tmp_path / "run"))
    after = float(scorer.scores(write(32, 5000)).mean())
    assert before < 0.8
    assert after > before + 0.6
