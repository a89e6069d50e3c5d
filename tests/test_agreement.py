"""The statistics against hand-computed values, and the interval's coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.evaluation.agreement import coverage, order_consistency, probability_of_first
from rlaif.evaluation.reward_worth import heldout_accuracy
from rlaif.records import Failure, Judgment, Pair, Verdict
from rlaif.stats import Bootstrap, clustered_mean, clustered_mean_difference
from tests.fake_run import judged, prompt


def test_the_mean_weighs_values_not_clusters():
    # Cluster a has three values, b one: the mean of all values is 3/4, the mean of cluster means would be 1/2.
    estimate = clustered_mean([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert estimate.value == 0.75
    assert estimate.n == 4
    assert estimate.low == 0.0 and estimate.high == 1.0  # resampling two clusters finds both extremes


def test_the_interval_too_weighs_values_not_clusters():
    # 20 prompts with 9 responses that mostly pass and 20 with one that mostly fails: the mean of prompts is 0.5.
    values = [0.95] * 180 + [0.05] * 20
    names = [str(i // 9) for i in range(180)] + [f"one {i}" for i in range(20)]
    estimate = clustered_mean(values, names)
    assert estimate.value == pytest.approx(0.86)
    assert 0.7 < estimate.low < 0.86 < estimate.high < 0.95


def test_equal_seeds_give_equal_intervals_and_clusters_widen_them():
    values = list(np.repeat(np.random.default_rng(0).uniform(0, 1, 50), 4))
    whole = [str(i // 4) for i in range(200)]
    apart = [str(i) for i in range(200)]
    assert clustered_mean(values, whole, seed=1) == clustered_mean(values, whole, seed=1)
    wide, narrow = clustered_mean(values, whole), clustered_mean(values, apart)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2, abs=0.2)  # sqrt(4)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        values = np.repeat(rng.normal(0.5, 0.3, 40), 3) + rng.normal(0, 0.2, 120)
        estimate = clustered_mean(list(values), [str(i // 3) for i in range(120)], 400, 0.9, seed, bounds=None)
        hits += estimate.low <= 0.5 <= estimate.high
    assert 0.84 <= hits / 200 <= 0.95


def test_without_spread_the_interval_is_wilsons():
    # 0 of 10 clusters: Wilson's upper bound is z^2 / (n + z^2) with z = 1.959964.
    upper = 1.959964**2 / (10 + 1.959964**2)
    names = [str(i) for i in range(10)]
    zeros, ones = clustered_mean([0.0] * 10, names), clustered_mean([1.0] * 10, names)
    assert (zeros.low, zeros.high) == pytest.approx((0, upper), abs=1e-6)
    assert (ones.low, ones.high) == pytest.approx((1 - upper, 1), abs=1e-6)
    difference = clustered_mean_difference([1.0] * 10, [1.0] * 10, names, Bootstrap())
    assert (difference.value, difference.low, difference.high) == pytest.approx((0, -upper, upper), abs=1e-6)


def test_one_cluster_says_almost_nothing_and_without_bounds_nothing():
    one = clustered_mean([1.0, 1.0, 0.0, 0.0], ["a"] * 4)
    assert one.value == 0.5 and one.low < 0.15 and one.high > 0.85
    unbounded = clustered_mean([7.0, 9.0], ["a", "a"], bounds=None)
    assert (unbounded.value, unbounded.low, unbounded.high, unbounded.n) == (8.0, None, None, 2)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_an_interval_of_shares_stays_in_bounds_around_its_value(rows):
    estimate = clustered_mean([v for v, _ in rows], [str(c) for _, c in rows], samples=50)
    assert -1e-9 <= estimate.low <= estimate.high <= 1 + 1e-9
    assert -1e-9 <= estimate.value <= 1 + 1e-9


def test_pairing_removes_what_prompts_have_in_common():
    rng = np.random.default_rng(0)
    before = rng.normal(0, 5, 30)
    names = [str(i) for i in range(30)]
    paired = clustered_mean_difference(
        list(before), list(before + 1 + rng.normal(0, 0.1, 30)), names, Bootstrap(), None
    )
    assert paired.low > 0.9 and paired.high < 1.1


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        clustered_mean([], [])


# ---------------------------------------------------------------------------------------------- the judge


def judgment(i: int, *principles):
    pair = Pair.of(prompt(i), "one", "two")
    judged_ones = tuple(judged(pair, name, ab, ba) for name, ab, ba in principles)
    return Judgment(pair=pair, source="ai", annotator="j", p_a=0.5, principles=judged_ones)


def test_probability_of_first_normalises_over_the_two_labels():
    verdict = Verdict(first="b", logprob_first=math.log(0.3), logprob_second=math.log(0.1))
    assert probability_of_first(verdict) == pytest.approx(0.75)


def test_order_consistency_counts_every_outcome():
    # Log-odds of the first response in order (a, b), then in order (b, a).
    found = order_consistency(
        [
            judgment(0, ("x", 2.0, -2.0)),  # a both times: consistent
            judgment(1, ("x", -1.0, 1.0)),  # b both times: consistent
            judgment(2, ("x", 1.0, 1.0)),  # the first both times
            judgment(3, ("x", -1.0, -1.0), ("y", 0.0, 1.0)),  # the second both times; undecided
        ]
    )
    x, y = found["by_principle"]["x"], found["by_principle"]["y"]
    assert (x["value"], x["both_first"]["value"], x["both_second"]["value"]) == (0.5, 0.25, 0.25)
    assert (y["value"], y["undecided"]["value"], y["n"]) == (0.0, 1.0, 1)
    assert (found["value"], found["n"]) == (0.4, 5)
    parts = (found[k]["value"] for k in ("both_first", "both_second", "undecided"))
    assert found["value"] + sum(parts) == pytest.approx(1)
    # A judge without position bias has no gap: p1 = sigma(2), p2 = 1 - sigma(-2).
    assert order_consistency([judgment(0, ("x", 2.0, -2.0))])["swap_gap"] == pytest.approx(0)
    gap = order_consistency([judgment(0, ("x", 1.0, 1.0))])["swap_gap"]
    assert gap == pytest.approx(2 / (1 + math.exp(-1)) - 1)


def test_with_several_reasons_the_mean_of_each_order_counts():
    """Not the last reason's verdicts: here they contradict what the reasons say together."""
    reasons = [(2.0, -2.0), (2.0, -2.0), (-0.1, -0.1)]  # a wins twice in both orders, then the second place does
    pair = Pair.of(prompt(0), "one", "two")
    each = [judged(pair, "x", ab, ba) for ab, ba in reasons]
    verdicts = tuple(verdict for one in each for verdict in one.verdicts)
    principle = each[0].model_copy(update={"verdicts": verdicts})
    found = order_consistency([Judgment(pair=pair, source="ai", annotator="j", p_a=0.6, principles=(principle,))])
    assert found["value"] == 1.0 and found["n"] == 1
    p = [sum(1 / (1 + math.exp(-x)) for x in order) / 3 for order in zip(*reasons, strict=True)]
    assert found["swap_gap"] == pytest.approx(abs(p[0] - (1 - p[1])))


def test_order_consistency_does_not_depend_on_which_response_is_a():
    pair = Pair.of(prompt(0), "one", "two")
    principle = judged(pair, "x", 1.5, 0.5)
    turned = principle.model_copy(
        update={
            "verdicts": tuple(
                v.model_copy(update={"first": "b" if v.first == "a" else "a"}) for v in principle.verdicts
            )
        }
    )
    one, two = (
        order_consistency([Judgment(pair=pair, source="ai", annotator="j", p_a=0.5, principles=(p,))])
        for p in (principle, turned)
    )
    assert one["both_first"] == two["both_first"] and one["swap_gap"] == pytest.approx(two["swap_gap"])


def test_without_a_judge_there_is_no_consistency():
    assert order_consistency([]) is None
    human = Judgment(pair=Pair.of(prompt(0), "one", "two"), source="human", annotator="h", p_a=1.0)
    assert order_consistency([human]) is None


def test_coverage_counts_pairs_and_reasons():
    failures = [Failure(stage="label", id="p", reason=r) for r in ("timed out", "no label token")]
    found = coverage([judgment(i) for i in range(3)], failures)
    assert found == {
        "value": 0.75,
        "judged": 3,
        "failed": 1,
        "reasons": {"no label token": 1, "timed out": 1},
    }
    assert coverage([], [])["value"] is None


# --------------------------------------------------------------------------------------- the reward model


def test_heldout_accuracy_by_hand():
    rows = [
        {"prompt_id": "1", "source": "ai", "p_chosen": 0.9, "margin": 2.0},
        {"prompt_id": "2", "source": "ai", "p_chosen": 0.6, "margin": -1.0},
        {"prompt_id": "3", "source": "human", "p_chosen": 1.0, "margin": 0.0},
        {"prompt_id": "4", "source": "human", "p_chosen": 0.5, "margin": 3.0},  # a tie: no right answer
    ]
    found = heldout_accuracy(rows, Bootstrap())
    assert (found["value"], found["n"]) == (0.5, 3)
    assert found["by_source"]["ai"]["value"] == 0.5
    assert (found["by_source"]["human"]["value"], found["by_source"]["human"]["n"]) == (0.5, 1)

    def loss(p, m):
        return -p * math.log(1 / (1 + math.exp(-m))) - (1 - p) * math.log(1 / (1 + math.exp(m)))

    expected = [loss(r["p_chosen"], r["margin"]) for r in rows]
    assert found["cross_entropy"]["value"] == pytest.approx(sum(expected) / 4)
    entropies = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.9, 0.6, 0.5)]
    assert found["label_entropy"] == pytest.approx(sum(entropies) / 4)


def test_heldout_accuracy_of_nothing_and_of_ties_alone():
    assert heldout_accuracy([], Bootstrap()) is None
    ties = heldout_accuracy([{"prompt_id": "1", "source": "ai", "p_chosen": 0.5, "margin": 1.0}], Bootstrap())
    assert ties["value"] is None and ties["n"] == 0 and ties["by_source"] == {"ai": None}
