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
from rlaif.evaluation.contest.games import contest
from rlaif.evaluation.contest.joint import Joint, Rows, all_at_equal_length, fit, objective, resampled
from rlaif.evaluation.contest.league import ELO_PER_LOGIT, league
from rlaif.evaluation.contest.length import RIDGE, clustered_fits, length_controlled
from rlaif.stats import Bootstrap
from tests.contests import against_baseline, game, planted, round_robin
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


# ------------------------------------------------------------------------------------ equal length, all arms at once

THREE = {"a": -1.0, "b": 0.0, "c": -0.5}


def joint_rows(rows, baseline):
    """The arrays of the joint fit, made here from its definition: pairs by name, every prompt with a term."""
    pairs, prompts = sorted({row.pair for row in rows}), sorted({row.prompt_id for row in rows})
    words = {pair: np.array([r.words_one - r.words_other for r in rows if r.pair == pair]) for pair in pairs}
    s = np.sqrt(np.mean(np.concatenate([d - d.mean() for d in words.values()]) ** 2))
    return Rows(
        pair=np.array([pairs.index(row.pair) for row in rows]),
        prompt=np.array([prompts.index(row.prompt_id) for row in rows]),
        terms=np.tanh(np.array([row.words_one - row.words_other for row in rows]) / s),
        side=np.array([1.0 if row.other == baseline else -1.0 if row.one == baseline else 0.0 for row in rows]),
        worth=np.array([row.p_one for row in rows]),
    )


def directly(rows):
    """The objective of the module's first lines, maximised by scipy over every parameter."""
    pairs, prompts = int(rows.pair.max()) + 1, int(rows.prompt.max()) + 1

    def loss(at):
        theta, phi, delta = at[:pairs], at[pairs : 2 * pairs], at[2 * pairs :]
        p = expit(theta[rows.pair] + phi[rows.pair] * rows.terms + rows.side * delta[rows.prompt])
        likelihood = np.sum(rows.worth * np.log(p) + (1 - rows.worth) * np.log(1 - p))
        ridge = 0.1 * np.sum(delta**2) + 10 * np.sum((phi - phi.mean()) ** 2) + RIDGE * np.sum(theta**2 + phi**2)
        return ridge / 2 - likelihood

    found = minimize(loss, np.zeros(2 * pairs + prompts), method="BFGS", options={"gtol": 1e-7, "maxiter": 2000})
    return found.x[: 2 * pairs], found.x[2 * pairs :]


def round_robin_with_lengths(prompts=12):
    rows = round_robin({"a": 0.0, "base": 0.5, "z": 1.0}, prompts=prompts, seeds=(0, 1))
    return [row._replace(p_one=0.5) if i % 7 == 0 else row for i, row in enumerate(rows)]


@pytest.mark.parametrize("rows", [against_baseline(THREE, prompts=15)[0], round_robin_with_lengths()])
def test_the_joint_fit_maximises_what_it_says(rows):
    """Games told from the baseline's side and games without it are in the second one."""
    arrays = joint_rows(contest(rows).games, "base")
    pairs, prompts = directly(arrays)
    found = fit(arrays)
    assert found.pairs == pytest.approx(pairs, abs=1e-4)
    assert found.prompts == pytest.approx(prompts, abs=1e-4)
    best = objective(arrays, found)
    assert best >= objective(arrays, Joint(pairs, prompts)) - 1e-9
    by_hand = [
        expit(found.pairs[i] + (arrays.side * found.prompts[arrays.prompt])[arrays.pair == i]).mean()
        for i in range(arrays.pairs)
    ]
    given = all_at_equal_length(contest(rows), QUICK, "base")
    assert [one.rate.value for one in given] == pytest.approx(by_hand, abs=1e-6)
    assert [one.effect.value for one in given] == pytest.approx(found.pairs[arrays.pairs :], abs=1e-6)


def test_a_resample_of_the_joint_fit_is_nearly_the_fit_to_the_resample():
    """One Newton step goes most of the way to prompts drawn several times, each time with a delta of its own."""
    rows = contest(against_baseline(THREE, prompts=200)[0]).games
    arrays = joint_rows(rows, "base")
    whole = fit(arrays)
    times = np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200))
    drawn = np.concatenate([np.flatnonzero(arrays.prompt == x) for x in range(200) for _ in range(times[x])])
    copies = np.repeat(np.arange(200), 3)  # three arms a prompt
    again = fit(
        arrays._replace(**{n: getattr(arrays, n)[drawn] for n in ("pair", "terms", "side", "worth")}, prompt=copies)
    )
    weights = np.array([np.ones(200), times])
    kept, moved = resampled(arrays, whole, weights).pairs
    assert kept == pytest.approx(whole.pairs, abs=1e-8)
    assert np.abs(again.pairs - whole.pairs).max() > 0.2
    assert moved == pytest.approx(again.pairs, abs=0.05)


def test_what_makes_prompts_hard_is_not_put_down_to_length():
    """Arms fall short, and are short, on the same prompts: pair by pair that looks like a judge drawn to length."""
    rows, true = against_baseline({"a": 0.0, "b": 0.3, "c": -0.4, "d": 0.2}, prompts=400, longer=-40)
    played = contest(rows)
    for found in all_at_equal_length(played, QUICK, "base"):
        arm = found.one if found.other == "base" else found.other
        rate = found.rate if found.one == arm else found.swapped().rate
        single = length_controlled(played, arm, "base", QUICK)
        assert found.prompt_term and not single.prompt_term
        assert abs(rate.value - true[arm]) < abs(single.rate.value - true[arm]) / 2
        assert rate.low < true[arm] < rate.high


def test_the_joint_rates_do_not_depend_on_names_rows_or_a_constant():
    rows, _ = against_baseline(THREE, prompts=40)
    rows += [row._replace(one="a", other="c") for row in planted(0.3, 1.5, prompts=40, games=1)]
    there = {(f.one, f.other): f for f in all_at_equal_length(contest(rows), QUICK, "base")}
    shifted = [row._replace(words_one=row.words_one + 77, words_other=row.words_other + 77) for row in rows]
    Random(0).shuffle(shifted)
    assert {(f.one, f.other): f for f in all_at_equal_length(contest(shifted), QUICK, "base")} == there
    names = {"a": "z", "b": "b", "c": "aa", "base": "ref"}
    renamed = contest([row._replace(one=names[row.one], other=names[row.other]) for row in rows])
    for found in all_at_equal_length(renamed, QUICK, "ref"):
        old = {name: arm for arm, name in names.items()}
        here = there.get((old[found.one], old[found.other])) or there[old[found.other], old[found.one]].swapped()
        assert found.rate.value == pytest.approx(here.rate.value, abs=1e-9)
        assert found.effect.value == pytest.approx(here.effect.value, abs=1e-9)
        assert (found.rate.low, found.rate.high) == pytest.approx((here.rate.low, here.rate.high), abs=0.03)
    assert not there["a", "c"].prompt_term and there["a", "base"].prompt_term


@pytest.mark.parametrize(
    "rows",
    [
        planted(0.5, 1.0, longer=10),  # one arm
        [
            row._replace(one=f"{'ab'[i % 2]}", other="c") for i, row in enumerate(planted(0.5, games=1))
        ],  # never together
    ],
)
def test_without_several_arms_on_the_same_prompts_each_pair_is_taken_alone(rows):
    played = contest(rows)
    found = all_at_equal_length(played, QUICK, "b" if len(played.arms) == 2 else "c")
    assert found == [length_controlled(played, one, other, QUICK) for one, other in played.pairs]
    assert not any(one.prompt_term for one in found)


def test_an_arm_that_cuts_its_answers_short_gets_no_slope_of_its_own():
    """Nearly all its answers are three words, the few whole ones win: alone, its slope says anything."""
    rows, _ = against_baseline(THREE, prompts=200)
    gamed = [
        game(float(i % 25 == 0), f"p{i}", "gamed", "base", (300, 295) if i % 25 == 0 else (3, 300)) for i in range(200)
    ]
    played = contest([*rows, *gamed])
    alone = length_controlled(played, "gamed", "base", QUICK)
    (found,) = [f for f in all_at_equal_length(played, QUICK, "base") if "gamed" in (f.one, f.other)]
    joint = found if found.one == "gamed" else found.swapped()
    assert alone.effect.value > 5 and joint.effect.value < 5
    assert alone.rate.high - alone.rate.low > joint.rate.high - joint.rate.low + 0.2
    assert "has the longer response in 96% of the games" in joint.note and joint.note != alone.note


def test_arms_with_nothing_to_correct_keep_their_raw_rate_beside_others():
    rows, _ = against_baseline(THREE, prompts=30)
    rows += [game(1.0, f"p{i}", "won", "base", (90 + i, 100)) for i in range(30)]
    rows += [game(float(i % 2), f"p{i}", "even", "base", (300, 300)) for i in range(30)]
    rows += [game(float(i % 2), f"p{i}", "long", "base", (400 + i, 300)) for i in range(30)]
    found = {f.other if f.one == "base" else f.one: f for f in all_at_equal_length(contest(rows), QUICK, "base")}
    assert found["won"].rate == found["won"].raw and found["even"].rate == found["even"].raw
    assert found["long"].rate is None and "is the longer in every game" in found["long"].note
    assert found["a"].effect is not None


def test_intervals_and_notes_grow_with_the_distance_to_equal_length():
    widths, said = [], []
    for longer in (0, 15, 30, 45):
        found = length_controlled(contest(planted(0.0, 1.0, prompts=200, longer=longer, seed=1)), "a", "b", QUICK)
        widths.append(found.rate.high - found.rate.low)
        said.append(found.note)
    assert widths == sorted(widths) and widths[-1] > 2 * widths[0]
    assert said[0] is None and said[1] is None
    points = [int(note.split(" are about ")[1].split(" points")[0]) for note in said[2:]]
    assert points[0] < points[1]


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
