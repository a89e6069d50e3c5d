"""Length control and the league: against definitions, planted truths and choix."""

from __future__ import annotations

from random import Random

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from rlaif.errors import DataError
from rlaif.evaluation.agreement import Bootstrap
from rlaif.evaluation.contest.games import contest
from rlaif.evaluation.contest.league import ELO_PER_LOGIT, league
from rlaif.evaluation.contest.length import length_controlled
from rlaif.evaluation.contest.resampling import RIDGE, clustered_fits
from tests.contests import game, planted, round_robin
from tests.test_contest import games

QUICK = Bootstrap(samples=200)


# --------------------------------------------------------------------------------------------------- logistic fits


def penalised(design, worth, weights):
    """Minus the penalised log-likelihood, as written in the docstring."""

    def loss(c):
        z = design @ c
        return float(weights @ (worth * np.logaddexp(0, -z) + (1 - worth) * np.logaddexp(0, z)) + RIDGE * c @ c / 2)

    return loss


@pytest.mark.parametrize("separated", [False, True])
def test_a_fit_maximises_the_penalised_likelihood_on_every_resample(separated):
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(30), rng.uniform(-1, 1, 30)])
    worth = (design[:, 1] > 0).astype(float) if separated else rng.choice([0, 0.3, 0.5, 1], 30)
    names = [f"p{i // 3}" for i in range(30)]
    fits = clustered_fits(design, worth, names, Bootstrap(5, seed=1))
    drawn = np.random.default_rng(1).multinomial(10, np.full(10, 0.1), 5)
    cases = [(fits.whole, np.ones(30))]
    cases += [(found, np.repeat(times, 3).astype(float)) for found, times in zip(fits.resampled, drawn, strict=True)]
    cases += [(found, np.repeat(1 - np.eye(10)[i], 3)) for i, found in enumerate(fits.left_out)]
    for found, weights in cases:
        best = minimize(penalised(design, worth, weights), np.zeros(2), method="BFGS", options={"gtol": 1e-9})
        assert found == pytest.approx(best.x, abs=2e-4)


def test_rows_that_are_alike_may_be_merged():
    design, worth = np.array([[1.0], [1.0], [-1.0]]), np.array([1.0, 0.0, 0.2])
    one = clustered_fits(design, worth, ["p", "p", "q"], QUICK)
    other = clustered_fits(design[[0, 2]], np.array([0.5, 0.2]), ["p", "q"], QUICK)
    assert one.whole != pytest.approx(other.whole)  # two games weigh more than one
    double = clustered_fits(design[[0, 0, 2]], np.array([0.5, 0.5, 0.2]), ["p", "p", "q"], QUICK)
    assert one.whole == pytest.approx(double.whole, abs=1e-9)


# --------------------------------------------------------------------------------------------------- equal length


def test_a_planted_length_bias_is_removed():
    """Two arms of equal merit, one longer by its spread, and a judge drawn to length."""
    found = length_controlled(contest(planted(0.0, 1.2, prompts=800, longer=30)), "a", "b", QUICK)
    assert found.raw.low > 0.6
    assert found.rate.low < 0.5 < found.rate.high and abs(found.rate.value - 0.5) < 0.05
    assert found.effect.low > 0.5 and found.longer > 0.8


def test_a_planted_merit_is_found_behind_the_length():
    """The better arm is the shorter one, and loses as it is judged."""
    found = length_controlled(contest(planted(0.8, 2.0, prompts=800, longer=-30)), "a", "b", QUICK)
    assert found.raw.high < 0.5
    assert found.rate.value == pytest.approx(expit(0.8), abs=0.06) and found.rate.low > 0.5


def test_where_length_says_nothing_it_changes_nothing():
    found = length_controlled(contest(planted(0.7, 0.0, prompts=800, longer=0)), "a", "b", QUICK)
    assert found.rate.value == pytest.approx(found.raw.value, abs=0.01)
    assert found.effect.low < 0 < found.effect.high and found.note is None


@settings(deadline=None, max_examples=25)
@given(games)
def test_swapping_the_arms_maps_w_to_1_minus_w_exactly(rows):
    played = contest(rows)
    turned = contest([row.swapped() for row in reversed(rows)])
    for one, other in played.pairs:
        here, there = length_controlled(played, one, other, QUICK), length_controlled(turned, other, one, QUICK)
        assert (there.rate is None) == (here.rate is None)
        assert there.raw.value == 1 - here.raw.value and there.longer == 1 - here.longer
        assert there.effect == here.effect and there.note == here.note
        if here.rate is not None:
            assert there.rate.value == 1 - here.rate.value
            assert there.rate.low == (None if here.rate.high is None else 1 - here.rate.high)


def test_renaming_the_arms_changes_nothing():
    """Which of two names comes first decides how games are told, so it must not matter: the model is antisymmetric."""
    rows = planted(0.5, 1.0, prompts=40, longer=15, seed=2)
    renamed = [row._replace(one="z") for row in rows]
    one = length_controlled(contest(rows), "a", "b", QUICK)
    other = length_controlled(contest(renamed), "z", "b", QUICK)
    assert other.rate.value == pytest.approx(one.rate.value, abs=1e-9)
    assert other.effect.value == pytest.approx(one.effect.value, abs=1e-9)
    assert (other.rate.low, other.rate.high) == pytest.approx((one.rate.low, one.rate.high), abs=0.02)


def test_an_arm_that_is_always_longer_has_no_rate_at_equal_length():
    rows = [row._replace(words_one=row.words_other + 1 + i) for i, row in enumerate(planted(0.5))]
    found = length_controlled(contest(rows), "a", "b", QUICK)
    assert found.rate is None and found.effect is None and found.longer == 1
    assert "'a' is the longer in every game" in found.note
    assert "'a' is the longer" in length_controlled(contest(rows), "b", "a", QUICK).note


def test_an_arm_that_is_nearly_always_longer_is_said_to_be():
    rows = planted(0.5, prompts=100, longer=75, seed=3)
    found = length_controlled(contest(rows), "a", "b", QUICK)
    assert 0.95 < found.longer < 1
    assert "'a' has the longer response in " in found.note and found.rate is not None


def test_equal_lengths_and_equal_outcomes_leave_the_rate_as_it_is():
    even = length_controlled(contest([row._replace(words_one=200) for row in planted(0.5)]), "a", "b", QUICK)
    assert even.rate == even.raw and even.effect is None and even.note is None
    won = length_controlled(contest([row._replace(p_one=1.0) for row in planted(0.5)]), "a", "b", QUICK)
    assert won.rate == won.raw and won.rate.value == 1 and won.rate.low > 0.9


def test_ties_count_half_at_equal_length():
    rows = [game(p, f"p{i}", words=(10 + i % 3, 11)) for i, p in enumerate([0.5] * 30 + [1.0] * 10 + [0.0] * 10)]
    assert length_controlled(contest(rows), "a", "b", QUICK).rate.value == pytest.approx(0.5, abs=0.05)


# --------------------------------------------------------------------------------------------------------- league

STRENGTHS = {"sft": 0.0, "length": 0.2, "rlaif": 0.8, "rlhf": 1.0, "hybrid": 1.6}


def test_the_order_of_arms_is_recovered():
    found = league(contest(round_robin(STRENGTHS, prompts=300)), QUICK, reference="sft")
    assert [s.arm for s in found.standings] == ["hybrid", "rlhf", "rlaif", "length", "sft"]
    for standing in found.standings:
        assert standing.theta == pytest.approx(STRENGTHS[standing.arm], abs=0.2)
        assert standing.elo.value == pytest.approx(1000 + ELO_PER_LOGIT * standing.theta)
        assert standing.best <= standing.rank <= standing.worst
    sft = found.standings[-1]
    assert (sft.elo.value, sft.elo.low, sft.elo.high) == (1000.0, None, None)
    assert found.standings[0].first == 1.0 and sum(s.first for s in found.standings) == pytest.approx(1)
    assert pytest.approx(173.7, abs=0.02) == ELO_PER_LOGIT


def test_the_strengths_are_choixs():
    rows = round_robin(STRENGTHS, prompts=40)
    names = sorted(STRENGTHS)
    wins = [(row.one, row.other) if row.p_one else (row.other, row.one) for row in rows]
    numbers = [(names.index(winner), names.index(loser)) for winner, loser in wins]
    expected = choix.opt_pairwise(len(names), numbers, alpha=RIDGE / 2)
    found = league(contest(rows), QUICK)
    assert [s.theta for s in sorted(found.standings, key=lambda s: s.arm)] == pytest.approx(expected, abs=1e-4)
    assert np.mean([s.elo.value for s in found.standings]) == pytest.approx(1000)


def test_two_arms_are_as_far_apart_as_their_win_rate():
    rows = [game(float(i < 75), f"p{i}") for i in range(100)]
    found = league(contest(rows), QUICK, reference="b")
    assert expit(found.standings[0].theta) == pytest.approx(0.75, abs=0.001)
    assert abs(found.misfit.observed - found.misfit.predicted) < 0.001


@settings(deadline=None, max_examples=5)
@given(st.randoms(use_true_random=False))
def test_the_league_does_not_depend_on_the_order_of_rows(random):
    rows = round_robin(STRENGTHS, prompts=8)
    other = [row.swapped() if random.random() < 0.5 else row for row in rows]
    random.shuffle(other)
    assert league(contest(rows), QUICK, "sft") == league(contest(other), QUICK, "sft")


def test_equal_arms_share_the_first_place():
    rows = [game(float(i % 2), f"p{i // 2}", one, other) for one, other in ("ab", "ac", "bc") for i in range(40)]
    found = league(contest(rows), QUICK)
    assert [s.rank for s in found.standings] == [1, 1, 1]
    assert {s.worst for s in found.standings} == {1}  # every prompt is even, so every resample is
    assert [s.first for s in found.standings] == pytest.approx([1 / 3] * 3)


def test_an_arm_that_lost_nothing_has_no_interval():
    rows = [row._replace(p_one=1.0) if row.one == "x" else row for row in round_robin({"x": 0, "y": 0, "z": 0}, 30)]
    found = league(contest(rows), QUICK)
    assert found.standings[0].arm == "x" and found.standings[0].theta > 2
    assert "x won every game" in found.note
    assert all(s.elo.low is None and s.elo.high is None for s in found.standings)
    lost = [row.swapped()._replace(one=row.one, other=row.other) for row in rows]
    assert "y, z won every game" in league(contest(lost), QUICK).note
    assert league(contest(round_robin(STRENGTHS, 30)), QUICK).note is None


def test_groups_that_never_met_cannot_be_ranked():
    rows = [game(one="a", other="b"), game(0.0, one="a", other="b"), game(one="c", other="d")]
    with pytest.raises(DataError, match="never met, so no league joins them: a, b; c, d"):
        league(contest(rows), QUICK)
    with pytest.raises(DataError, match="no game of arm 'sft'"):
        league(contest(rows), QUICK, reference="sft")


def test_a_circle_shows_as_misfit():
    rows = [game(float(i % 10 > 0), f"p{i}", *pair) for pair in ("ab", "bc", "ca") for i in range(60)]
    found = league(contest(rows), QUICK)
    assert abs(found.misfit.observed - found.misfit.predicted) == pytest.approx(0.4, abs=0.01)


def test_a_league_of_two_at_equal_length_is_their_contest_at_equal_length():
    played = contest(planted(0.5, 1.0, longer=25))
    table, found = league(played, QUICK, "b", equal_length=True), length_controlled(played, "a", "b", QUICK)
    (of_a,) = [s.theta for s in table.standings if s.arm == "a"]
    assert expit(of_a) == pytest.approx(found.rate.value, abs=1e-3)  # the ridge weighs a gap of two strengths less
    assert table.length_effect.value == pytest.approx(found.effect.value, abs=1e-2)


def test_a_league_at_equal_length_takes_the_bias_out():
    """c is worth what a is, and always writes more; b is better than both."""
    rng = np.random.default_rng(1)  # an ordinary draw: over seeds 0 to 4 the interval holds the truth four times
    merit, words = {"a": 0.0, "b": 0.5, "c": 0.0}, {"a": 100, "b": 100, "c": 140}
    rows = []
    for i in range(400):
        for one, other in ("ab", "ac", "bc"):
            length = [int(rng.normal(words[arm], 20)) for arm in (one, other)]
            p = expit(merit[one] - merit[other] + 1.5 * np.tanh((length[0] - length[1]) / 30))
            rows.append(game(float(rng.random() < p), f"p{i}", one, other, tuple(length)))
    as_judged = league(contest(rows), QUICK, reference="a")
    at_equal = league(contest(rows), QUICK, reference="a", equal_length=True)
    assert [s.arm for s in as_judged.standings] == ["c", "b", "a"]
    assert at_equal.standings[0].arm == "b" and at_equal.length_effect.low > 0
    (longer,) = [s for s in at_equal.standings if s.arm == "c"]
    assert longer.elo.low < 1000 < longer.elo.high
    Random(0).shuffle(rows)
    assert league(contest(rows), QUICK, reference="a", equal_length=True) == at_equal
    # How a game is told depends on which name comes first, so what arms are called must not matter.
    other = {"a": "z", "b": "b", "c": "a"}
    renamed = league(
        contest([row._replace(one=other[row.one], other=other[row.other]) for row in rows]),
        QUICK,
        "z",
        equal_length=True,
    )
    thetas = {other[s.arm]: s.theta for s in at_equal.standings}
    assert {s.arm: s.theta for s in renamed.standings} == pytest.approx(thetas, abs=1e-9)
    flat = [row._replace(words_one=10, words_other=10) for row in rows]
    with pytest.raises(DataError, match="no league at equal length"):
        league(contest(flat), QUICK, equal_length=True)
