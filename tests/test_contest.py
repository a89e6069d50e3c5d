"""Win rates of arms against definitions: ties, swapping, order of rows, pairing, seeds."""

from __future__ import annotations

import math
from itertools import product
from random import Random
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t

from rlaif.errors import DataError
from rlaif.evaluation.contest.games import all_against_all, contest, win_rate
from rlaif.evaluation.contest.power import clustered_error, over_seeds, seeds_apart, spread
from rlaif.stats import Bootstrap, Estimate, clustered_mean, sign_flip
from tests.contests import game, planted, round_robin

QUICK = Bootstrap(samples=200)
SOME = [game(1.0, "p"), game(0.5, "p"), game(0.2, "q"), game(0.9, "r")]

games = st.lists(
    st.builds(
        game,
        st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
        st.sampled_from("pqrst"),
        one=st.sampled_from(["a", "b"]),
        other=st.sampled_from(["c", "d"]),
        words=st.tuples(st.integers(1, 99), st.integers(1, 99)),
        seeds=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    ),
    min_size=1,
    max_size=12,
)


def test_a_win_is_1_a_tie_a_half_and_a_loss_0():
    found = win_rate(contest(SOME), "a", "b", QUICK)
    assert found.rate.value == (1 + 0.5 + 0 + 1) / 4
    assert (found.wins, found.ties, found.losses, found.games, found.prompts) == (2, 1, 1, 4, 3)
    assert found.tie_share == 0.25
    assert found.mean_p.value == pytest.approx((1 + 0.5 + 0.2 + 0.9) / 4)


def test_the_interval_is_over_prompts():
    found = win_rate(contest(SOME), "a", "b", QUICK)
    assert found.rate == clustered_mean([0.5, 1.0, 0.0, 1.0], ["p", "p", "q", "r"], *QUICK)


@settings(deadline=None, max_examples=25)
@given(games, st.randoms(use_true_random=False))
def test_neither_order_of_rows_nor_who_is_called_one_changes_a_digit(rows, random):
    other = [row.swapped() if random.random() < 0.5 else row for row in rows]
    random.shuffle(other)
    assert all_against_all(contest(rows), QUICK) == all_against_all(contest(other), QUICK)


@settings(deadline=None, max_examples=25)
@given(games)
def test_swapping_maps_every_rate_to_1_minus_it(rows):
    played = contest(rows)
    for one, other in played.pairs:
        here, there = win_rate(played, one, other, QUICK), win_rate(played, other, one, QUICK)
        assert there.rate.value == 1 - here.rate.value
        assert (there.rate.low, there.rate.high) == (1 - here.rate.high, 1 - here.rate.low)
        assert (there.wins, there.losses, there.ties) == (here.losses, here.wins, here.ties)
        assert there.p_value == here.p_value
        assert list(there.other_seeds.values.values()) == [1 - v for v in here.one_seeds.values.values()]
        assert there.swapped().rate.value == pytest.approx(here.rate.value, abs=1e-15)


def test_all_arms_meet_each_other_once():
    played = contest(round_robin({"x": 1, "sft": 0, "y": 2}, prompts=20))
    assert [(r.one, r.other) for r in all_against_all(played, QUICK)] == [("sft", "x"), ("sft", "y"), ("x", "y")]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no games"),
        ([game(), game(one="a", other="a")], r"game 2 \(prompt p, a against a\): an arm cannot play against itself"),
        ([game(1.5)], r"game 1 .*p_one must lie in \[0, 1\] \(got 1.5\)"),
        ([game(math.nan)], "got nan"),
        ([game(words=(-1, 3))], "words must not be negative"),
        ([game(), game(judge="strict")], r"games of 2 judges \(j, strict\)"),
    ],
)
def test_games_that_cannot_be_are_one_clear_line(rows, said):
    with pytest.raises(DataError, match=said) as caught:
        contest(rows)
    assert "\n" not in str(caught.value)


def test_arms_that_are_not_there_are_one_clear_line():
    played = contest([game(one="rlaif", other="sft"), game(one="rlhf", other="sft")])
    with pytest.raises(DataError, match="no game of arm 'rlaiff'; did you mean 'rlaif'"):
        win_rate(played, "rlaiff", "sft", QUICK)
    with pytest.raises(DataError, match="'rlaif' and 'rlhf' never met"):
        win_rate(played, "rlaif", "rlhf", QUICK)
    with pytest.raises(DataError, match="no game of arm 'base'"):
        win_rate(played, "rlaif", "base", QUICK)


# ------------------------------------------------------------------------------------------------------- p-values


def test_the_p_value_is_fishers_over_all_sign_patterns():
    values, clusters = [1.0, 0.5, 0.5, -0.5, 1.0, 1.0, 0.5], ["a", "a", "b", "c", "d", "e", "f"]
    sums = [1.5, 0.5, -0.5, 1.0, 1.0, 0.5]
    exact = np.mean([abs(np.dot(signs, sums)) >= sum(sums) - 1e-9 for signs in product((1, -1), repeat=6)])
    assert sign_flip(values, clusters) == pytest.approx(exact, abs=0.01)


def test_a_p_value_is_uniform_where_the_arms_are_alike():
    found = [win_rate(contest(planted(0.0, seed=s)), "a", "b", Bootstrap(20, seed=s)).p_value for s in range(60)]
    assert 0 < np.mean(np.array(found) < 0.2) < 0.36  # 0.2 +- 3 errors
    assert win_rate(contest(planted(1.0, prompts=100)), "a", "b", QUICK).p_value < 0.001


def test_without_any_difference_the_p_value_is_1():
    assert sign_flip([0.0, 0.0], ["a", "b"]) == 1.0
    assert sign_flip([0.5, -0.5], ["a", "a"]) == 1.0


def test_a_p_value_is_never_0():
    assert sign_flip([0.5] * 100, [str(i) for i in range(100)]) == 1 / 10_000


# ----------------------------------------------------------------------------------------------------------- seeds


def test_the_spread_between_seeds_is_their_standard_deviation():
    found = spread([1, 0, 1, 1, 0, 0], [0, 0, 10, 10, 2, 2])
    assert found.values == {"0": 0.5, "2": 0.0, "10": 1.0}
    assert list(found.values) == ["0", "2", "10"]
    assert found.deviation == stdev([0.5, 0.0, 1.0])
    assert spread([1, 0], [7, 7]).deviation is None


def test_an_interval_over_seeds_is_welchs():
    seeds = spread([0.6, 0.7, 0.8], [0, 1, 2])
    estimate = Estimate(value=0.7, low=0.65, high=0.75, n=30)
    found = over_seeds(estimate, 0.02, 40, [seeds], 0.95)
    parts = (0.02**2, 0.01 / 3)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 39 + parts[1] ** 2 / 2)
    reach = student_t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert (found.low, found.high) == pytest.approx((0.7 - reach, 0.7 + reach))
    assert over_seeds(estimate, 0.02, 40, [spread([0.7], [0])], 0.95) is None
    assert over_seeds(estimate, 0.4, 40, [seeds], 0.95).high == 1.0  # a rate has its bounds


def test_seeds_that_only_met_their_like_count_once():
    assert not seeds_apart([(0, 0), (1, 1), (2, 2)])
    assert seeds_apart([(0, 0), (0, 1), (1, 0), (1, 1)])
    assert seeds_apart([(0, 0), (1, 0), (2, 0)])


def test_partners_seeds_widen_the_interval_once_and_strangers_twice():
    """The same spread between seeds of both arms: met in pairs it is one spread, met crosswise it is two."""
    won = {0: 0.6, 1: 0.5, 2: 0.4}
    pairs = [game(float(i < 20 * won[s]), f"p{i}", seeds=(s, s)) for i in range(20) for s in won]
    crossed = [
        row._replace(other_seed=o, p_one=row.p_one if o or i % 4 else 1.0) for i, row in enumerate(pairs) for o in won
    ]
    once, twice = (win_rate(contest(rows), "a", "b", QUICK) for rows in (pairs, crossed))
    assert twice.other_seeds.deviation > 0.05 and twice.over_seeds.low > 0 and once.over_seeds.low > 0
    error, wider = (clustered_error([r.p_one for r in rows], [r.prompt_id for r in rows]) for rows in (pairs, crossed))
    assert once.one_seeds.deviation == once.other_seeds.deviation == pytest.approx(0.1)
    for found, size, sides in (
        (once, error, [once.one_seeds]),
        (twice, wider, [twice.one_seeds, twice.other_seeds]),
    ):
        expected = over_seeds(found.rate, size, 20, sides, 0.95)
        assert (found.over_seeds.low, found.over_seeds.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_interval_over_seeds_is_wider_when_seeds_differ():
    rng = np.random.default_rng(1)
    rows = [
        game(float(rng.random() < p), f"p{i}", seeds=(s, 0)) for i in range(60) for s, p in enumerate((0.4, 0.6, 0.8))
    ]
    found = win_rate(contest(rows), "a", "b", QUICK)
    assert found.one_seeds.deviation > 0.1 and found.other_seeds.deviation is None
    assert found.over_seeds.high - found.over_seeds.low > 2 * (found.rate.high - found.rate.low)
    assert win_rate(contest(SOME), "a", "b", QUICK).over_seeds is None


def test_a_shuffled_study_gives_the_same_bytes():
    rows = round_robin({"a": 1, "b": 0, "c": 0.5}, prompts=15, seeds=(0, 1))
    one = [rate.model_dump_json() for rate in all_against_all(contest(rows), QUICK)]
    Random(3).shuffle(rows)
    assert one == [rate.model_dump_json() for rate in all_against_all(contest(rows), QUICK)]
