"""The controls of benchmarks/teaches.py are what they say: a claim about what the judge taught stands on them."""

from __future__ import annotations

from itertools import combinations

import pytest

from benchmarks.teaches import _by_run, _less, opposite, shuffled
from rlaif.models.engine import ChatRequest
from rlaif.records import DensityRatio, Judgment
from tests.test_contrast import PLAIN, SHORT, constitution, judge, pair, told

TEXTS = ["a", "bb", "a cc dd", "dddd", "e ee eee eeee", "a a a a a"]
RULES = constitution(PLAIN, SHORT)


def likes_short(request: ChatRequest) -> float:
    """s is minus half the number of characters."""
    assert request.answer is not None
    return -float(len(request.answer)) * (1.0 if "short" in told(request) else 0.5)


def judged() -> tuple[Judgment, ...]:
    return judge(likes_short, [pair(a, b) for a, b in combinations(TEXTS, 2)], RULES).judgments


def ratios(judgments: tuple[Judgment, ...]) -> dict[str, DensityRatio]:
    """By text, what the judge says of it."""
    return {
        text: ratio
        for one in judgments
        for text, ratio in zip((one.pair.a, one.pair.b), one.principles[0].ratios, strict=True)
    }


def test_shuffled_moves_what_the_judge_says_among_a_prompts_responses_and_leaves_the_checks() -> None:
    before = judged()
    with shuffled(seed=3):
        inside = judged()
    assert judged() == before, "outside nothing is changed"
    own, moved = ratios(before), ratios(inside)
    assert sorted(map(str, own.values())) == sorted(map(str, moved.values())) and own != moved
    assert [one.principles[1] for one in inside] == [one.principles[1] for one in before]
    assert [one.p_a for one in inside] != [one.p_a for one in before]


def test_opposite_exchanges_the_instructions_and_nothing_else() -> None:
    turned = opposite(RULES).principles
    assert turned[0].contrast is not None and turned[0].contrast.for_ == PLAIN["contrast"]["against"]
    assert turned[0].contrast.against == PLAIN["contrast"]["for"] and turned[1] == RULES.principles[1]
    assert opposite(opposite(RULES)).principles == RULES.principles


def test_an_arm_less_another_is_taken_answer_by_answer() -> None:
    these, those = {1: {("p", 0): 3.0, ("p", 1): 5.0}, 2: {("p", 0): 1.0}}, {1: {("p", 1): 1.0}}
    assert _less(these, those) == {1: {("p", 1): 4.0}}


def test_the_interval_over_runs_is_students() -> None:
    assert _by_run([2.0]) == (2.0, None, None)
    value, low, high = _by_run([1.0, 2.0, 3.0])
    assert (value, low, high) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
