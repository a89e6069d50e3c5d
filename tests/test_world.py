"""A world where the truth is known: its parts by their definitions, and the method put to the proof in it.

All people and judges here are simulated. Seeds are fixed; the claims at the end are made with more repetitions by
benchmarks/known_truth.py, which prints the table.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from benchmarks.world import policies as arms
from benchmarks.world import texts
from benchmarks.world.labels import BIASED, CONTEST, UNBIASED, Traits, judge_of, people
from benchmarks.world.policies import Simulated, Size, train_arms
from benchmarks.world.truth import Draw, hold, order_of, true_rates, true_scores
from rlaif.evaluation.contest.games import win_rate
from rlaif.evaluation.contest.league import league
from rlaif.feedback.pairs import choice
from rlaif.records import Message, Pair, Preference, Prompt
from rlaif.stats import Bootstrap
from tests.tiers import in_worlds, least

REPETITIONS = 3
FEW, STUDIES = 25, 100


def all_pairs(world: texts.World, prompts: range) -> list[Pair]:
    """The first response of each prompt with the second, the third with the fourth and so on."""
    found = []
    for n in prompts:
        held = [response.text for response in world.responses(n)]
        found += [Pair.of(world.prompt(n), a, b) for a, b in zip(held[::2], held[1::2], strict=True)]
    return found


def row(chosen: str, rejected: str, p: float, weight: float = 1.0) -> Preference:
    pair = Pair.of(Prompt.of((Message(role="user", content="q"),)), chosen, rejected)
    turns = [(Message(role="assistant", content=text),) for text in (chosen, rejected)]
    held = {"prompt": pair.prompt, "chosen": turns[0], "rejected": turns[1], "prompt_id": pair.prompt_id}
    return Preference(**held, p_chosen=p, source="ai", weight=weight, split="train", pair_id=pair.id)


# ----------------------------------------------------------------------------------------------- the world


def test_responses_are_what_their_words_are_worth_and_no_two_are_alike():
    world = texts.make_world(50, 8, seed=3)
    for n in range(50):
        held = [response.text for response in world.responses(n)]
        assert len(set(held)) == 8 and all(held)
        assert world.gold[n] == pytest.approx([texts.gold_value(text) for text in held])
        assert world.lengths[n].tolist() == [len(text.split()) for text in held]
        features = np.array([texts.features(text) for text in held])
        assert (features == np.column_stack([world.counts[n], world.lengths[n]])).all()
    assert texts.gold_value("true kind false") == pytest.approx(1.0 + 0.6 - 1.5)


def test_length_itself_is_worth_nothing():
    assert texts.gold_value("true so so so indeed") == texts.gold_value("true")
    world = texts.make_world(4000, 8, seed=0)
    slope = np.polyfit(world.lengths.ravel(), world.gold.ravel(), 1)[0]
    assert slope == pytest.approx((texts.MEANS @ texts.VALUES) / texts.MEANS.sum(), abs=0.01)
    assert abs(slope) < 0.02, "nor does a long response happen to be much better or worse"


def test_the_same_seed_makes_the_same_world_and_another_seed_another():
    one, again, other = (texts.make_world(5, 8, seed) for seed in (1, 1, 2))
    assert (one.counts == again.counts).all() and not (one.counts == other.counts).all()
    assert one.prompt(0).id != other.prompt(0).id


# ------------------------------------------------------------------------------------------- who labels it


def test_a_judge_compares_merits_and_its_position_bias_cancels():
    world = texts.make_world(20, 8, seed=1)
    traits = Traits(scale=0.7, length_bias=0.2, blind_to=("rude",), position=1.5, whim=0.5)
    judge = judge_of(world, traits, "odd", 7)
    seen = world.gold - world.counts[:, :, texts.WORDS.index("rude")] * texts.VALUE_OF["rude"]
    whims = judge.merit - 0.7 * seen - 0.2 * world.lengths
    assert whims.std() == pytest.approx(0.5 * np.pi / np.sqrt(6), rel=0.2), "a Gumbel law"
    plain = judge._replace(position=0.0)
    pairs = all_pairs(world, range(20))
    for judgment, same in zip(judge.label(world, range(20), pairs), plain.label(world, range(20), pairs), strict=True):
        n = [world.prompt(i).id for i in range(20)].index(judgment.pair.prompt_id)
        held = [response.text for response in world.responses(n)]
        lead = judge.merit[n, held.index(judgment.pair.a)] - judge.merit[n, held.index(judgment.pair.b)]
        assert logit(judgment.p_a) == pytest.approx(lead)
        assert judgment.p_a == pytest.approx(same.p_a)
        assert judgment.principles[0].swap_gap > 0 and same.principles[0].swap_gap == pytest.approx(0)
        assert (judgment.source, judgment.annotator) == ("ai", "simulated:odd")


def test_the_contest_judge_chooses_as_often_as_the_gold_preference_says():
    world = texts.make_world(1500, 8, seed=2)
    judgments = judge_of(world, CONTEST, "contest", 1).label(world, range(1500), all_pairs(world, range(1500)))
    gold = np.array([texts.gold_preference(judgment.pair) for judgment in judgments])
    chose = np.array([judgment.p_a > 0.5 for judgment in judgments])
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1)):
        inside = (gold >= low) & (gold < high)
        error = np.sqrt(np.sum((gold * (1 - gold))[inside])) / inside.sum()
        assert abs(chose[inside].mean() - gold[inside].mean()) < 3 * error, (low, high)


def test_the_biased_judge_is_drawn_to_length_and_the_unbiased_is_not():
    world = texts.make_world(500, 8, seed=4)
    shares = {}
    for name, traits in (("biased", BIASED), ("unbiased", UNBIASED)):
        judged = judge_of(world, traits, name, 1).label(world, range(500), all_pairs(world, range(500)))
        gaps = [(len(j.pair.a.split()) - len(j.pair.b.split()), j.p_a > 0.5) for j in judged]
        shares[name] = np.mean([(gap > 0) == chose for gap, chose in gaps if gap])
    assert shares["biased"] > 0.68, "LLM judges: 0.68 to 0.79 (AlpacaEval's table)"
    assert abs(shares["unbiased"] - 0.5) < 0.04


def test_people_are_named_simulated_and_say_the_opposite_in_a_quarter():
    world = texts.make_world(1000, 8, seed=5)
    labels = people(all_pairs(world, range(1000)), seed=1)
    assert {(label.source, label.answer.simulated) for label in labels} == {("human", True)}
    assert all(label.annotator.startswith("simulated:") for label in labels)
    labels = [label for label in labels if choice(texts.gold_preference(label.pair)) != 0.5]
    assert {label.p_a for label in labels} == {0, 1}, "only an exact tie is called one"
    says = np.array([0.25 + 0.5 * texts.gold_preference(label.pair) for label in labels])
    gap = sum(label.p_a for label in labels) - says.sum()
    assert abs(gap) < 3 * np.sqrt(np.sum(says * (1 - says)))
    likely = np.mean([label.p_a if p > 0.5 else 1 - label.p_a for label, p in zip(labels, says, strict=True)])
    assert likely == pytest.approx(np.maximum(says, 1 - says).mean(), abs=0.02)


# ------------------------------------------------------------------------------- reward models and policies


def test_the_loss_is_that_of_training():
    from rlaif.training.losses.preference import bradley_terry_loss

    rng = np.random.default_rng(0)
    margin, p, weight = rng.normal(0, 3, 50), rng.uniform(0.5, 1, 50), rng.uniform(0.1, 4, 50)
    torched = bradley_terry_loss(*(torch.tensor(value) for value in (margin, p, weight)))
    assert arms.preference_loss(margin, p, weight) == pytest.approx(torched.numpy(), rel=1e-12)


def test_a_reward_model_learns_the_odds_it_is_told_and_heeds_weights():
    rows = [row("true so", "kind so", 0.8), row("kind", "rude", 0.9), row("so kind", "true so", 0.5, 1e-9)]
    weights = arms.train_reward(rows)
    margin = weights @ (texts.features("true so") - texts.features("kind so"))
    assert margin == pytest.approx(logit(0.8), abs=0.03)
    opposed = [row("true so", "kind so", 0.8, 3.0), row("kind so", "true so", 0.8, 1.0)]
    even = arms.train_reward(opposed) @ (texts.features("true so") - texts.features("kind so"))
    assert expit(even) == pytest.approx((3 * 0.8 + 0.2) / 4, abs=0.01)


def test_best_of_n_by_enumeration_with_equal_rewards():
    reward = np.array([[0.3, 1.0, 1.0, -2.0]])
    found = np.zeros(4)
    for drawn in product(range(4), repeat=3):
        most = max(reward[0, k] for k in drawn)
        best = [k for k in range(4) if reward[0, k] == most]
        found[best] += 1 / 4**3 / len(best)
    assert arms.best_of(reward, 3)[0] == pytest.approx(found)


def test_the_budget_is_what_best_of_n_spends_and_below_the_usual_bound():
    shares = np.array([((k + 1) / 8) ** 4 - (k / 8) ** 4 for k in range(8)])
    assert arms.budget_of(8, 4) == pytest.approx(np.sum(shares * np.log(8 * shares)))
    assert arms.budget_of(8, 4) < np.log(4) - 3 / 4
    assert arms.budget_of(500, 4) == pytest.approx(np.log(4) - 3 / 4, abs=0.01)


@pytest.fixture(scope="module")
def biased() -> Simulated:
    return train_arms(BIASED, 0, Size())


def test_every_arm_spends_the_same_and_the_oracle_buys_most(biased):
    new = list(biased.new)
    budget = arms.budget_of(8, 4)
    gold = {name: np.mean(np.sum(policy * biased.world.gold, axis=1)[new]) for name, policy in biased.policies.items()}
    for name, policy in biased.policies.items():
        assert policy.sum(axis=1) == pytest.approx(np.ones(len(policy)))
        assert arms.kl(policy[new]).mean() == pytest.approx(0 if name == "reference" else budget, abs=1e-6), name
    assert max(gold, key=gold.__getitem__) == "oracle"


def test_hybrids_see_people_on_their_share_alone_and_rlaif_never(biased):
    labels = biased.labels
    assert len(labels.ai) == len(labels.human) == 1200 and len(labels.some) == 240
    rows = arms.preferences(labels)
    asked = {label.pair.id for label in labels.some}
    for name, found in rows.items():
        people_said = {one.pair_id for one in found if one.source == "human"}
        if name == "rlaif":
            assert not people_said
        elif name == "rlhf":
            assert len(people_said) > 900 and len(people_said) == len(found)
        else:
            assert people_said and people_said <= asked, name
    assert {one.source for one in rows["hybrid"]} == {"ai", "human"}
    assert not {one.pair_id for one in rows["hybrid"] if one.source == "ai"} & asked


# ---------------------------------------------------------------------------------------------- what is true


def test_true_rates_by_their_sum():
    world = texts.make_world(3, 4, seed=6)
    rng = np.random.default_rng(0)
    policies = {name: rng.dirichlet(np.ones(4), 3) for name in ("x", "y", "z")}
    rates = true_rates(world, policies, [0, 2])
    expected = 0.0
    for n, i, j in product((0, 2), range(4), range(4)):
        wins = 1 / (1 + np.exp(world.gold[n, j] - world.gold[n, i]))
        expected += policies["x"][n, i] * policies["y"][n, j] * wins / 2
    assert rates["x", "y"] == pytest.approx(expected)
    assert rates["y", "x"] == pytest.approx(1 - expected) and rates["z", "z"] == pytest.approx(0.5)
    assert true_scores(rates)["x"] == pytest.approx((rates["x", "y"] + rates["x", "z"]) / 2)


def test_a_contest_is_a_round_robin_of_real_samples_judged_once(biased):
    some = {name: biased.policies[name] for name in ("reference", "rlaif", "oracle")}
    played = hold(biased.world, some, biased.new, Draw(seed=1, prompts=10, samples=3))
    assert len(played.games) == 10 * 3 * 3 and len({game.prompt_id for game in played.games}) == 10
    assert played == hold(biased.world, some, biased.new, Draw(seed=1, prompts=10, samples=3))
    assert played != hold(biased.world, some, biased.new, Draw(seed=2, prompts=10, samples=3))
    even = dict.fromkeys(("one", "other"), np.eye(8)[np.zeros(len(biased.world.counts), int)])
    games = hold(biased.world, even, biased.new, Draw(seed=1, prompts=5)).games
    assert {game.p_one for game in games} == {0.5}, "equal texts are a tie"


# ----------------------------------------------------------------------------------------- the method's proof


@in_worlds(FEW, STUDIES)
def test_intervals_hold_the_true_win_rates(biased, worlds):
    """Fixed policies; new prompts, samples and whims every time. At least 93 of 100 for every arm."""
    chosen = ("reference", "rlaif", "hybrid", "oracle")
    some = {name: biased.policies[name] for name in chosen}
    rates = true_rates(biased.world, some, biased.new)
    held = dict.fromkeys(chosen[1:], 0)
    for seed in range(worlds):
        played = hold(biased.world, some, biased.new, Draw(seed))
        for arm in held:
            found = win_rate(played, arm, "reference", Bootstrap(400, seed=seed)).rate
            held[arm] += found.low <= rates[arm, "reference"] <= found.high
    assert min(held.values()) >= (93 if worlds == STUDIES else least(worlds)), held
    assert worlds < STUDIES or sum(held.values()) <= 296, f"too wide to be of 95 %: {held}"


@pytest.mark.slow
def test_the_league_has_the_true_order_where_the_study_can_tell(biased):
    rates = true_rates(biased.world, biased.policies, biased.new)
    played = hold(biased.world, biased.policies, biased.new, Draw(0))
    table = league(played, Bootstrap(20), "reference")
    found = order_of(played, table, rates)
    assert found.pairs == 105 and found.clear >= 25
    assert found.wrong == 0
    assert found.tau > 0.6
    reverse = {(one, other): 1 - rate for (one, other), rate in rates.items()}
    turned = order_of(played, table, reverse)
    assert turned.wrong == turned.clear == found.clear and turned.tau == pytest.approx(-found.tau)


@pytest.mark.slow
def test_a_large_study_recovers_the_whole_order(biased):
    """Six arms whose true win rates are points apart, on 700 prompts."""
    some = {n: biased.policies[n] for n in ("reference", "rlaif", "hybrid_weighted", "rlhf", "direct", "oracle")}
    rates = true_rates(biased.world, some, biased.new)
    played = hold(biased.world, some, biased.new, Draw(0, prompts=700, samples=2))
    assert order_of(played, league(played, Bootstrap(20), "reference"), rates).tau == pytest.approx(1)


def true_gains(traits: Traits, repetitions: int) -> dict[str, np.ndarray]:
    """By arm and repetition: the true win rate against the reference, less rlaif's."""
    gains: dict[str, list[float]] = {}
    for seed in range(100, 100 + repetitions):
        made = train_arms(traits, seed, Size(new=1000))
        rates = true_rates(made.world, made.policies, made.new)
        for arm in made.policies:
            gains.setdefault(arm, []).append(rates[arm, "reference"] - rates["rlaif", "reference"])
    return {arm: np.array(found) for arm, found in gains.items()}


@in_worlds(1, REPETITIONS)
def test_hybrid_beats_ai_labels_alone_when_the_judge_is_biased(worlds):
    """What recipes do by default in every repetition; by more where people's labels weigh more."""
    gains = true_gains(BIASED, worlds)
    assert gains["hybrid"].min() > 0 and gains["hybrid"].mean() > 0.01
    assert gains["hybrid_weighted"].mean() > gains["hybrid"].mean()
    assert gains["direct"].mean() < 0 and gains["oracle"].min() > 0.08


@in_worlds(1, REPETITIONS)
def test_hybrid_matches_ai_labels_alone_when_the_judge_is_unbiased(worlds):
    gains = true_gains(UNBIASED, worlds)
    assert np.abs(gains["hybrid"]).max() < 0.01, "within one point"
    assert gains["hybrid_debiased"].mean() > -0.02
    assert gains["rlhf_some"].mean() < -0.03, "what the same people are worth without the judge"
