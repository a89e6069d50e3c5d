"""The formulas of `score` and `checklist` against their definitions, term by term, and what must hold for any reply."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlaif.constitution import Principle
from rlaif.feedback.rating import CHECKLIST, DIGITS, RATING, RatingScale, answer, by_code, compared, overall, rate
from rlaif.feedback.verdict import checked
from rlaif.records import PrincipleScore

MARGIN = 4.0
LOGPROB = st.floats(-60, 0) | st.just(-9999.0)
RATINGS = st.lists(LOGPROB, min_size=10, max_size=10).map(lambda values: dict(zip(DIGITS, values, strict=True)))
ANSWERS = st.lists(LOGPROB, min_size=3, max_size=3).map(lambda v: dict(zip(("Yes", "No", "Unknown"), v, strict=True)))


def principle(name: str = "apt", **more: Any) -> Principle:
    texts = {"compare": "Which response is more apt?", "question": "Is the response apt?", "desired": "yes"}
    return Principle.model_validate({"id": name} | texts | more)


def short(**more: Any) -> Principle:
    return Principle.model_validate({"id": "short", "check": {"kind": "max_words", "limit": 3}} | more)


def logs(*chances: float, labels: str | tuple[str, ...] = DIGITS) -> dict[str, float]:
    return {label: math.log(p) for label, p in zip(labels, chances, strict=True)}


def answers(yes: float, no: float, unknown: float) -> dict[str, float]:
    return logs(yes, no, unknown, labels=("Yes", "No", "Unknown"))


def shares(logprobs: dict[str, float]) -> list[float]:
    top = max(logprobs.values())
    raw = [math.exp(value - top) for value in logprobs.values()]
    return [p / sum(raw) for p in raw]


def p_a(scale: RatingScale, a: PrincipleScore, b: PrincipleScore) -> float:
    return compared(principle(), a, b, scale, MARGIN).p_a


# ----------------------------------------------------------------------------------------------------- score


def test_a_rating_by_hand() -> None:
    """Half on 4, a quarter each on 8 and 10: s = 6.5, so 2 * 5.5 / 9 - 1."""
    logprobs = dict.fromkeys(DIGITS, -9999.0) | {"3": math.log(0.4), "7": math.log(0.2), "9": math.log(0.2)}
    found = rate(principle(), logprobs)
    assert found.value == pytest.approx(2 * 5.5 / 9 - 1, abs=1e-12)
    assert found.logprobs == logprobs
    assert not found.checked


@given(RATINGS)
@example(dict.fromkeys(DIGITS, -9999.0) | {"0": 0.0, "1": -36.7369, "2": -36.7369})  # the shares add up to 1 + 2^-52
def test_the_rating_is_the_rescaled_expectation(logprobs: dict[str, float]) -> None:
    expected = sum(rating * p for rating, p in zip(range(1, 11), shares(logprobs), strict=True))
    value = rate(principle(), logprobs).value
    assert value == pytest.approx(2 * (expected - 1) / 9 - 1, abs=1e-6)
    assert -1 <= value <= 1


@pytest.mark.parametrize(("digit", "value"), [("0", -1.0), ("9", 1.0)])
def test_certain_ratings_reach_the_ends(digit: str, value: float) -> None:
    assert rate(principle(), dict.fromkeys(DIGITS, -9999.0) | {digit: 0.0}).value == value


@given(RATINGS, RATINGS)
def test_p_a_of_ratings_is_the_double_sum(one: dict[str, float], other: dict[str, float]) -> None:
    expected = 0.0
    for i, p in enumerate(shares(one)):
        for j, q in enumerate(shares(other)):
            expected += p * q * (1.0 if i > j else 0.5 if i == j else 0.0)
    a, b = (rate(principle(), logprobs) for logprobs in (one, other))
    assert p_a(RATING, a, b) == pytest.approx(expected, abs=1e-6)


def test_the_order_of_the_labels_in_a_row_means_nothing() -> None:
    logprobs = logs(*(i / 55 for i in range(1, 11)))
    turned = dict(reversed(logprobs.items()))
    assert rate(principle(), turned).value == rate(principle(), logprobs).value


# ------------------------------------------------------------------------------------------------- checklist


def test_an_answer_by_hand() -> None:
    """The three labels share 0.8 of the probability: Yes 0.4 / 0.8, Unknown 0.2 / 0.8."""
    found = answer(principle(), answers(0.4, 0.2, 0.2))
    assert found.value == pytest.approx(0.5 + 0.25 / 2, abs=1e-12)
    assert found.unknown == pytest.approx(0.25, abs=1e-12)
    assert answer(principle(desired="no"), answers(0.4, 0.2, 0.2)).value == 1 - found.value


@given(ANSWERS, st.sampled_from(["yes", "no"]))
def test_the_answer_is_the_desired_one_and_half_of_unknown(logprobs: dict[str, float], desired: str) -> None:
    yes, no, unknown = shares(logprobs)
    found = answer(principle(desired=desired), logprobs)
    assert found.value == pytest.approx((yes if desired == "yes" else no) + unknown / 2, abs=1e-6)
    assert found.unknown == pytest.approx(unknown, abs=1e-6)
    assert 0 <= found.value <= 1


@given(ANSWERS, ANSWERS)
def test_p_a_of_answers_is_one_alone_and_half_of_the_same(one: dict[str, float], other: dict[str, float]) -> None:
    a, b = (answer(principle(), logprobs) for logprobs in (one, other))
    only_a, same = a.value * (1 - b.value), a.value * b.value + (1 - a.value) * (1 - b.value)
    assert p_a(CHECKLIST, a, b) == pytest.approx(only_a + same / 2, abs=1e-6)


# ------------------------------------------------------------------------------------------------------ both


@given(RATINGS, RATINGS, ANSWERS, ANSWERS)
def test_exchanging_a_and_b_mirrors_p_exactly(
    one: dict[str, float], other: dict[str, float], said: dict[str, float], replied: dict[str, float]
) -> None:
    for scale, read, first, second in ((RATING, rate, one, other), (CHECKLIST, answer, said, replied)):
        a, b = (read(principle(), logprobs) for logprobs in (first, second))
        assert 0 <= p_a(scale, a, b) <= 1
        assert p_a(scale, a, b) == 1 - p_a(scale, b, a)
        assert p_a(scale, a, a) == 0.5


@pytest.mark.parametrize(("scale", "low"), [(RATING, -1.0), (CHECKLIST, 0.0)])
def test_a_check_is_worth_an_end_of_the_scale(scale: RatingScale, low: float) -> None:
    passed, failed = by_code(short(), "one two", scale), by_code(short(), "one two three four", scale)
    assert (failed.value, passed.value) == (low, 1.0)
    assert passed.checked and failed.checked
    for a, b in ((passed, failed), (failed, passed), (passed, passed), (failed, failed)):
        expected = checked("short", a is passed, b is passed, MARGIN)
        assert compared(short(), a, b, scale, MARGIN) == expected


def test_who_was_asked_has_passed_the_check() -> None:
    """However badly it is rated, a response that passes is preferred to one that fails."""
    asked = rate(principle("short"), dict.fromkeys(DIGITS, -9999.0) | {"0": 0.0})
    failed = by_code(short(), "one two three four", RATING)
    assert compared(short(), asked, failed, RATING, MARGIN) == checked("short", True, False, MARGIN)
    assert compared(short(), failed, asked, RATING, MARGIN) == checked("short", False, True, MARGIN)


WEIGHT = st.floats(0.01, 100)


@given(st.lists(st.tuples(WEIGHT, st.floats(-1, 1)), min_size=1, max_size=6))
@example([(0.1, 1.0)] * 3)
def test_a_response_has_the_weighted_mean_of_its_principles(given: list[tuple[float, float]]) -> None:
    scored = [
        (principle(f"p{i}", weight=weight), PrincipleScore(principle=f"p{i}", checked=False, value=value))
        for i, (weight, value) in enumerate(given)
    ]
    value, vetoed = overall(scored, RATING)
    assert value == pytest.approx(sum(w * v for w, v in given) / sum(w for w, _ in given), abs=1e-6)
    assert -1 <= value <= 1
    assert not vetoed


@pytest.mark.parametrize(("scale", "below", "middle"), [(RATING, -0.01, 0.0), (CHECKLIST, 0.49, 0.5)])
def test_a_veto_gone_against_is_all_that_counts(scale: RatingScale, below: float, middle: float) -> None:
    def with_veto(value: float, veto: bool) -> tuple[float, bool]:
        other = PrincipleScore(principle="p", checked=False, value=1.0)
        asked = PrincipleScore(principle="v", checked=False, value=value)
        return overall([(principle("p", weight=3.0), other), (principle("v", veto=veto), asked)], scale)

    assert with_veto(below, True) == (scale.low, True)
    assert with_veto(middle, True) == (pytest.approx((3 + middle) / 4), False)
    assert with_veto(below, False) == (pytest.approx((3 + below) / 4), False)
    failed = short(veto=True)
    assert overall([(failed, by_code(failed, "one two three four", scale))], scale) == (scale.low, True)
    assert overall([(failed, by_code(failed, "one", scale))], scale) == (1.0, False)
