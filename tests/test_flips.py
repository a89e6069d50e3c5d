"""Sycophancy as a cost: both sides of an opinion are answered in one step, and a flip is paid for in both answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ReferenceMode
from rlaif.config.optimise import OnPolicy
from rlaif.config.scoring import Constraint, FlipsCost, JudgeScore
from rlaif.errors import ConfigError
from rlaif.formats.given import opposite
from rlaif.models.engine import ChatRequest
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Prompt
from rlaif.rewards.sources import FlipsReward, JudgeReward
from rlaif.run_folder import Run
from rlaif.testing import letters
from rlaif.training.optimise.loop import train_policy
from rlaif.training.optimise.rollout import roll_out
from rlaif.training.optimise.updates import minibatches
from tests.tiny_training import TextReward, no_checks, tiny_actors, tiny_method, tiny_tracker
from tests.truthful import FACTS, between, constitution, contradicts, prompt, quotes, yes

COST = Constraint(name="flips", cost=FlipsCost(), limit=0.1, learning_rate=2.0)
RULES = constitution({"id": "kind", "compare": "Which is kinder?"})


def asked(number: int) -> Prompt:
    found = prompt(f"I think {number}. How much?", opposed=f"I think {number + 1}. How much?")
    return found.model_copy(update={"tags": ("opinion",)})


def twin(of: Prompt) -> Prompt:
    found = opposite(of)
    assert found is not None
    return found


def by(judge: Callable[[ChatRequest], Any]) -> FlipsReward:
    return FlipsReward(ScriptedChatModel(judge), FlipsCost(), RULES, LabelSection(), 0)


def test_a_flip_costs_both_answers_and_no_other():
    one, two, plain = asked(1), asked(2), prompt("How much?")
    items = [
        (one, "It is 5."), (one, "It is 1."), (plain, "It is 7."), (twin(one), "It is 5."), (twin(one), "It is 2."),
        (two, "It is 4."), (twin(two), "Four."),
    ]  # fmt: skip
    values = by(contradicts).score([p for p, _ in items], [text for _, text in items])
    assert values == pytest.approx([0, 0.9, 0, 0, 0.9, 0.1, 0.1], abs=1e-6)


def test_what_has_no_other_side_or_no_verdict_has_no_cost():
    one, two = asked(1), asked(2)
    assert by(contradicts).score([one, two, one, twin(one)], ["a", "b", "c", "a"]) == [0, None, None, 0]
    for judge in (lambda _: "Well.", lambda request: yes(0.9) if between("first", request) == "a" else "Well."):
        assert by(judge).score([one, twin(one)], ["a", "b"]) == [None, None]  # in one order alone is no verdict either


def test_the_judge_is_asked_in_both_orders():
    def first(request: ChatRequest) -> dict[str, float]:
        return yes(0.8 if between("first", request) == "x" else 0.2)

    assert by(first).score([asked(1), twin(asked(1))], ["x", "y"]) == pytest.approx([0.5, 0.5], abs=1e-6)


def section(**changes: Any) -> OnPolicy:
    found: OnPolicy = tiny_method("rloo", scoring=JudgeScore(), constraints=(COST,), **changes)
    return found


def reward_of(source: Any, judge: Callable[[ChatRequest], Any] = contradicts) -> Any:
    """The score is the same for all; the flips are judged."""
    return by(judge) if isinstance(source, FlipsCost) else TextReward(lambda prompts, texts: [0.0] * len(texts))


def test_a_step_answers_both_sides_and_trains_on_all(tiny_folder: str):
    of = section(minibatch_size=8)
    given = [asked(1), prompt("How much?")]
    took = roll_out(tiny_actors(tiny_folder, of, text=reward_of), given, of, 0, 0)
    texts = [p.messages[-1].content for p in took.prompts]
    n = of.responses_per_prompt
    assert texts == ["I think 1. How much?"] * n + ["I think 2. How much?"] * n + ["How much?"] * n
    assert all(p.tags == ("opinion",) for p in took.prompts[: 2 * n])
    assert took.groups(n) == [0] * n + [1] * n + [2] * n
    assert took.cost_B["flips"][:n].tolist() == took.cost_B["flips"][n : 2 * n].tolist()
    assert took.cost_B["flips"][2 * n :].tolist() == [0.0] * n
    assert sorted(place for each in minibatches(took, of, 7) for place in each) == list(range(3 * n))
    alone = tiny_method("rloo", scoring=JudgeScore())
    took = roll_out(tiny_actors(tiny_folder, alone, text=reward_of), given, alone, 0, 0)
    assert len(took.rows) == 2 * n


@pytest.mark.slow
def test_a_policy_learns_to_keep_its_mind(tiny_folder: str, tmp_path: Path):
    """Two answers contradict each other where one alone has letters: at first half do."""

    def judge(request: ChatRequest) -> dict[str, float]:
        one, other = (letters(between(tag, request)) > 0 for tag in ("first", "second"))
        return yes(float(one != other))

    of = section(
        steps=40, rollouts_per_step=32, responses_per_prompt=8, minibatch_size=32, learning_rate=1e-2, temperature=1.0,
        lora=None, kl={"kind": "fixed", "coef": 0.0}, missing_eos_penalty=0.0,
    )  # fmt: skip
    cast = tiny_actors(tiny_folder, of, text=lambda source: reward_of(source, judge))
    tracker = tiny_tracker(tmp_path / "run", total=40)
    train_policy(cast, [asked(n) for n in range(4)], of, 0, tmp_path / "checkpoints", tracker, no_checks)
    costs = [row["cost/flips"] for row in Run(tmp_path / "run").read_metrics("optimise")]
    assert sum(costs[:3]) / 3 > 0.3 and sum(costs[-3:]) / 3 < 0.1, costs


def test_a_cost_by_some_principles_alone():
    """The share of unsupported claims, whatever else the constitution asks; 0 where the principle does not apply."""
    of = constitution(
        {"id": "supported", "reference": "documents", "tags": ["documents"]}, {"id": "right", "reference": "gold"}
    )

    def values(prompts: Sequence[Prompt], *names: str) -> list[float | None]:
        source = JudgeScore(mode=ReferenceMode(), principles=names)
        reward = JudgeReward(ScriptedChatModel(quotes), source, of, LabelSection(), 0)
        return reward.score(prompts, ["The Seine flows through Paris. The moon is near."] * len(prompts))

    one = prompt(hidden=(FACTS,), gold=("Lyon",)).model_copy(update={"tags": ("documents",)})
    assert values([one, prompt()], "supported") == [-0.5, 0.0]
    assert values([one, prompt(gold=("paris",))]) == [-0.75, 0.0]
    assert values([prompt(), one], "right") == [None, -1.0]
    with pytest.raises(
        ConfigError, match="'suported' is no such principle of constitution 'c'; did you mean 'supported"
    ):
        values([one], "suported")
    assert "principles" not in JudgeScore().model_dump()


def test_a_score_is_no_place_for_flips(tmp_path: Path):
    """It looks at two prompts, which only a step has."""
    with pytest.raises(ValueError, match="flips"):
        tiny_method("rloo", scoring={"kind": "flips"})
    assert json.loads(section().model_dump_json())["constraints"][0]["cost"]["kind"] == "flips"
    assert section().both_sides and not tiny_method("rloo", scoring=JudgeScore()).both_sides
