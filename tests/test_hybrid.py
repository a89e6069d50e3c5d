"""Which pairs go to people, and what their labels say of the judge's."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.annotate import routers
from rlaif.annotate.route import conflicts
from rlaif.annotate.routers import (
    WORTHS,
    closeness,
    disagreement,
    features,
    margins_of_choice,
    ordered,
    predict_errors,
    swap_gap,
)
from rlaif.config.feedback import CalibratedMix, DebiasedMix, ReliabilityMix
from rlaif.errors import DataError
from rlaif.feedback.labelled import match
from rlaif.feedback.mix import believed, overlap_agreement, overlap_of
from rlaif.feedback.pairs import WeightedJudgment
from rlaif.records import Judgment, Message, Pair, PrincipleJudgment, Prompt


def pair(name: str, a: str = "one", b: str = "the other") -> Pair:
    return Pair.of(Prompt.of((Message(role="user", content=name),)), a, b)


def judged(name: str, p_a: float, *parts: tuple[float, float], a: str = "one", b: str = "the other") -> Judgment:
    """By the judge; a part is a principle's p_a and its swap gap."""
    principles = tuple(
        PrincipleJudgment(principle=f"p{i}", checked=False, p_a=p, swap_gap=gap) for i, (p, gap) in enumerate(parts)
    )
    return Judgment(pair=pair(name, a, b), source="ai", annotator="judge", p_a=p_a, principles=principles)


def said(judgment: Judgment, p_a: float, who: str = "ann") -> Judgment:
    return Judgment(pair=judgment.pair, source="human", annotator=who, p_a=p_a)


def swapped(judgment: Judgment) -> Judgment:
    parts = tuple(part.model_copy(update={"p_a": 1 - part.p_a}) for part in judgment.principles)
    return judgment.model_copy(update={"pair": judgment.pair.swapped(), "p_a": 1 - judgment.p_a, "principles": parts})


# ------------------------------------------------------------------------------------------------- evidence


def test_evidence_by_hand():
    one = judged("q", 0.75, (0.9, 0.2), (0.4, 0.4), (0.8, 0.0))
    assert closeness(one) == 0.5
    assert swap_gap(one) == pytest.approx(0.2)
    assert disagreement(one) == pytest.approx(2 / 3), "one of three prefers the other response"
    assert disagreement(judged("q", 0.9, (0.9, 0.0))) == 0.0, "one principle cannot disagree with itself"
    found = features(one, 1.5)
    assert found["for_longer"] == -1.0, "it prefers 'one' to 'the other', which has more words"
    assert found["length_difference"] == pytest.approx(math.log(3 / 2))
    assert found["margin"] == 1.5 and "margin" not in features(one, None)


@given(p=st.floats(0.01, 0.99), parts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4))
def test_evidence_does_not_depend_on_which_response_is_called_a(p, parts):
    one = judged("q", p, *parts)
    for name, value in features(one, 0.3).items():
        assert features(swapped(one), 0.3)[name] == pytest.approx(value, abs=1e-9), name


def test_margins_are_of_the_response_that_the_judge_prefers():
    first, second, even = judged("q1", 0.9), judged("q2", 0.1), judged("q3", 0.5)
    margin_a = {first.pair.id: 2.0, second.pair.id: 2.0, even.pair.id: 2.0}
    found = margins_of_choice([first, second, even], margin_a)
    assert found == {first.pair.id: 2.0, second.pair.id: -2.0, even.pair.id: 0.0}


# -------------------------------------------------------------------------------------------------- routers


def names(order: Sequence[str], judgments: Sequence[Judgment]) -> list[str]:
    by_id = {judgment.pair.id: judgment.pair.prompt[0].content for judgment in judgments}
    return [by_id[one] for one in order]


def test_orders_by_hand():
    rows = [
        judged("sure", 0.99, (0.9, 0.0)),
        judged("torn", 0.45, (0.9, 0.1), (0.2, 0.0)),
        judged("moved", 0.7, (0.7, 0.6)),
    ]
    for router, order in {
        "uncertainty": ["torn", "moved", "sure"],
        "swap_gap": ["moved", "torn", "sure"],
        "disagreement": ["torn", "moved", "sure"],
    }.items():
        assert names(ordered(rows, WORTHS[router], 0), rows) == order


@given(seed=st.integers(0, 5), shuffle=st.randoms())
def test_an_order_holds_every_pair_once_and_not_the_order_of_the_rows(seed, shuffle):
    rows = [judged(f"q{i}", 0.5 + 0.04 * (i % 5)) for i in range(12)]
    again = [*rows, swapped(rows[3])]
    shuffle.shuffle(again)
    for worth in WORTHS.values():
        order = ordered(rows, worth, seed)
        assert ordered(again, worth, seed) == order
        assert sorted(order) == sorted(row.pair.id for row in rows)
    assert routers.by_hash(rows, seed) != routers.by_hash(rows, seed + 100)


def test_the_bends_of_a_curve_that_is_steep_flat_and_steep():
    curve = [*np.linspace(-5, -1, 10), *np.linspace(-0.9, 0.9, 80), *np.linspace(1, 6, 10)]
    elbow, knee = routers.bands(curve)
    assert -1.1 <= elbow <= -0.8 and 0.8 <= knee <= 1.1


def test_ambiguous_margins_go_first_then_the_wrong_then_the_right():
    values = [*np.linspace(-5, -1, 5), *np.linspace(-0.9, 0.9, 30), *np.linspace(1, 6, 5)]
    rows = [judged(f"{value:.4f}", 0.8) for value in values]
    margins = {row.pair.id: float(row.pair.prompt[0].content) for row in rows}
    elbow, knee = routers.bands(list(margins.values()))
    order = [margins[one] for one in routers.by_margin(rows, margins, 0)]
    kinds = ["band" if elbow <= value <= knee else "wrong" if value < elbow else "right" for value in order]
    assert kinds == sorted(kinds, key=["band", "wrong", "right"].index)
    assert order[kinds.index("wrong")] == -5.0 and order[-1] == 6.0
    middle = (elbow + knee) / 2
    band = [abs(value - middle) for value in order if elbow <= value <= knee]
    assert band == sorted(band)


@given(budget=st.integers(1, 50), share=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_a_budget_is_spent_whole_with_its_share_of_chance(budget, share):
    order = [f"{i:02}" for i in range(40)]
    at_random = random.Random(1).sample(order, 40)
    chosen, by_chance = routers.choose(order, at_random, budget, share)
    spent = min(budget, 40)
    assert len(chosen) == len(set(chosen)) == spent
    assert by_chance == at_random[: round(share * spent)] and set(by_chance) <= set(chosen)
    rest = [one for one in order if one not in by_chance][: spent - len(by_chance)]
    assert set(chosen) - set(by_chance) == set(rest)


def test_whoever_stops_early_has_some_of_both():
    order = [f"{i:03}" for i in range(200)]
    chosen, by_chance = routers.choose(order, order[::-1], 100, 0.2)
    for stop in (25, 50, 75):
        assert abs(len(set(chosen[:stop]) & set(by_chance)) - 0.2 * stop) <= 1


# ------------------------------------------------------------------------------------------------ predictor


def length_biased(count: int, seed: int) -> tuple[list[Judgment], list[Judgment]]:
    """A judge that prefers the longer response where one has over twice the words, whatever people say; and they."""
    rng = random.Random(seed)
    ai, human = [], []
    for i in range(count):
        words = [rng.randint(3, 60) for _ in "ab"]
        a, b = (" ".join(["word"] * n) + f" {i}{side}" for n, side in zip(words, "ab", strict=True))
        right = float(rng.random() < 0.5)
        choice = float(words[0] > words[1]) if max(words) > 2 * min(words) else right
        one = judged(f"q{i}", 0.9 if choice else 0.1, a=a, b=b)
        ai.append(one)
        human.append(said(one, right))
    return ai, human


def test_a_predictor_finds_where_the_judge_errs():
    ai, human = length_biased(400, 0)
    found = predict_errors(ai, human[:200])
    assert found.labelled == 200 and 30 <= found.wrong <= 80
    assert found.auc > 0.8 and found.weights["for_longer"] + found.weights["for_longer_by"] > 0.5
    wrong = {j.pair.id for j, h in zip(ai, human, strict=True) if (j.p_a > 0.5) != (h.p_a > 0.5)}
    order = ordered(ai[200:], lambda one: (0, found.p_wrong[one.pair.id]), 0)
    first = sum(one in wrong for one in order[:60]) / 60
    overall = len(wrong & set(order)) / len(order)
    assert first > 1.7 * overall, "on pairs that it never saw"


def test_a_predictor_without_anything_to_find_says_so():
    rng = random.Random(3)
    ai = [judged(f"q{i}", rng.choice([0.1, 0.9])) for i in range(300)]
    human = [said(one, float(rng.random() < 0.5)) for one in ai]
    assert 0.35 < predict_errors(ai, human).auc < 0.65


def test_a_predictor_does_not_care_about_order_or_orientation():
    ai, human = length_biased(120, 5)
    found = predict_errors(ai, human)
    again = predict_errors([swapped(one) for one in ai][::-1], human[::-1])
    assert again.p_wrong == pytest.approx(found.p_wrong, abs=1e-6) and again.auc == pytest.approx(found.auc)


def test_a_predictor_needs_errors_to_learn_from():
    ai = [judged(f"q{i}", 0.9) for i in range(60)]
    with pytest.raises(DataError, match=r"needs 30 pairs .* \(got 60 with 0 errors\); .*--by random"):
        predict_errors(ai, [said(one, 1.0) for one in ai])
    with pytest.raises(DataError, match=r"got 10 with 3 errors"):
        predict_errors(ai, [said(one, float(i > 2)) for i, one in enumerate(ai[:10])])


# -------------------------------------------------------------------------------------------------- overlap


def overlapping(hits: int, misses: int, ties: int = 0) -> tuple[list[Judgment], list[Judgment]]:
    ai = [judged(f"q{i}", 0.8) for i in range(hits + misses + ties)]
    labels = [1.0] * hits + [0.0] * misses + [0.5] * ties
    return ai, [said(one, p) for one, p in zip(ai, labels, strict=True)]


def weighted(ai: Sequence[Judgment], human: Sequence[Judgment] = ()) -> list[WeightedJudgment]:
    return [WeightedJudgment(one, 1.0) for one in [*human, *ai]]


def test_agreement_by_hand():
    ai, human = overlapping(8, 2, ties=3)
    assert overlap_agreement(overlap_of(ai, human)) == 8.5 / 11


def test_only_pairs_that_people_got_by_chance_say_how_good_the_judge_is():
    ai, human = overlapping(8, 2)
    picked = {one.pair.id for one in ai[8:]}
    assert overlap_agreement(overlap_of(ai, human, picked)) == 8.5 / 9


def test_smoothing_makes_the_label_what_the_judge_is_worth():
    ai, human = overlapping(80, 20, ties=5)
    a = 80.5 / 101
    rows = believed(
        weighted([*ai, judged("new", 0.1), judged("even", 0.5)], human), overlap_of(ai, human), ReliabilityMix()
    )
    theirs = [row.judgment.p_a for row in rows if row.judgment.source == "human"]
    ours = [row.judgment.p_a for row in rows if row.judgment.source == "ai"]
    assert theirs == [one.p_a for one in human], "people's labels stay"
    assert ours == pytest.approx([*[a] * 105, 1 - a, 0.5])
    assert all(row.weight == 1.0 for row in rows)


def test_weighting_by_the_information_in_a_label():
    ai, human = overlapping(80, 20)
    rows = believed(weighted(ai, human), overlap_of(ai, human), ReliabilityMix(use="weight"))
    a = 80.5 / 101
    assert [row.weight for row in rows if row.judgment.source == "ai"] == pytest.approx([(2 * a - 1) ** 2] * 100)
    assert {row.weight for row in rows if row.judgment.source == "human"} == {1.0}
    assert [row.judgment.p_a for row in rows if row.judgment.source == "ai"] == [0.8] * 100


def test_the_weight_is_the_relative_information_about_a_difference_of_rewards():
    """Fisher information of a label that is flipped with probability 1 - a, at a difference of 0, by its definition."""
    for a in (0.6, 0.75, 0.9, 1.0):
        step = 1e-5

        def p(difference: float, a: float = a) -> float:
            clean = 1 / (1 + math.exp(-difference))
            return a * clean + (1 - a) * (1 - clean)

        slope = (p(step) - p(-step)) / (2 * step)
        information = slope**2 / (p(0) * (1 - p(0)))
        assert information / 0.25 == pytest.approx((2 * a - 1) ** 2, abs=1e-6)


def test_a_judge_that_is_no_better_than_a_coin_is_left_out():
    ai, human = overlapping(50, 50)
    for use in ("smooth", "weight"):
        rows = believed(weighted(ai, human), overlap_of(ai, human), ReliabilityMix(use=use))
        assert {row.judgment.source for row in rows} == {"human"}


@pytest.mark.parametrize("how", ["temperature", "isotonic"])
def test_calibration_by_the_overlap_makes_confidence_what_people_say(how):
    rng = random.Random(0)
    ai = [judged(f"q{i}", rng.choice([0.02, 0.98])) for i in range(600)]
    human = [said(one, round(one.p_a) if rng.random() < 0.7 else 1 - round(one.p_a)) for one in ai]
    rows = believed(weighted(ai), overlap_of(ai, human), CalibratedMix(map=how))
    assert {round(max(row.judgment.p_a, 1 - row.judgment.p_a), 2) for row in rows} <= {0.68, 0.69, 0.7, 0.71, 0.72}
    assert [row.judgment.p_raw for row in rows] == [one.p_a for one in ai]
    again = believed(rows, match([row.judgment for row in rows], human), CalibratedMix(map=how))
    assert len(again) == 600


def test_too_small_an_overlap_is_an_error_and_not_a_guess():
    ai, human = overlapping(40, 9, ties=20)
    for policy in (CalibratedMix(), ReliabilityMix(), DebiasedMix(min_overlap=50)):
        with pytest.raises(DataError, match=rf"49 pairs have .* {policy.kind} needs 50 \(min_overlap\)"):
            believed(weighted(ai), overlap_of(ai, human), policy)


@settings(max_examples=25)
@given(
    flips=st.lists(st.booleans(), min_size=60, max_size=60),
    policy=st.sampled_from([ReliabilityMix(), CalibratedMix(), DebiasedMix(min_overlap=50)]),
)
def test_believed_labels_do_not_depend_on_which_response_is_called_a(flips, policy):
    ai, human = overlapping(50, 10)
    turned = [swapped(one) if flip else one for one, flip in zip(ai, flips, strict=True)]
    rows = believed(weighted(ai), overlap_of(ai, human), policy)
    others = believed(weighted(turned), overlap_of(turned, human), policy)
    for row, other in zip(rows, others, strict=True):
        assert other.judgment.p_of(row.judgment.pair.a) == pytest.approx(row.judgment.p_a)


def test_conflicts_are_listed_the_surest_first():
    ai = [
        judged("sure", 0.95),
        judged("agree", 0.9),
        judged("unsure", 0.4, (0.4, 0.3)),
        judged("even", 0.5),
        judged("tie", 0.9),
    ]
    human = [
        said(ai[0], 0.0, "bo"),
        said(ai[0], 0.0, "al"),
        said(ai[1], 1.0),
        said(ai[2], 1.0),
        said(ai[3], 1.0),
        said(ai[4], 0.5),
    ]
    found = conflicts(ai, human)
    assert [one.pair.prompt[0].content for one in found] == ["sure", "unsure"]
    assert found[0].annotators == ("al", "bo") and found[0].p_human == 0.0 and found[1].swap_gap == 0.3
