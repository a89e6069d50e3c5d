"""What makes a label's probability: the tokens that say it, and what the likeliest tokens leave for the others."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.models.client.reading import tokens_of_label
from rlaif.models.labels import from_likeliest, speaker, total

AB = ("A", "B")
DIGITS = tuple("0123456789")


def read(labels: tuple[str, ...], *tokens: tuple[str, float]) -> dict[str, float]:
    """Probabilities in and out."""
    found = from_likeliest([(text, math.log(p) if p else -9999.0) for text, p in tokens], labels)
    return {label: math.exp(logprob) for label, logprob in found.items()}


@pytest.mark.parametrize("text", ["A", " A", "\u2581A", "\u0120A", "\nA", "A\n", "a", " a"])
def test_a_label_is_said_with_white_space_and_in_any_case(text: str) -> None:
    assert speaker(AB)(text) == "A"


@pytest.mark.parametrize("text", ["", " ", "AB", "An", "A.", '"A', "x", "\u0391"])
def test_what_only_begins_like_a_label_says_none(text: str) -> None:
    assert speaker(AB)(text) is None
    assert speaker(("Yes", "No", "Unknown"))("Ye") is None
    assert speaker(DIGITS)("10") is None


def test_labels_that_differ_in_case_alone_are_told_apart_by_it() -> None:
    assert [speaker(("a", "A"))(text) for text in (" a", "A", "b")] == ["a", "A", None]


def test_tokens_that_read_alike_are_added_up() -> None:
    """Two tokens of one text, the unlikely one told last: a dictionary by text would invert the verdict."""
    found = read(AB, ("A", 0.90), ("B", 0.08), ("A", 0.00002))
    assert found == pytest.approx({"A": 0.90002, "B": 0.08})
    assert read(AB, ("A", 0.5), (" B", 0.2), ("B", 0.1), (" a", 0.1)) == pytest.approx({"A": 0.6, "B": 0.3})


def test_a_label_that_is_not_told_is_at_most_as_probable_as_the_least_likely_that_is() -> None:
    sure = read(AB, ("A", 0.999999), *((f"x{n}", 1e-8) for n in range(19)))
    assert sure == pytest.approx({"A": 0.999999, "B": 1e-8})
    assert read(AB, ("x", 0.5), ("B", 0.3), ("y", 0.1)) == pytest.approx({"A": 0.1, "B": 0.3})


def test_nor_more_than_what_the_told_ones_leave() -> None:
    assert read(AB, ("A", 0.7), ("x", 0.29)) == pytest.approx({"A": 0.7, "B": 0.01})
    assert read(AB, ("A", 0.9)) == pytest.approx({"A": 0.9, "B": 0.1})  # the token itself, and no other
    assert read(AB, ("A", 1.0)) == pytest.approx({"A": 1.0, "B": 1e-6})  # 1 is a rounded number


def test_ratings_that_are_not_told_share_what_is_left() -> None:
    found = read(DIGITS, ("7", 0.6), ("8", 0.3), ("6", 0.05), ("x", 0.04), ("y", 0.002))
    assert found["7"] == pytest.approx(0.6)
    assert [found[digit] for digit in "0123459"] == pytest.approx([0.008 / 7] * 7)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([("x", 0.5), ("y", 0.4)], "none of the labels A B is among the 2 likeliest first tokens .first: 'x'"),
        ([("<think>", 1.0)], "first: '<think>'"),
        ([], "among the 0 likeliest"),
        ([("x", 0.4), ("A", 0.2)], "'B' is not among the 2 likeliest first tokens, and may be as probable"),
        ([("A", 0.5)], "'B' is not among the 1"),
    ],
)
def test_what_the_bound_does_not_decide_is_no_verdict(tokens: list[tuple[str, float]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(AB, *tokens)


@pytest.mark.parametrize("logprob", [math.nan, math.inf, 0.5])
def test_a_label_without_a_probability_is_no_verdict(logprob: float) -> None:
    with pytest.raises(ValueError, match="label token 'B' has log-probability"):
        from_likeliest([("A", -0.1), ("B", logprob)], AB)
    assert from_likeliest([("A", -0.1), ("B", -3.0), ("x", logprob)], AB) == {"A": -0.1, "B": -3.0}


def test_what_is_told_to_be_impossible_is() -> None:
    assert from_likeliest([("A", -0.1), ("x", -3.0), ("B", -math.inf)], AB) == {"A": -0.1, "B": -9999.0}


@pytest.mark.parametrize(
    "tokens",
    [
        [("A", 0.0), ("B", 0.0)],
        [("A", -0.1), ("A", -0.1), ("B", -9.0)],  # reads like one label, and is more than certain
        [("A", -0.1), (" A", -1.5), ("x", -3.0)],
    ],
)
def test_labels_with_more_than_all_of_the_probability_are_no_verdict(tokens: list[tuple[str, float]]) -> None:
    with pytest.raises(ValueError, match="the labels' probabilities sum to "):
        from_likeliest(tokens, AB)
    assert from_likeliest([("A", 0.001), ("B", -6.0)], AB)["A"] == 0.0  # rounded


def test_the_token_itself_counts_where_the_likeliest_do_not_list_it() -> None:
    found = from_likeliest([("B", -3.0), ("C", -4.0)], AB, ("A", -0.1))
    assert found == {"A": -0.1, "B": -3.0}
    assert math.exp(-0.1) / (math.exp(-0.1) + math.exp(-3.0)) == pytest.approx(0.948, abs=1e-3)
    assert from_likeliest([("A", -0.1), ("B", -3.0)], AB, ("A", -0.1)) == {"A": -0.1, "B": -3.0}  # once
    assert from_likeliest([(" A", -2.0), ("B", -3.0)], AB, ("A", -0.5))["A"] == pytest.approx(
        math.log(math.exp(-2) + math.exp(-0.5))
    )


@pytest.mark.parametrize("taken", [("x", -12.0), ("A", -math.inf), ("A", -9999.0), ("A", math.nan)])
def test_a_token_that_was_taken_by_chance_bounds_no_other(taken: tuple[str, float]) -> None:
    """It may be less likely than all that are told, and than the label that is not."""
    told = [("A", -0.01), ("x", -5.0)]
    assert from_likeliest(told, AB, taken) == from_likeliest(told, AB)
    told = [("B", -0.01), ("x", -5.0)]
    assert from_likeliest(told, AB, taken) == from_likeliest(told, AB)


@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=30), st.integers(2, 29))
def test_a_bound_leaves_the_verdict_on_its_side(weights: list[float], k: int) -> None:
    """Whatever the model's probabilities, of which the k likeliest are told: the told label is not the less probable
    one, and a verdict by the bound lies between an even one and the true one."""
    chances = sorted((w / math.fsum(weights) for w in weights), reverse=True)
    names = ["A", *(f"x{n}" for n in range(len(chances) - 2)), "B"]
    told = list(zip(names, chances, strict=True))[: min(k, len(chances) - 1)]
    try:
        found = read(AB, *told)
    except ValueError:
        return
    true = chances[0] / (chances[0] + chances[-1])
    assert 0.5 <= found["A"] / (found["A"] + found["B"]) <= true + 1e-6


def test_a_total_is_never_above_one() -> None:
    assert total([0.0, -1.0]) == 0.0
    assert total([-1.25]) == -1.25
    assert total([math.log(0.25), math.log(0.5)]) == pytest.approx(math.log(0.75))


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        (["A"], 1),
        (["\u2581", "5"], 1),
        (["Un", "known", "</s>"], 2),
        (["\n", "U", "n", "known"], 3),
        (["<think>", "Unknown"], 1),
        ([], 1),
    ],
)
def test_how_many_tokens_say_a_label(texts: list[str], count: int) -> None:
    label = "A" if "A" in texts else "5" if "5" in texts else "Unknown"
    assert tokens_of_label(label, texts) == count
