"""The intervals hold the truth as often as they say, and the power is what it is said to be: by simulation.

Worlds are seeded, so a pass is a pass. Marks lie where a sound procedure at its nominal level would have missed them
less than once in a hundred draws of the worlds.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from rlaif.evaluation.contest.accuracy import ScoredLabel, accuracies, differences
from rlaif.evaluation.contest.frontier import FrontierFit, Point, over_optimisation
from rlaif.evaluation.contest.games import contest, win_rate
from rlaif.evaluation.contest.joint import all_at_equal_length
from rlaif.evaluation.contest.league import ELO_PER_LOGIT, league
from rlaif.evaluation.contest.length import length_controlled
from rlaif.evaluation.contest.power import power_of
from rlaif.stats import Bootstrap
from tests.contests import against_baseline, game, planted, round_robin
from tests.tiers import in_worlds, least

FEW, MANY = 40, 200
"""Worlds. Of 200 sound 95 % intervals fewer than 181 hold the truth one time in 200, more than 197 one time in 40."""


def plausible(held, worlds):
    """Of 95 % intervals: no fewer, and with many worlds no more, than chance allows."""
    return least(worlds) <= held and (worlds < MANY or held <= 197)


def held(estimate, truth):
    return estimate.low <= truth <= estimate.high


@in_worlds(FEW, MANY)
def test_win_rates_with_clustered_games_and_ties(worlds):
    covered = 0
    for seed in range(worlds):
        rng = np.random.default_rng(10**6 + seed)
        rows = [row._replace(p_one=0.5) if rng.random() < 0.15 else row for row in planted(0.6, games=3, seed=seed)]
        found = win_rate(contest(rows), "a", "b", Bootstrap(200, seed=seed))
        covered += held(found.rate, 0.15 * 0.5 + 0.85 * expit(0.6))
    assert plausible(covered, worlds)


@in_worlds(FEW, MANY)
def test_length_controlled_win_rates(worlds):
    """At a strong bias and a longer arm; the raw rate of the same games is far outside. The model is true here, and the
    interval allows for one that is not, so it may hold more often."""
    covered = fooled = inside = 0
    for seed in range(worlds):
        found = length_controlled(contest(planted(0.4, 1.5, longer=20, seed=seed)), "a", "b", Bootstrap(200, seed=seed))
        covered += held(found.rate, expit(0.4))
        fooled += not held(found.raw, expit(0.4))
        # The length term is tanh(d / s) with s estimated from the words, here 30 on average, so phi is as planted.
        inside += held(found.effect, 1.5)
    assert min(covered, inside) >= least(worlds)
    assert fooled / worlds > 0.4


@in_worlds(20, MANY)
def test_rates_at_equal_length_where_prompts_differ_in_difficulty(worlds):
    """Nine in ten or more: the joint ones as the alone, whose intervals know how far they reach, and are wider."""
    covered, wide = {"joint": 0, "alone": 0}, {"joint": 0.0, "alone": 0.0}
    for seed in range(worlds):
        rows, true = against_baseline({"a": -1.0, "b": 0.0, "c": -0.5}, seed=seed)
        played, bootstrap = contest(rows), Bootstrap(200, seed=seed)
        (joint,) = [found for found in all_at_equal_length(played, bootstrap, "base") if found.one == "a"]
        alone = length_controlled(played, "a", "base", bootstrap)
        for kind, found in (("joint", joint), ("alone", alone)):
            covered[kind] += held(found.rate, true["a"])
            wide[kind] += found.rate.high - found.rate.low
    assert min(covered.values()) >= 0.9 * worlds, covered
    assert wide["joint"] < 0.8 * wide["alone"]


@in_worlds(FEW, MANY)
def test_elo(worlds):
    strengths = {"a": 0.0, "b": 0.5, "c": 1.0}
    covered = dict.fromkeys("bc", 0)
    for seed in range(worlds):
        table = league(contest(round_robin(strengths, prompts=40, seed=seed)), Bootstrap(150, seed=seed), "a")
        for standing in table.standings[:3]:
            if standing.arm in covered:
                covered[standing.arm] += held(standing.elo, 1000 + ELO_PER_LOGIT * strengths[standing.arm])
    assert all(plausible(count, worlds) for count in covered.values()), covered


@in_worlds(FEW, MANY)
def test_win_rates_of_methods_whose_seeds_differ(worlds):
    """Each seed has its own true rate. Over prompts alone the method's rate is missed, over seeds held."""
    covered = blind = 0
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        rates = np.clip(0.65 + 0.1 * rng.normal(size=4), 0, 1)
        rows = [game(float(rng.random() < r), f"p{i}", seeds=(s, 0)) for i in range(60) for s, r in enumerate(rates)]
        found = win_rate(contest(rows), "a", "b", Bootstrap(100, seed=seed))
        covered += held(found.over_seeds, 0.65)
        blind += held(found.rate, 0.65)
    assert covered >= least(worlds)
    assert blind / worlds < 0.8


@in_worlds(FEW, MANY)
def test_reward_model_accuracy_and_its_differences(worlds):
    """Two reward models on the same pairs, three pairs a prompt: a pair that is hard for one is for the other."""
    covered = between = 0
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        rows = []
        for i in range(180):
            luck = rng.random()
            for arm, right in (("ai", 0.65), ("human", 0.75)):
                own = luck if rng.random() < 0.7 else rng.random()
                rows.append(ScoredLabel(f"pair {i}", f"p{i // 3}", arm, 1.0 if own < right else -1.0, 1.0))
        covered += held(accuracies(rows, Bootstrap(200, seed=seed))["ai"].accuracy, 0.65)
        between += held(differences(rows, Bootstrap(200, seed=seed))[0].difference, 0.65 - 0.75)
    assert plausible(covered, worlds) and plausible(between, worlds)


@in_worlds(FEW, MANY)
def test_over_optimisation_with_steps_that_resemble_each_other(worlds):
    """Residuals that follow an AR(1) series with 0.5: 91 % hold over a thousand worlds, 75 % would without widening."""
    covered, shown = {"alpha": 0, "beta": 0, "peak": 0}, 0
    d = np.linspace(0.3, 5, 25)
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        noise = [0.0]
        for shock in rng.normal(0, 0.1, len(d)):
            noise.append(0.5 * noise[-1] + shock)
        gold = d * (1.5 - 0.7 * np.log(d)) + noise[1:]
        fit = over_optimisation(
            [Point(i, x * x, 0.0, y) for i, (x, y) in enumerate(zip(d, gold, strict=True))], "rl", 0.0
        )
        assert isinstance(fit, FrontierFit)
        covered["alpha"] += held(fit.alpha, 1.5)
        covered["beta"] += held(fit.beta, 0.7)
        shown += fit.peak_kl.low is not None
        covered["peak"] += fit.peak_kl.low is None or held(fit.peak_kl, np.exp(2 * (1.5 / 0.7 - 1)))
    assert min(covered.values()) >= least(worlds, 0.91) and shown > 0.9 * worlds, (covered, shown)


# ----------------------------------------------------------------------------------------------------------- power


def drawn(rng, prompts, difference, between, within, samples):
    """Values whose prompt means are N(difference, between), each with noise of variance `within`."""
    means = rng.normal(difference, np.sqrt(between), prompts)
    return means[:, None] + rng.normal(0, np.sqrt(within), (prompts, samples))


def share_found(prompts, difference, between, within, samples, worlds=2000):
    """How often a two-sided test at 95 %, with the error estimated from the data, finds the difference."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(worlds):
        means = drawn(rng, prompts, difference, between, within, samples).mean(1)
        found += abs(means.mean()) > 1.96 * means.std(ddof=1) / np.sqrt(prompts)
    return found / worlds


def test_the_detectable_difference_is_detected_4_times_in_5_and_half_of_it_rarely():
    rng = np.random.default_rng(1)
    sample = drawn(rng, 4000, 0.0, 0.05, 0.2, 2)
    power = power_of(sample.ravel().tolist(), [str(i // 2) for i in range(8000)], 0.95)
    difference = power.detectable * np.sqrt(4000 / 100)
    assert abs(share_found(100, difference, 0.05, 0.2, 2) - 0.8) < 0.03
    assert share_found(100, difference / 2, 0.05, 0.2, 2) < 0.4
