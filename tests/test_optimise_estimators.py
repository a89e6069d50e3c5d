"""What a step teaches, method by method: targets of hand-made rollouts against the definitions, written out here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.config.optimise import AdaptiveKl, Grpo, OnPolicy, Reinforce, Rloo
from rlaif.config.scoring import Constraint, LengthScore
from rlaif.models.local.packing import Row, response_mask
from rlaif.training.optimise.estimators import State, Targets, make_targets
from rlaif.training.optimise.rollout import Rollouts
from tests.tiny_training import prompts

KINDS: dict[str, type[OnPolicy]] = {"reinforce": Reinforce, "rloo": Rloo, "grpo": Grpo}


def section_of(kind: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "rollouts_per_step": 4,
        "minibatch_size": 4,
        "responses_per_prompt": 2,
        "whiten_advantages": False,
        "missing_eos_penalty": 0.5,
    }
    return KINDS[kind](**(settings | changes))


def by_hand(**changes: Any) -> Rollouts:
    """Two prompts, two responses each, of 3, 1, 2 and 2 tokens; the second one of the first prompt was cut off."""
    lengths = (3, 1, 2, 2)
    rows = [Row((5, 6), tuple(range(10, 10 + length))) for length in lengths]
    mask_BT = response_mask(rows, "cpu")
    fields: dict[str, Any] = {
        "prompts": [prompt for prompt in prompts(2) for _ in range(2)],
        "rows": rows,
        "texts": [""] * 4,
        "finished": [True, False, True, True],
        "mask_BT": mask_BT,
        "logprobs_BT": torch.tensor([[-1.0, -2.0, -1.0], [-0.5, 0, 0], [-1.0, -1.0, 0], [-3.0, -1.0, 0]]),
        "ref_logprobs_BT": torch.tensor([[-1.5, -1.0, -2.0], [-1.5, 0, 0], [-1.0, -2.0, 0], [-1.0, -1.0, 0]]),
        "entropy_BT": torch.zeros(mask_BT.shape),
        "score_B": torch.tensor([1.0, 3.0, -1.0, 2.0]),
        "places": [0, 1, 2, 3],
    }
    return Rollouts(**(fields | changes))


KL = [0.5, 1.0, 1.0, -2.0]  # sums over tokens of logprob - reference
LEARNT = [1.0, 2.5, -1.0, 2.0]  # the score, less 0.5 where it was cut off


def on_tokens(advantages: list[float]) -> Tensor:
    return torch.tensor(
        [[a if t < n else 0.0 for t in range(3)] for a, n in zip(advantages, (3, 1, 2, 2), strict=True)]
    )


def check(targets: Targets, advantages: list[float], rewards: list[float]) -> None:
    torch.testing.assert_close(targets.advantages_BT, on_tokens(advantages))
    torch.testing.assert_close(targets.reward_B, torch.tensor(rewards))
    torch.testing.assert_close(targets.kl_BT.sum(1), torch.tensor(KL))
    assert targets.returns_BT is None


REWARDS = [score - 0.1 * kl for score, kl in zip(LEARNT, KL, strict=True)]


def test_rloo_takes_the_mean_of_the_prompts_others() -> None:
    a, b, c, d = REWARDS
    check(make_targets(by_hand(), section_of("rloo"), State(0.1)), [a - b, b - a, c - d, d - c], REWARDS)


def test_reinforce_takes_the_moving_average_of_earlier_steps() -> None:
    targets = make_targets(by_hand(), section_of("reinforce"), State(0.1, baseline=0.75))
    check(targets, [reward - 0.75 for reward in REWARDS], REWARDS)


@pytest.mark.parametrize(("decay", "baseline"), [(0.9, None), (0.0, 0.75)])
def test_reinforce_without_an_average_takes_the_mean_of_the_steps_others(decay: float, baseline: float | None) -> None:
    targets = make_targets(by_hand(), section_of("reinforce", baseline_decay=decay), State(0.1, baseline=baseline))
    check(targets, [r - (sum(REWARDS) - r) / 3 for r in REWARDS], REWARDS)


@pytest.mark.parametrize("scale", ["std", "none"])
def test_grpo_compares_scores_within_the_group_and_keeps_the_kl_for_the_loss(scale: str) -> None:
    targets = make_targets(by_hand(), section_of("grpo", scale=scale), State(0.1))
    expected = []
    for pair in (LEARNT[:2], LEARNT[2:]):
        mean = sum(pair) / 2
        std = math.sqrt(sum((x - mean) ** 2 for x in pair) / 1) + 1e-6
        expected += [(x - mean) / (std if scale == "std" else 1.0) for x in pair]
    check(targets, expected, LEARNT)
    assert targets.kl_loss_coef == 0.1
    assert make_targets(by_hand(), section_of("rloo"), State(0.1)).kl_loss_coef == 0.0


def without(rollouts: Rollouts, gone: int) -> dict[str, Any]:
    """The fields of the rollouts when one of them has no score."""
    kept = [i for i in range(4) if i != gone]
    tensors = ("mask_BT", "logprobs_BT", "ref_logprobs_BT", "entropy_BT", "score_B")
    lists = ("prompts", "rows", "texts", "finished", "places")
    return {name: getattr(rollouts, name)[kept] for name in tensors} | {
        name: [getattr(rollouts, name)[i] for i in kept] for name in lists
    }


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_a_response_whose_groups_others_have_no_score_teaches_nothing(kind: str) -> None:
    section = section_of(kind)
    whole = make_targets(by_hand(), section, State(0.1))
    left = make_targets(by_hand(**without(by_hand(), 1)), section, State(0.1))
    assert left.advantages_BT[0].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(left.advantages_BT[1:], whole.advantages_BT[2:])


def test_advantages_of_a_method_without_critic_are_whitened_over_tokens_if_asked() -> None:
    targets = make_targets(by_hand(), section_of("rloo", whiten_advantages=True), State(0.1))
    real = targets.advantages_BT[by_hand().mask_BT]
    assert float(real.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(real.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)


COSTS = (
    Constraint(name="long", cost=LengthScore(), limit=1.0, learning_rate=0.5),
    Constraint(name="dull", cost=LengthScore(), limit=2.0, learning_rate=0.5, start=1.0),
)


def test_costs_are_taken_from_the_score_at_their_multipliers_price() -> None:
    costs = {"long": torch.tensor([4.0, 0.0, 2.0, 2.0]), "dull": torch.tensor([1.0, 1.0, 0.0, 3.0])}
    state = State(0.1, multipliers={"long": 0.5, "dull": 1.5})
    targets = make_targets(by_hand(cost_B=costs), section_of("grpo", constraints=COSTS), state)
    raw = [1.0, 3.0, -1.0, 2.0]
    expected = [
        (score - 0.5 * long - 1.5 * dull) / 3.0 - (0.5 if place == 1 else 0.0)
        for place, (score, long, dull) in enumerate(zip(raw, [4, 0, 2, 2], [1, 1, 0, 3], strict=True))
    ]
    assert targets.reward_B.tolist() == pytest.approx(expected)


def test_the_next_state_follows_from_the_row_alone() -> None:
    section = section_of(
        "reinforce", constraints=COSTS, baseline_decay=0.9, kl=AdaptiveKl(coef=0.2, target=1.0, gain=0.1)
    )
    state = State.first(section)
    assert state == State(0.2, None, {"long": 0.0, "dull": 1.0}, None, {})
    row = {"kl": 5.0, "reward": 2.0, "cost/long": 3.0, "cost/dull": 1.0, "response_tokens": 7.0}
    second = state.after(section, row, {"kl": 1})
    assert second.kl_coef == pytest.approx(0.2 * 1.02)
    assert second.baseline == 2.0
    assert second.multipliers == {"long": 0.5 * (3 - 1), "dull": 1.0 + 0.5 * (1 - 2)}
    assert second.first_tokens == 7.0
    assert second.beyond == {"kl": 1}
    third = second.after(section, row | {"reward": 4.0, "response_tokens": 9.0, "cost/dull": -9.0}, {})
    assert third.baseline == pytest.approx(0.9 * 2.0 + 0.1 * 4.0)
    assert third.multipliers["dull"] == 0.0
    assert third.first_tokens == 7.0
    assert State(**third.saved()) == third
