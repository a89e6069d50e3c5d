"""The one loop of all methods: killed and continued to the same bits, stopped at the right step, fair to failures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.config.optimise import AdaptiveKl, OnPolicy
from rlaif.config.rollouts import Replay, StopRules
from rlaif.config.scoring import ChecksScore, Constraint, HeldoutJudge, LengthScore, ModelScore, Part, SumScore
from rlaif.errors import TrainingError
from rlaif.models.local.packing import Row
from rlaif.records import Prompt
from rlaif.run_folder import Run
from rlaif.training.optimise import watch
from rlaif.training.optimise.actors import Actors, modules_of
from rlaif.training.optimise.estimators import State, make_targets
from rlaif.training.optimise.loop import train_policy
from rlaif.training.optimise.rollout import Rollouts, roll_out
from rlaif.training.optimise.updates import minibatches
from rlaif.training.samplers import LocalSampler
from tests.tiers import some
from tests.tiny_training import (
    Killed,
    TextReward,
    dies_at,
    no_checks,
    no_text,
    prompts,
    same,
    tiny_actors,
    tiny_method,
    tiny_tracker,
    weights,
)

PROMPTS = prompts(6)


def train(folder: str, run: Path, section: OnPolicy, checks: Any = no_checks, text: Any = no_text) -> Actors:
    actors = tiny_actors(folder, section, text=text)
    train_policy(actors, PROMPTS, section, 0, run / "checkpoints", tiny_tracker(run), checks)
    return actors


def rows_of(run: Path) -> list[dict[str, Any]]:
    return Run(run).read_metrics("optimise")


def everything(actors: Actors) -> dict[str, Tensor]:
    return weights(actors.policy.model, *(modules_of(actors.critic) if actors.critic else []))


# -------------------------------------------------------------------------------------------------- resuming


COST = Constraint(name="long", cost=LengthScore(per=1), limit=3.0, learning_rate=0.2)
WAYS: dict[str, dict[str, Any]] = {
    "ppo": {"kind": "ppo", "kl": AdaptiveKl(coef=0.05, target=0.01, gain=0.5)},
    "ppo, shared critic": {"kind": "ppo", "critic": "shared", "critic_learning_rate": 1e-2},
    "reinforce": {"kind": "reinforce", "baseline_decay": 0.5},
    "rloo, constrained": {"kind": "rloo", "constraints": (COST,)},
    "grpo": {"kind": "grpo", "kl": AdaptiveKl(coef=0.05, target=0.01, gain=0.5)},
    "rloo, replayed": {"kind": "rloo", "replay": Replay(steps=2, updates=2, responses=5, cap=1.5)},
    "grpo, watched": {"kind": "grpo", "stop": StopRules(length_factor=1.01, kl=1e-6, patience=100)},
}


@some("way", ["ppo"], [way for way in WAYS if way != "ppo"])
def test_a_run_killed_again_and_again_ends_in_the_same_bits(way: str, shallow_folder: str, tmp_path: Path) -> None:
    """Killed after the updates and before the row: every start but the last gets one step beyond what it keeps."""
    section = tiny_method(**WAYS[way])
    undisturbed = train(shallow_folder, tmp_path / "0", section)
    for every, least in ((1, 3), (2, 1)):
        section = tiny_method(**WAYS[way], checkpoint_every=every)
        kills, resumed = 0, None
        while resumed is None:
            try:
                resumed = train(shallow_folder, tmp_path / f"{every}", section, dies_at(every + 1 if kills < 3 else 0))
            except Killed:
                kills += 1
        assert kills >= least
        metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("0", f"{every}")]
        assert metrics[0] == metrics[1]
        assert same(everything(resumed), everything(undisturbed))


# -------------------------------------------------------------------------------------------------- stopping


@some("every", [1], [100])
def test_a_limit_stops_the_run_after_so_many_steps_in_a_row(every: int, shallow_folder: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "learning_rate": 2e-2, "checkpoint_every": every}
    train(shallow_folder, tmp_path / "free", tiny_method("rloo", **settings))
    free = rows_of(tmp_path / "free")
    kls = [row["kl"] for row in free]
    first = next(i for i in range(1, 5) if min(kls[i : i + 2]) > max(kls[:i]))
    limit = (max(kls[:first]) + min(kls[first : first + 2])) / 2
    section = tiny_method("rloo", stop=StopRules(kl=limit, patience=2), **settings)
    with pytest.raises(TrainingError) as stopped:
        train(shallow_folder, tmp_path / "watched", section)
    line = str(stopped.value)
    assert "\n" not in line
    assert line.startswith(f"rloo step {first + 1}: kl is {kls[first + 1]:.4g}, above optimise.stop.kl ({limit:g}) ")
    assert "for 2 steps in a row; prompts ['" in line
    assert str(tmp_path / "watched" / "checkpoints") in line
    rows = rows_of(tmp_path / "watched")
    assert rows[:-1] == free[: first + 1]
    assert rows[-1].items() <= free[first + 1].items()  # what was seen, without the updates that were not made
    assert "policy_loss" not in rows[-1]
    kept = [path.name for path in (tmp_path / "watched" / "checkpoints").glob("*.pt")]
    assert kept == [f"step-{first:06d}.pt"]  # the state before the first step past the limit
    with pytest.raises(TrainingError) as again:
        train(shallow_folder, tmp_path / "watched", section)
    assert str(again.value) == line


ROW = {"kl": 5.0, "entropy": 1.0, "response_tokens": 20.0}


@pytest.mark.parametrize(
    ("rules", "passed"),
    [
        ({"kl": 4.9}, ["kl"]),
        ({"kl": 5.0}, []),
        ({"entropy": 1.1}, ["entropy"]),
        ({"entropy": 1.0}, []),
        ({"length_factor": 1.9}, ["length_factor"]),
        ({"length_factor": 2.0}, []),
        ({"kl": 1, "entropy": 0.5, "length_factor": 1.5}, ["kl", "length_factor"]),
        ({}, []),
    ],
)
def test_which_limits_a_step_passes(rules: dict[str, float], passed: list[str]) -> None:
    state = State(0.1, first_tokens=10.0, beyond={"kl": 1})
    found = watch.limits(StopRules(**rules), ROW, state)
    assert list(watch.beyond(found, state)) == passed
    assert watch.beyond(found, state).get("kl", 2) == 2  # the second in a row


def test_steps_in_a_row_are_counted_anew_after_a_good_one() -> None:
    rules = StopRules(kl=4.0, patience=2)
    counts: dict[str, int] = {}
    stopped = []
    for kl in (5.0, 3.0, 5.0, 5.0):
        state = State(0.1, beyond=counts)
        found = watch.limits(rules, ROW | {"kl": kl}, state)
        counts = watch.beyond(found, state)
        stopped.append(watch.broken(rules, found, counts) is not None)
    assert stopped == [False, False, False, True]


# ---------------------------------------------------------------------------------------------------- scores


def by_text(score: Any) -> Any:
    return lambda source: TextReward(score)


def by_place(values: Sequence[float | None]) -> Any:
    """These, one for each place of a step, whatever was written."""
    return lambda prompts, texts: [values[i % len(values)] for i in range(len(texts))]


def test_what_has_no_score_is_left_out_and_counted(shallow_folder: str, tmp_path: Path) -> None:
    section = tiny_method("rloo", scoring=ChecksScore(), minibatch_size=8)
    values = [0.0, 1.0, None, 3.0, 4.0, 5.0, 6.0, 7.0]
    actors = tiny_actors(shallow_folder, section, text=by_text(by_place(values)))
    object.__setattr__(actors.rewards, "max_failures", 0.2)
    whole = roll_out(tiny_actors(shallow_folder, section, text=by_text(by_place([1.0]))), PROMPTS[:2], section, 0, 0)
    took = roll_out(actors, PROMPTS[:2], section, 0, 0)
    assert took.score_B.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert took.places == [0, 1, 3, 4, 5, 6, 7]
    assert took.groups(4) == [0, 0, 0, 1, 1, 1, 1]
    assert took.rows == [row for i, row in enumerate(whole.rows) if i != 2]
    width = took.mask_BT.shape[1]
    kept = [0, 1, 3, 4, 5, 6, 7]
    for name in ("mask_BT", "logprobs_BT", "ref_logprobs_BT"):
        ours, all_of_them = getattr(took, name).float(), getattr(whole, name).float()
        assert float((ours - all_of_them[kept, :width]).abs().max()) < 1e-5
    assert sorted(minibatches(took, section, 1)[0]) == list(range(7))
    train_policy(actors, PROMPTS, section, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path), no_checks)
    assert [row["unscored"] for row in rows_of(tmp_path)] == [0.125] * 4
    assert [row["score"] for row in rows_of(tmp_path)] == pytest.approx([26 / 7] * 4)


def test_a_response_without_a_score_moves_no_other_into_another_minibatch(shallow_folder: str) -> None:
    section = tiny_method("rloo", scoring=ChecksScore(), responses_per_prompt=2, minibatch_size=4)
    cut = []
    for values in ([1.0] * 8, [1.0, 1.0, 1.0, None, 1.0, 1.0, 1.0, 1.0]):
        actors = tiny_actors(shallow_folder, section, text=by_text(by_place(values)))
        object.__setattr__(actors.rewards, "max_failures", 0.2)
        took = roll_out(actors, PROMPTS[:4], section, 0, 0)
        cut.append([[took.places[i] for i in minibatch] for minibatch in minibatches(took, section, 3)])
    assert cut[1] == [[place for place in minibatch if place != 3] for minibatch in cut[0]]


@pytest.mark.parametrize(("failed", "limit"), [(2, 0.2), (1, 0.0), (8, 1.0)])
def test_too_many_without_a_score_stop_the_run(failed: int, limit: float, shallow_folder: str) -> None:
    section = tiny_method("grpo", scoring=ChecksScore())
    values = [None] * failed + [1.0] * (8 - failed)
    actors = tiny_actors(shallow_folder, section, text=by_text(by_place(values)))
    object.__setattr__(actors.rewards, "max_failures", limit)
    with pytest.raises(TrainingError, match=rf"^grpo step 3: {failed} of 8 responses have no score \(.*max_failures$"):
        roll_out(actors, PROMPTS[:2], section, 3, 0)


def test_gold_is_asked_in_its_turn_and_teaches_nothing(shallow_folder: str, tmp_path: Path) -> None:
    asked: list[int] = []

    def gold(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        asked.append(len(texts))
        return [0.25, None, 0.75, *[0.5] * (len(texts) - 3)]

    settings: dict[str, Any] = {"steps": 5}
    without = train(shallow_folder, tmp_path / "a", tiny_method("rloo", **settings))
    section = tiny_method("rloo", gold=HeldoutJudge(source=ChecksScore(), every=3, responses=3), **settings)
    with_gold = train(shallow_folder, tmp_path / "b", section, text=by_text(gold))
    assert asked == [3, 3]
    rows = rows_of(tmp_path / "b")
    assert [row["step"] for row in rows if "gold" in row] == [0, 3]
    assert {row.pop("gold", 0.5) for row in rows} == {0.5}
    assert [row.pop("gold_unscored") for row in rows if "gold_unscored" in row] == pytest.approx([1 / 3] * 2)
    assert rows == rows_of(tmp_path / "a")
    assert same(everything(with_gold), everything(without))


def test_a_constraint_prices_its_cost_until_the_policy_keeps_the_limit(shallow_folder: str, tmp_path: Path) -> None:
    """The score asks for length, the constraint for at most 4 tokens of 8; in a quarter of the steps it is won."""
    settings: dict[str, Any] = {
        "steps": 20,
        "rollouts_per_step": 32,
        "responses_per_prompt": 8,
        "minibatch_size": 32,
        "epochs": 1,
        "max_tokens": 8,
        "temperature": 1.0,
        "lora": None,
        "learning_rate": 1e-2,
        "missing_eos_penalty": 0.0,
        "scoring": SumScore(parts=(Part(source=LengthScore(per=8)),)),
        "checkpoint_every": 100,
    }
    cost = Constraint(name="long", cost=LengthScore(per=1), limit=4.0, learning_rate=0.1)
    train(shallow_folder, tmp_path / "free", tiny_method("rloo", **settings))
    train(shallow_folder, tmp_path / "held", tiny_method("rloo", **settings, constraints=(cost,)))
    free, held = rows_of(tmp_path / "free"), rows_of(tmp_path / "held")
    price = 0.0
    for row in held:
        assert row["lambda/long"] == pytest.approx(price)
        assert row["cost/long"] == pytest.approx(row["response_tokens"])
        price = max(0.0, price + 0.1 * (row["cost/long"] - 4.0))
    assert max(row["lambda/long"] for row in held) > held[0]["lambda/long"] == 0
    assert sum(row["response_tokens"] for row in free[-3:]) / 3 > 6
    assert sum(row["response_tokens"] for row in held[-3:]) / 3 < 4.5


def test_the_parts_of_a_sum_are_logged(shallow_folder: str, tmp_path: Path) -> None:
    parts = (Part(source=ModelScore(), weight=2.0), Part(source=LengthScore(per=10), weight=-1.0))
    train(shallow_folder, tmp_path, tiny_method("reinforce", scoring=SumScore(parts=parts), steps=1))
    [row] = rows_of(tmp_path)
    assert row["score/length"] == pytest.approx(row["response_tokens"] / 10)
    assert row["score"] == pytest.approx(2 * row["score/reward_model"] - row["score/length"], abs=1e-5)


# -------------------------------------------------------------------------------------------------- watching


def test_what_is_watched_is_what_it_is_called() -> None:
    texts = ["a b c d a b c d", "one two three four five", "x"]
    took = Rollouts(
        prompts=PROMPTS[:3],
        rows=[Row((5,), (7, 8)), Row((5,), (9,)), Row((6,), (7, 7))],
        texts=texts,
        finished=[True, False, True],
        mask_BT=torch.tensor([[True, True], [True, False], [True, True]]),
        logprobs_BT=torch.tensor([[-1.0, -2.0], [-0.5, 0.0], [-1.5, -1.0]]),
        ref_logprobs_BT=torch.tensor([[-2.0, -2.0], [-1.0, 0.0], [-1.0, -3.0]]),
        entropy_BT=torch.tensor([[1.0, 2.0], [3.0, 9.0], [4.0, 5.0]]) * torch.tensor([[1, 1], [1, 0], [1, 1]]),
        score_B=torch.tensor([1.0, 2.0, 6.0]),
        places=[0, 1, 3],
        sampler_logprobs_BT=torch.tensor([[-1.5, -2.0], [-0.5, 7.0], [-1.0, -1.0]]),
        cost_B={"long": torch.tensor([1.0, 2.0, 6.0])},
        parts={"judge": torch.tensor([0.0, 0.0, 1.5])},
        unscored=0.25,
    )
    state = State(0.1, baseline=0.5, multipliers={"long": 0.7})
    targets = make_targets(took, tiny_method("reinforce", missing_eos_penalty=0.0, constraints=(COST,)), state)
    row = watch.summarise(took, targets, state)
    assert row["score"] == 3.0
    assert row["score_std"] == pytest.approx((14 / 3) ** 0.5)
    assert row["kl"] == pytest.approx((1.0 + 0.5 + 1.5) / 3)
    assert row["response_tokens"] == pytest.approx(5 / 3)
    assert row["finished"] == pytest.approx(2 / 3)
    assert row["entropy"] == pytest.approx(15 / 5)
    assert row["repetition"] == pytest.approx((1 / 5 + 0 + 0) / 3)  # five runs of four words, one of them twice
    assert row["ref_perplexity"] == pytest.approx(math.exp(9 / 5))
    assert row["sampler_gap"] == pytest.approx((0.5 + 0.5) / 5)
    assert row["unscored"] == 0.25
    assert (row["cost/long"], row["lambda/long"], row["score/judge"]) == (3.0, 0.7, 0.5)
    assert (row["baseline"], row["kl_coef"]) == (0.5, 0.1)
    assert "explained_variance" not in row


def test_the_writer_is_brought_up_to_date_before_every_step(shallow_folder: str, tmp_path: Path) -> None:
    section = tiny_method("rloo", steps=3)
    actors = tiny_actors(shallow_folder, section)
    calls: list[tuple[str, float]] = []

    class Spy:
        """The policy's own sampler, and what the policy was when it was called."""

        def sync(self) -> None:
            calls.append(("sync", self.now()))

        def sample(self, *arguments: Any) -> Any:
            calls.append(("sample", self.now()))
            return LocalSampler(actors.policy).sample(*arguments)

        def now(self) -> float:
            return sum(float(p.abs().sum()) for p in weights(actors.policy.model).values())

    actors = dataclasses.replace(actors, sampler=Spy())
    train_policy(actors, PROMPTS, section, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path), no_checks)
    assert [name for name, _ in calls] == ["sync", "sample"] * 3
    assert all(synced == sampled for (_, synced), (_, sampled) in zip(calls[::2], calls[1::2], strict=True))
    assert len({now for _, now in calls}) == 3


def test_what_is_high_for_what_is_good_can_be_a_cost(shallow_folder: str) -> None:
    cost = COST.model_copy(update={"sign": -1, "limit": -3.0})
    section = tiny_method("rloo", constraints=(cost,))
    took = roll_out(tiny_actors(shallow_folder, section), PROMPTS[:2], section, 0, 0)
    assert took.cost_B["long"].tolist() == [-len(row.response) for row in took.rows]


def test_a_response_without_a_cost_is_left_out(shallow_folder: str) -> None:
    section = tiny_method("rloo", constraints=(COST.model_copy(update={"cost": ChecksScore()}),))
    actors = tiny_actors(shallow_folder, section, text=by_text(by_place([0.5, None, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])))
    object.__setattr__(actors.rewards, "max_failures", 0.2)
    took = roll_out(actors, PROMPTS[:2], section, 0, 0)
    assert took.places == [0, 2, 3, 4, 5, 6, 7]
    assert took.cost_B["long"].tolist() == [0.5, 2, 3, 4, 5, 6, 7]
