"""The audit's figures by hand on small cases; that they cover the truth is shown in test_audit_simulation.py."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap

from rlaif.audits.metrics import accuracy, always_longer, by_principle, by_tag, kappa, stability, summarise, verbosity
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.labelled import LabelledJudgment, match
from rlaif.feedback.verdict import checked
from rlaif.records import (
    Failure,
    Judgment,
    MemberJudgment,
    Message,
    Pair,
    PrincipleJudgment,
    Prompt,
    Verdict,
)
from rlaif.stats import Bootstrap, bootstrap_bounds, clustered_mean, interval
from tests.audited import ORIGIN
from tests.fake_run import judged

FEW = Bootstrap(samples=100)
LONG, SHORT = "a much longer reply", "brief"


def pair(number: int, a: str = LONG, b: str = SHORT, tags: tuple[str, ...] = ()) -> Pair:
    return Pair.of(Prompt.of((Message(role="user", content=f"question {number}"),), tags), a, b)


def judgment(of: Pair, p_a: float, *principles: PrincipleJudgment) -> Judgment:
    return Judgment(pair=of, source="ai", annotator="j", p_a=p_a, principles=principles)


def human(of: Pair, p_a: float) -> Judgment:
    return Judgment(pair=of, source="human", annotator="h", p_a=p_a)


def labelled(*rows: tuple[float, float], **more: Any) -> list[LabelledJudgment]:
    """Judge's p_a and human's, each on a prompt of its own with a longer response a."""
    return [LabelledJudgment(judgment(pair(i, **more), p), h) for i, (p, h) in enumerate(rows)]


def swapped(row: Judgment) -> Judgment:
    """The same judgment of the pair held the other way round."""
    principles = tuple(
        p.model_copy(update={"p_a": 1 - p.p_a, "verdicts": tuple(other_side(v) for v in reversed(p.verdicts))})
        for p in row.principles
    )
    return row.model_copy(update={"pair": row.pair.swapped(), "p_a": 1 - row.p_a, "principles": principles})


def other_side(verdict: Verdict) -> Verdict:
    return verdict.model_copy(update={"first": "b" if verdict.first == "a" else "a"})


# ------------------------------------------------------------------------------------------ human labels


def test_match_turns_labels_to_the_judgments_own_orientation() -> None:
    one, other = pair(1), pair(2)
    gold = [human(one.swapped(), 1.0), human(other, 0.0), human(pair(3), 1.0)]
    found = match([judgment(other, 0.3), judgment(one, 0.8), judgment(pair(9), 0.5)], gold)
    assert [(item.judgment.pair, item.p_human) for item in found] == [(other, 0.0), (one, 0.0)]


def test_labels_of_one_pair_are_put_to_the_vote() -> None:
    one = pair(1)
    (against,) = match([judgment(one, 0.8)], [human(one, 1.0), human(one, 0.0), human(one.swapped(), 1.0)])
    (tie,) = match([judgment(one, 0.8)], [human(one, 1.0), human(one.swapped(), 1.0)])
    (soft,) = match([judgment(one, 0.8)], [human(one, 0.7)])
    assert (against.p_human, tie.p_human, soft.p_human) == (0.0, 0.5, 1.0)


# -------------------------------------------------------------------------------------------- agreement


def test_accuracy_by_hand() -> None:
    # Right, right, wrong, the judge's own tie (half), and a human tie, which has no right choice.
    rows = labelled((0.9, 1), (0.2, 0), (0.6, 0), (0.5, 1), (0.9, 0.5))
    found = accuracy(rows, FEW)
    assert found is not None and (found.value, found.n) == (2.5 / 4, 4)
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    assert accuracy(labelled((0.9, 0.5)), FEW) is None


def test_accuracy_is_clustered_by_prompt() -> None:
    texts = [f"reply {k}" for k in range(8)]
    rows = [LabelledJudgment(judgment(pair(i, a=t, b=SHORT), float(i % 2)), 1.0) for i in range(40) for t in texts]
    apart = [LabelledJudgment(judgment(pair(100 * k + i), float(i % 2)), 1.0) for i in range(40) for k in range(1, 9)]
    whole, single = accuracy(rows, Bootstrap()), accuracy(apart, Bootstrap())
    assert whole is not None and single is not None
    assert whole.value == single.value and whole.high is not None and single.high is not None
    assert (whole.high - whole.value) / (single.high - single.value) == pytest.approx(math.sqrt(8), rel=0.15)


def test_kappa_is_cohens_on_both_orientations() -> None:
    # Cohen's formula on the table in which every pair stands both ways round.
    rows = [(0.9, 1), (0.8, 1), (0.7, 0), (0.2, 0), (0.1, 1), (0.9, 1), (0.6, 1)]
    both = [(p > 0.5, h == 1) for p, h in rows] + [(p < 0.5, h == 0) for p, h in rows]
    observed = sum(j == h for j, h in both) / len(both)
    judge, person = (sum(row[k] for row in both) / len(both) for k in (0, 1))
    chance = judge * person + (1 - judge) * (1 - person)
    right = accuracy(labelled(*rows), FEW)
    found = kappa(right)
    assert found is not None and right is not None
    assert found.value == pytest.approx((observed - chance) / (1 - chance), abs=1e-12)
    assert found.low is not None and right.low is not None and found.low == pytest.approx(2 * right.low - 1)
    assert kappa(None) is None


def test_always_longer_counts_words_and_halves_ties() -> None:
    rows = [
        LabelledJudgment(judgment(pair(0, "one two three", "onelongword andanother"), 0.5), 1.0),  # more words, right
        LabelledJudgment(judgment(pair(1, "one two", "three four"), 0.5), 1.0),  # the same: half
        LabelledJudgment(judgment(pair(2, "one", "two three"), 0.5), 1.0),  # wrong
        LabelledJudgment(judgment(pair(3, "one", "two three"), 0.5), 0.5),  # a human tie
    ]
    found = always_longer(rows, FEW)
    assert found is not None and (found.value, found.n) == (0.5, 3)


def test_each_principle_is_measured_where_it_decides() -> None:
    def row(number: int, kind: float, passes: tuple[bool, bool], h: float) -> LabelledJudgment:
        of = pair(number)
        return LabelledJudgment(judgment(of, 0.5, judged(of, "kind", kind, -kind), checked("brief", *passes, 4.0)), h)

    rows = [
        row(0, 2.0, (True, False), 1.0),
        row(1, 2.0, (True, True), 0.0),
        row(2, -1.0, (False, True), 1.0),
        row(3, -1.0, (False, False), 0.5),
    ]
    found = by_principle(rows, FEW)
    assert list(found) == ["brief", "kind"]
    assert found["kind"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert (found["brief"]["accuracy"]["value"], found["brief"]["accuracy"]["n"]) == (0.5, 2)
    counts = {name: [found[name][key] for key in ("undecided", "checked", "n")] for name in found}
    assert counts == {"brief": [1, 3, 3], "kind": [0, 0, 3]}
    assert by_principle(rows[1:2], FEW)["brief"]["accuracy"] is None


def test_by_tag_counts_a_prompt_for_each_of_its_tags() -> None:
    rows = [
        LabelledJudgment(judgment(pair(0, tags=("x", "y")), 0.9), 1.0),
        LabelledJudgment(judgment(pair(1, tags=("x",)), 0.9), 0.0),
        LabelledJudgment(judgment(pair(2, tags=("z",)), 0.9), 0.5),
    ]
    found = by_tag(rows, FEW)
    assert found["x"] is not None and found["y"] is not None
    assert (found["x"]["value"], found["y"]["value"], found["z"]) == (0.5, 1.0, None)


# ------------------------------------------------------------------------------------------------ length


def test_verbosity_by_hand() -> None:
    # a is longer. The human prefers the shorter 4 times (the judge is wrong in 3), the longer 5 times (wrong in 1.5).
    shorter = [(0.9, 0), (0.8, 0), (0.7, 0), (0.2, 0)]
    longer = [(0.9, 1), (0.8, 1), (0.7, 1), (0.2, 1), (0.5, 1)]
    rows = labelled(*shorter, *longer)
    rows += [LabelledJudgment(judgment(pair(50, "one two", "three four"), 0.9), 0.0)]  # of one length
    rows += [LabelledJudgment(judgment(pair(51), 0.9), 0.5)]  # a human tie
    found = verbosity(rows, Bootstrap())
    assert found is not None
    parts = [found[f"wrong_when_human_prefers_{which}"] for which in ("shorter", "longer")]
    assert [(part["value"], part["n"]) for part in parts] == [(0.75, 4), (0.3, 5)]
    assert (found["bias"]["value"], found["bias"]["n"]) == (pytest.approx(0.45), 9)
    assert -1 <= found["bias"]["low"] < 0.45 < found["bias"]["high"] <= 1


def test_a_judge_that_only_sees_length_has_a_bias_of_one_and_an_interval_with_width() -> None:
    found = verbosity(labelled(*[(0.9, float(i % 2)) for i in range(40)]), Bootstrap())
    assert found is not None and found["bias"]["value"] == 1.0
    # Wilson for 0 of 20 is 0.161: both parts together reach sqrt(2) as far.
    assert found["bias"]["low"] == pytest.approx(1 - math.sqrt(2) * 3.841459 / 23.841459, abs=1e-4)
    assert found["bias"]["high"] == 1.0


def test_verbosity_needs_both_kinds_of_pairs() -> None:
    assert verbosity([], FEW) is None
    assert verbosity(labelled((0.9, 1), (0.8, 1)), FEW) is None
    assert verbosity(labelled((0.9, 0), (0.8, 0)), FEW) is None


def test_the_bias_is_resampled_with_both_its_parts() -> None:
    # Where a prompt's pairs of both kinds are wrong together, the errors cancel in the difference.
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        wrong = float(rng.random() < 0.5)
        rows.append(LabelledJudgment(judgment(pair(i, LONG, SHORT), wrong), 0.0))
        rows.append(LabelledJudgment(judgment(pair(i, LONG + " by far", SHORT), 1 - wrong), 1.0))
    rows.append(LabelledJudgment(judgment(pair(60), 1.0), 0.0))
    found = verbosity(rows, Bootstrap())
    assert found is not None and found["bias"]["high"] - found["bias"]["low"] < 0.06  # each part has 0.25


# ------------------------------------------------------------------------------------------ the intervals


def test_bootstrap_bounds_are_scipys_bca_but_for_the_wider_percentiles() -> None:
    values = np.random.default_rng(0).exponential(size=2000)
    found = scipy_bootstrap((values,), np.mean, method="BCa", n_resamples=4000, rng=np.random.default_rng(1))
    left_out = (values.sum() - values) / (len(values) - 1)
    low, high = bootstrap_bounds(float(values.mean()), found.bootstrap_distribution, left_out, 0.95)
    assert (low, high) == pytest.approx(tuple(found.confidence_interval), rel=1e-3)


def test_bootstrap_bounds_widen_as_students_t_does() -> None:
    # Ten clusters, a normal statistic: t with 9 degrees of freedom is 2.262, and sqrt(10/9) is 1.054.
    left_out = np.array([-1.0, 1.0] * 5)
    resampled = np.random.default_rng(0).normal(size=400_000)
    low, high = bootstrap_bounds(0.0, resampled, left_out, 0.95)
    assert (low, high) == pytest.approx((-2.385, 2.385), abs=0.04)


def test_interval_of_a_mean_is_that_of_clustered_mean() -> None:
    rng = np.random.default_rng(0)
    values, names = rng.uniform(size=200), [str(i // 3) for i in range(200)]
    mean = clustered_mean(list(values), names, samples=20_000)
    found = interval(lambda w: w @ values / w.sum(axis=1), names, Bootstrap(samples=20_000))
    assert found == pytest.approx((mean.low, mean.high), abs=2e-3)


def test_interval_leaves_out_what_does_not_exist() -> None:
    one = np.array([1.0, 0.0, 0.0])
    share = lambda w: np.where(w @ one > 0, w.sum(axis=1), math.nan)  # noqa: E731
    assert interval(share, ["a", "b", "c"], FEW) == (3.0, 3.0)
    assert interval(lambda w: np.full(len(w), math.nan), ["a", "b"], FEW) is None
    assert interval(share, ["a", "a", "a"], FEW) is None


# -------------------------------------------------------------------------------------------- of the judge


def test_repetition_by_hand() -> None:
    first = [judgment(pair(i), p) for i, p in enumerate([0.9, 0.4, 0.5])]
    second = [judgment(pair(0), 0.8), judgment(pair(1), 0.6), swapped(judgment(pair(2), 0.5))]
    found = stability(list(zip(first, second, strict=True)), FEW)
    assert found is not None
    assert found["same_choice"]["value"] == pytest.approx(2 / 3) and found["same_choice"]["n"] == 3
    assert found["mean_change"]["value"] == pytest.approx(0.1)
    assert stability([], FEW) is None


def test_repetition_does_not_see_which_response_is_a() -> None:
    first = [judgment(pair(i), p) for i, p in enumerate([0.9, 0.4, 0.1])]
    found = stability([(row, swapped(row)) for row in first], FEW)
    assert found is not None and found["same_choice"]["value"] == 1.0
    assert found["mean_change"]["value"] == pytest.approx(0, abs=1e-12)


# -------------------------------------------------------------------------------------------- all together

KEYS = {
    "accuracy",
    "kappa",
    "baselines",
    "by_principle",
    "by_tag",
    "consistency",
    "verbosity",
    "calibration",
    "coverage",
    "cost",
    "human_ties",
    "pairs",
    "prompts",
    "decided_prompts",
}


def summary(judgments: list[Judgment], gold: list[Judgment], **more: Any) -> dict[str, Any]:
    found = summarise(match(judgments, gold), judgments, more.get("failures", ()), more.get("cost", Cost()), FEW)
    assert set(found) == KEYS
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def test_a_summary_has_every_figure() -> None:
    judgments, gold = small_audit([0.9, 0.3, 0.8, 0.4], [1.0, 0.0, 0.0, 0.5], tags=("x",))
    failures = [Failure(stage="audit", id="z", reason="model error")]
    found = summary(judgments, gold, failures=failures, cost=Cost(10, 400, 10))
    assert (found["accuracy"]["value"], found["pairs"], found["prompts"]) == (pytest.approx(2 / 3), 4, 4)
    assert found["human_ties"] == 1
    assert found["baselines"]["always_longer"]["value"] == pytest.approx(1 / 3)
    assert found["consistency"]["value"] == 1.0 and "by_principle" not in found["consistency"]
    assert found["by_principle"]["kind"]["consistency"]["n"] == 4
    assert found["by_principle"]["kind"]["accuracy"]["n"] == 3
    assert found["by_tag"]["x"]["n"] == 3
    assert (found["coverage"]["value"], found["coverage"]["failed"]) == (0.8, 1)
    assert found["cost"] == {"calls": 2.5, "prompt_tokens": 100.0, "completion_tokens": 2.5}


def small_audit(p: list[float], h: list[float], tags: tuple[str, ...] = ()) -> tuple[list[Judgment], list[Judgment]]:
    pairs = [pair(i, tags=tags) for i in range(len(p))]
    logits = [math.log(x / (1 - x)) for x in p]
    judgments = [judgment(of, x, judged(of, "kind", z, -z)) for of, x, z in zip(pairs, p, logits, strict=True)]
    return judgments, [human(of, x) for of, x in zip(pairs, h, strict=True)]


def test_nothing_crashes_where_there_is_nothing() -> None:
    empty = summary([], [])
    assert all(empty[key] is None for key in ("accuracy", "kappa", "consistency", "verbosity", "calibration", "cost"))
    ties = summary(*small_audit([0.9, 0.2], [0.5, 0.5]))
    assert (ties["accuracy"], ties["calibration"], ties["human_ties"]) == (None, None, 2)
    assert ties["by_principle"]["kind"] == {"accuracy": None, "undecided": 0, "checked": 0, "n": 0} | {
        "consistency": ties["by_principle"]["kind"]["consistency"]
    }
    one = summary(*small_audit([0.9], [1.0]))
    assert (one["accuracy"]["value"], one["verbosity"]) == (1.0, None)
    assert one["calibration"]["temperature"] is None
    even = summary(*small_audit([0.5] * 12, [1.0, 0.0] * 6))
    assert (even["accuracy"]["value"], even["calibration"]["temperature"]["value"]) == (0.5, 1.0)


def test_a_judge_without_orders_has_no_consistency() -> None:
    scored = [judgment(pair(i), 0.8, PrincipleJudgment(principle="kind", checked=False, p_a=0.8)) for i in range(3)]
    found = summary(scored, [human(pair(i), 1.0) for i in range(3)])
    assert found["consistency"] is None and found["by_principle"]["kind"]["consistency"] is None
    assert found["by_principle"]["kind"]["accuracy"]["value"] == 1.0


def test_of_a_panel_the_members_own_verdicts_count() -> None:
    of = pair(0)

    def member(name: str, ab: float, ba: float) -> MemberJudgment:
        return MemberJudgment(
            member=name, annotator=name, p_a=0.6, principles=(judged(of, "kind", ab, ba),), provenance=ORIGIN
        )

    panel = judgment(of, 0.7).model_copy(update={"members": (member("x", 2, -2), member("y", 1, 1))})
    found = summary([panel], [human(of, 1.0)])
    assert (found["consistency"]["value"], found["consistency"]["n"]) == (0.5, 2)
    assert found["by_principle"]["kind"]["n"] == 2 and found["pairs"] == 1


@given(
    rows=st.lists(
        st.tuples(st.floats(-6, 6), st.floats(-3, 3), st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=20, deadline=None)
def test_no_figure_depends_on_which_response_is_called_a(
    rows: list[tuple[float, float, float, bool, bool]],
) -> None:
    judgments, gold, turned, turned_gold = [], [], [], []
    for i, (logit, bias, h, turn, turn_gold) in enumerate(rows):
        of = pair(i // 2, a=f"{LONG} {i}" if i % 3 else f"short {i}", b=SHORT)
        principle = judged(of, "kind", logit + bias, bias - logit)
        judgments.append(judgment(of, principle.p_a, principle))
        gold.append(human(of, h))
        turned.append(swapped(judgments[-1]) if turn else judgments[-1])
        turned_gold.append(swapped(gold[-1]) if turn_gold else gold[-1])
    assert leaves(summary(turned, turned_gold)) == pytest.approx(leaves(summary(judgments, gold)), abs=1e-6)


def leaves(value: Any) -> list[float]:
    """Every number of a nested dict, in order; None as -1."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [-1.0 if value is None else float(value)]
