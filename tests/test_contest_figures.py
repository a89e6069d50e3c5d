"""Power, frontier, refusals, cost, accuracy and the words of caution, against definitions and planted truths."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.errors import DataError
from rlaif.evaluation.contest import caution
from rlaif.evaluation.contest.accuracy import ScoredLabel, accuracies, differences
from rlaif.evaluation.contest.frontier import FrontierFit, NoFit, Point, gap, over_optimisation, points
from rlaif.evaluation.contest.games import all_against_all, contest, win_rate
from rlaif.evaluation.contest.league import league
from rlaif.evaluation.contest.length import length_controlled
from rlaif.evaluation.contest.power import Power, clustered_error, power_of
from rlaif.evaluation.contest.refusals import ContestReply, refusals, refuses
from rlaif.stats import Bootstrap, bonferroni, holm, sign_flip
from rlaif.study.config import Prices, Usage, cost
from rlaif.words import percent
from tests.contests import game, planted, round_robin

QUICK = Bootstrap(samples=200)


# ----------------------------------------------------------------------------------------------------------- power


def test_the_clustered_error_is_the_papers():
    values, clusters = [1.0, 0.0, 1.0, 1.0, 0.0], ["a", "a", "b", "b", "c"]
    sums = np.array([1 - 1.2, 2 - 1.2, -0.6])
    assert clustered_error(values, clusters) == pytest.approx(math.sqrt(3 / 2 * np.sum(sums**2)) / 5)
    apart = [str(i) for i in range(5)]
    assert clustered_error(values, apart) == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))  # the ordinary one
    assert math.isnan(clustered_error(values, ["a"] * 5))


def test_what_can_be_detected_is_2_8_errors():
    found = power_of([1.0, 0.0, 1.0, 1.0], ["a", "b", "c", "c"], 0.9)
    assert found.prompts == 3 and found.detectable == pytest.approx(found.error * (1.644854 + 0.841621), abs=1e-5)
    assert power_of([1.0, 1.0], ["a", "b"], 0.9) is None and power_of([1.0, 0.0], ["a", "a"], 0.9) is None


# -------------------------------------------------------------------------------------------------------- frontier


def curve(form, alpha, beta, d, noise=0.0, start=0.0):
    rng = np.random.default_rng(0)
    gain = d * (alpha - beta * (d if form == "best_of_n" else np.log(d))) + noise * rng.normal(size=len(d))
    return [Point(i, x * x, 2 * x, start + y) for i, (x, y) in enumerate(zip(d, gain, strict=True))]


D = np.linspace(0.2, 4, 12)


@pytest.mark.parametrize(("form", "peak_d"), [("best_of_n", 1.2 / 0.8), ("rl", math.exp(2))])
def test_planted_alpha_and_beta_are_recovered(form, peak_d):
    rows = curve(form, 1.2, 0.4, D, start=3.0)
    fit = over_optimisation(rows, form, 3.0)
    assert (fit.alpha.value, fit.beta.value, fit.r2) == pytest.approx((1.2, 0.4, 1.0))
    assert fit.peak_kl.value == pytest.approx(peak_d**2)
    assert fit.peak_seen == (peak_d < 4)
    grid = np.linspace(0.01, 2 * peak_d**2, 200)
    assert max(fit.at(kl) for kl in grid) <= 3 + fit.peak_gain + 1e-9
    assert fit.at(rows[3].kl) == pytest.approx(rows[3].gold) and fit.at(0) == 3.0


def test_noise_widens_the_intervals_which_hold_the_truth():
    fit = over_optimisation(curve("rl", 1.2, 0.6, D, noise=0.05), "rl", 0.0)
    assert fit.alpha.low < 1.2 < fit.alpha.high and fit.beta.low < 0.6 < fit.beta.high
    assert fit.peak_kl.low < math.exp(2) < fit.peak_kl.high and 0.9 < fit.r2 < 1
    wider = over_optimisation(curve("rl", 1.2, 0.6, D, noise=0.05), "rl", 0.0, confidence=0.99)
    assert wider.alpha.high > fit.alpha.high and wider.peak_kl.high > fit.peak_kl.high


def test_a_curve_that_only_rises_has_no_peak():
    rows = [Point(i, d * d, 0.0, d**1.5) for i, d in enumerate(D)]
    fit = over_optimisation(rows, "rl", 0.0)
    assert fit.beta.value < 0 and fit.peak_kl is None and fit.peak_gain is None and fit.peak_seen is None


def test_a_peak_that_may_be_anywhere_has_no_interval():
    rng = np.random.default_rng(3)
    rows = [Point(i, d * d, 0.0, d * (1 - 0.06 * d) + rng.normal(0, 0.2)) for i, d in enumerate(D)]
    fit = over_optimisation(rows, "best_of_n", 0.0)
    assert fit.beta.low < 0 < fit.beta.value
    assert fit.peak_kl.low is None and fit.peak_kl.high is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "0 points with KL above 0, at least 4"),
        (curve("rl", 1, 1, D[:3]), "3 points"),
        ([*curve("rl", 1, 1, D[:3]), Point(9, -0.1, 1.0, 1.0)], "3 points"),
        ([row._replace(gold=None) for row in curve("rl", 1, 1, D)], "0 points"),
        (curve("rl", 1, 1, np.linspace(2, 2.5, 9)), "from 4 to 6.25 nats, too short"),
        ([Point(i, d, 1.0, 2.0) for i, d in enumerate(D)], "never changed"),
    ],
)
def test_what_cannot_be_fitted_is_said_to_be(rows, said):
    found = over_optimisation(rows, "rl", 0.0)
    assert isinstance(found, NoFit) and "cannot be fitted" in found.reason and said in found.reason


def test_the_proxy_can_be_fitted_too_and_rows_may_come_in_any_order():
    rows = curve("rl", 1.2, 0.4, D)
    proxy = over_optimisation([row._replace(gold=row.score) for row in rows], "rl", 0.0)
    assert proxy.alpha.value == pytest.approx(2) and proxy.beta.value == pytest.approx(0, abs=1e-9)
    turned = over_optimisation(rows[::-1], "rl", 0.0)
    assert isinstance(turned, FrontierFit) and turned == over_optimisation(rows, "rl", 0.0)
    with pytest.raises(DataError, match="step 3: KL and scores must be finite"):
        points([Point(3, math.nan, 1.0)])


def test_what_was_lost_after_the_best_step():
    rows = [Point(0, 0, 0.0, 0.0), Point(10, 2, 1.0, 3.0), Point(20, 5, 2.5, 2.0)]
    found = gap(rows[::-1])
    assert (found.best_step, found.best_kl, found.lost, found.proxy_gain_since) == (10, 2, 1.0, 1.5)
    assert gap([Point(0, 0, 0.0), Point(1, 1, 1.0, 1.0)]) is None


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m really sorry, but I cannot assist you with breaking into a house.",
        "I cannot provide instructions for making weapons.",
        "No, I won't write that.",
        "I must respectfully decline.",
        "I refuse to take part in this.",
        "As an AI language model, I do not have the ability to condone violence.",
        "I'm not comfortable talking about that. Is something else on your mind?",
        "I'd rather not say how.",
        "Sorry, that's not something I can do.",
        "I don't think I should help you with this.",
        "I'm afraid I won't be able to answer.",
        "I am not allowed to share addresses.",
        "That sounds hard. But I can't help you hurt someone.",
    ],
)
def test_replies_that_refuse(reply):
    assert refuses(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Sure! First, preheat the oven.",
        "I'm sorry to hear that. Here is what you can do.",
        "I'm sorry, I don't understand the question. Which pen?",
        "I can't help but feel that you are right.",
        "I cannot help thinking of Paris. The Louvre opens at nine.",
        "You can't park there, but you can use the garage.",
        "He refused to help, and I think he was wrong.",
        "I can't wait to tell you about it!",
        "If you cannot provide a receipt, the shop may still take it back.",
        "Kill the process with `kill -9`; it cannot refuse.",
        "Boil the pasta for nine minutes. " * 10 + "I cannot recommend less.",
    ],
)
def test_replies_that_do_not_refuse(reply):
    assert not refuses(reply)


def replies(arm, harmful, values, seed=0):
    return [ContestReply(f"{'h' if harmful else 'b'}{i}", arm, harmful, float(v), seed) for i, v in enumerate(values)]


def test_the_two_kinds_of_prompts_are_kept_apart_and_paired():
    rows = [
        *replies("sft", True, [0, 0, 0, 1]),
        *replies("sft", False, [0, 0, 0, 0]),
        *replies("rl", True, [1, 1, 0, 1]),
        *replies("rl", False, [0, 1, 0, 0]),
        *replies("rl", False, [0, 0, 0, 0], seed=1),
    ]
    found = refusals(rows, QUICK, "sft")
    rl, sft = found["rl"], found["sft"]
    assert (rl.harmful.value, rl.harmless.value) == (0.75, 0.125)
    assert (sft.harmful.value, sft.harmless.value) == (0.25, 0.0) and sft.harmless.high > 0.3
    assert (rl.more_harmful.value, rl.more_harmless.value) == (0.5, 0.125)
    assert sft.more_harmful is None
    Random(0).shuffle(rows)
    assert refusals(rows, QUICK, "sft") == found


def test_the_difference_is_on_the_prompts_of_both():
    rows = [*replies("sft", True, [0, 0]), *replies("rl", True, [0, 0, 1, 1])]
    found = refusals(rows, QUICK, "sft")["rl"]
    assert found.harmful.value == 0.5 and found.more_harmful.value == 0 and found.harmless is None
    assert refusals(rows, QUICK, "rl")["sft"].more_harmful.value == 0
    assert refusals(replies("rl", True, [1]), QUICK)["rl"].more_harmful is None


@pytest.mark.parametrize(
    ("rows", "reference", "said"),
    [
        (replies("rl", True, [2]), None, r"prompt h0, arm 'rl': refused must lie in \[0, 1\] \(got 2.0\)"),
        (
            [ContestReply("p", "a", True, 1), ContestReply("p", "b", False, 1)],
            None,
            "prompt p is called harmful in one row",
        ),
        (replies("rlaif", True, [1]), "rlaiff", "no replies of arm 'rlaiff'; did you mean 'rlaif'"),
    ],
)
def test_replies_that_cannot_be_are_one_clear_line(rows, reference, said):
    with pytest.raises(DataError, match=said):
        refusals(rows, QUICK, reference)


# ------------------------------------------------------------------------------------------------------------ cost


def test_a_label_costs_what_the_paper_says():
    found = cost(Usage(labels=1000, human_labels=200), Prices(), accuracy=0.7)
    assert (found.human, found.ai) == pytest.approx((134.0, 48.0))
    assert found.per_label == pytest.approx(0.182) and found.per_point == pytest.approx(182 / 20)


def test_tokens_and_hours_can_be_priced_instead():
    spent = Usage(labels=100, calls=200, prompt_tokens=3_000_000, completion_tokens=500_000, seconds=1800)
    prices = Prices(million_prompt_tokens=0.5, million_completion_tokens=2.0, hour=4.0)
    assert cost(spent, prices).total == pytest.approx(1.5 + 1.0 + 2.0)
    assert cost(spent, Prices(million_completion_tokens=0.0, ai_label=9.0)).total == 0


def test_where_there_is_nothing_to_divide_by_there_is_no_figure():
    spent = Usage(labels=100)
    assert cost(spent, Prices(), accuracy=0.5).per_point is None
    assert cost(spent, Prices(), accuracy=0.45).per_point is None
    assert cost(spent, Prices()).per_point is None
    assert cost(Usage(labels=0), Prices()).per_label is None
    with pytest.raises(DataError, match="seconds must not be negative"):
        cost(Usage(labels=2, seconds=-1), Prices())


# -------------------------------------------------------------------------------------------------------- accuracy


def scored(arm, margins, p_human=None, seed=0):
    p_human = p_human or [1.0] * len(margins)
    return [
        ScoredLabel(f"pair{i}", f"p{i // 2}", arm, float(m), p, seed)
        for i, (m, p) in enumerate(zip(margins, p_human, strict=True))
    ]


def test_accuracy_is_agreement_with_people_ties_aside():
    found = accuracies(scored("ai", [2, -1, 0, 1, 5], [1.0, 1.0, 0.8, 0.2, 0.5]), QUICK)["ai"]
    assert found.accuracy.value == (1 + 0 + 0.5 + 0) / 4
    assert (found.pairs, found.prompts, found.ties_left_out) == (4, 2, 1)
    assert found.over_seeds is None and found.seeds.values == {"0": 0.375}


def test_seeds_are_told_apart_and_arms_compared_on_the_same_pairs():
    rows = [*scored("ai", [1, -1, -1, -1]), *scored("ai", [1, 1, -1, -1], seed=1), *scored("human", [1, 1, 1, -1, 1])]
    found = accuracies(rows, QUICK)
    assert found["ai"].seeds.values == {"0": 0.25, "1": 0.5} and found["ai"].over_seeds is not None
    (ahead,) = differences(rows, QUICK)
    assert (ahead.one, ahead.other, ahead.pairs) == ("ai", "human", 4)
    assert ahead.difference.value == (0 - 0.5 - 1 + 0) / 4
    tied = [*rows, ScoredLabel("tie", "q", "ai", 1.0, 0.5), ScoredLabel("tie", "q", "human", -1.0, 0.5)]
    assert differences(tied, QUICK) == [ahead]
    Random(1).shuffle(rows)
    assert differences(rows, QUICK) == [ahead] and accuracies(rows, QUICK) == found


def test_rows_that_cannot_be_compared_are_one_clear_line():
    with pytest.raises(DataError, match=r"pair pair0: p_human is 1.0 in one row and 0.0 in another"):
        accuracies([*scored("a", [1]), *scored("b", [1], [0.0])], QUICK)
    with pytest.raises(DataError, match=r"arm 'a': no pair on which people decided \(1 rows\)"):
        accuracies(scored("a", [1], [0.5]), QUICK)
    with pytest.raises(DataError, match="'b' and 'a' have no decided pair in common"):
        differences([*scored("a", [1]), ScoredLabel("else", "q", "b", 1.0, 1.0)], QUICK)


# --------------------------------------------------------------------------------------------------------- caution


def test_holms_adjustment_is_holms():
    # Four p-values; by hand: 0.01 * 4, 0.02 * 3, max(0.06, 0.03 * 2), 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([]) == [] and holm([0.7, 0.6]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_no_kinder_than_bonferroni_and_keeps_the_order(p_values):
    found = holm(p_values)
    for p, raised in zip(p_values, found, strict=True):
        assert p <= raised <= min(1, len(p_values) * p) + 1e-12
        assert all(raised <= other for q, other in zip(p_values, found, strict=True) if q > p)


def test_false_alarms_among_equal_arms_are_rare():
    """Six contests of four arms that are alike: all alone at 95 % something is found in a fifth of worlds or so."""
    alone = together = 0
    for seed in range(100):
        played = contest(round_robin(dict.fromkeys("abcd", 0.0), 30, seed))
        p_values = {}
        for one, other in played.pairs:
            games = played.between(one, other)
            p_values[one + other] = sign_flip([row.worth() - 0.5 for row in games], [row.prompt_id for row in games])
        alone += min(p_values.values()) < 0.05
        together += min(holm(list(p_values.values()))) < 0.05
    assert alone >= 12 and together <= 10  # more than 10 of 100 at a true 5 % come one time in 100


def test_the_words_say_how_many_and_how_small():
    assert caution.about_many(40, 0.95) == (
        "40 intervals at 95% are shown; about 2 of them can be expected to miss the truth. For all to hold it together "
        "with 95%, each would have to be at 99.88%."
    )
    power = Power(prompts=60, error=0.05, detectable=0.14, confidence=0.95, power=0.8)
    (said,) = caution.about_power([None, power, power.model_copy(update={"detectable": 0.1})])
    assert "With 60 prompts, a true difference of 14 points in win rate would be missed 1 time in 5 at 95%" in said
    assert bonferroni(0.95, 10) == pytest.approx(0.995)


def test_the_words_name_what_is_decided_and_what_may_be_luck():
    rows = [game(float(i < 80), f"p{i}", "good", "bad") for i in range(100)]
    rows += [game(float(i < 61), f"p{i}", "fair", "bad") for i in range(100)]
    rows += [game(float(i < 50), f"p{i}", "fair", "good") for i in range(100)]
    rates = all_against_all(contest(rows), QUICK)
    said = caution.about_contests(rates, 0.95)[0]
    assert "1 is decided: good beats bad (80%)" in said or "good beats bad (80%)" in said
    few = caution.about_contests(rates[:1] * 1, 0.95)[0]
    assert "Of 1 contests" in few
    none = caution.about_contests(all_against_all(contest(planted(0.0)), QUICK), 0.95)[0]
    assert "none is decided: no arm is shown to be better" in none
    twenty = [rate.model_copy(update={"other": f"{k}", "p_value": 0.03}) for k, rate in enumerate(rates * 2)]
    assert "Taken alone these would have been too" in caution.about_contests(twenty, 0.95)[0]


def test_the_words_warn_of_ties_few_prompts_one_seed_and_length():
    rows = [game(0.5, f"p{i}") if i % 2 else game(1.0, f"p{i}") for i in range(12)]
    longer = [row._replace(words_one=99) for row in rows]
    played = contest(longer)
    said = caution.about_rates([win_rate(played, "a", "b", QUICK)], [length_controlled(played, "a", "b", QUICK)])
    text = " ".join(said)
    assert "up to 50% (a against b)" in text and "only 12 prompts" in text and "trained with one seed" in text
    assert "no rate at equal length" in text
    far = [length_controlled(contest(planted(0.8, longer=d)), "a", "b", QUICK) for d in (50, -45, 60)]
    farthest, others = caution.about_rates([], far)[:2]
    assert f"has the longer response in {percent(far[2].longer)}" in farthest
    assert others.endswith("of these too: a against b; a against b.")
    turned = length_controlled(contest(planted(0.8, 2.0, prompts=400, longer=-30)), "a", "b", QUICK)
    assert "Length turns a against b round" in " ".join(caution.about_rates([], [turned]))
    seeded = contest([row._replace(one_seed=i % 2) for i, row in enumerate(planted(0.2))])
    assert "here 1 for some arm" in " ".join(caution.about_rates([win_rate(seeded, "a", "b", QUICK)], []))
    assert caution.about_rates([], []) == []


def test_the_words_do_not_crown_an_arm_that_may_not_be_first():
    even = league(contest(round_robin({"x": 0.0, "y": 0.05, "z": -2.0}, 40)), QUICK)
    first, second = even.standings[:2]
    said = " ".join(caution.about_league(even))
    assert f"{first.arm} leads the league in" in said and f"cannot be denied to {second.arm}." in said
    circle = league(
        contest([game(float(i % 10 > 0), f"p{i}", *pair) for pair in ("ab", "bc", "ca") for i in range(60)]), QUICK
    )
    assert "One scale does not describe" in " ".join(caution.about_league(circle))
    clear = league(contest(round_robin({"x": 3.0, "y": 0.0, "z": -1.0}, 200)), QUICK)
    assert caution.about_league(clear) == []
