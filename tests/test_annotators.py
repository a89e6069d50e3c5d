"""Annotators: every figure against its definition, and what must not matter (orientation, order) does not."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binom

from rlaif.config.feedback import AnnotatorsSection, Removal
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.annotators.credibility import AnnotatorReport, credibility, exact_rate, removed
from rlaif.feedback.annotators.labels import alpha, table
from rlaif.feedback.annotators.trust import accuracies, aggregate, removal_of, trusted
from rlaif.feedback.human import read_labels
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.records import (
    Answer,
    Judgment,
    MemberJudgment,
    Message,
    Pair,
    PrincipleJudgment,
    Prompt,
    Provenance,
    Side,
    Verdict,
)
from rlaif.run_folder import Run
from tests.tiers import some

Cli = Callable[..., tuple[int, str, str]]
ORIGIN = Provenance(
    constitution="c",
    constitution_version="1.0.0",
    constitution_hash="h",
    judge="j",
    judge_revision="1",
    template="t",
    template_hash="h",
    sampling={},
    aggregation="mean",
)


def pair(number: int, prompt: int | None = None) -> Pair:
    """The pair `number`, of a prompt of its own unless told; its first text (in sorted order) is a."""
    asked = Prompt.of((Message(role="user", content=f"question {number if prompt is None else prompt}"),))
    return Pair.of(asked, f"{number} one", f"{number} two")


def label(number: int, who: str, p_first: float, turned: bool = False, **more: Any) -> Judgment:
    """What somebody says of the first text of the pair; `turned`: the judgment holds the pair the other way round."""
    one = pair(number)
    answer = Answer(**more) if more else None
    p_a = 1 - p_first if turned else p_first
    held = one.swapped() if turned else one
    return Judgment(pair=held, source="human", annotator=who, p_a=p_a, answer=answer)


def swapped(judgment: Judgment) -> Judgment:
    """The same label with a and b exchanged everywhere."""
    other: dict[Side, Side] = {"a": "b", "b": "a"}
    answer = judgment.answer
    if answer and answer.shown_first:
        answer = answer.model_copy(update={"shown_first": other[answer.shown_first]})
    principles = tuple(one.model_copy(update={"p_a": 1 - one.p_a}) for one in judgment.principles)
    update = {"pair": judgment.pair.swapped(), "p_a": 1 - judgment.p_a, "answer": answer, "principles": principles}
    return judgment.model_copy(update=update)


def rows_of(table: dict[str, Sequence[float | None]]) -> list[Judgment]:
    """By annotator: P(first) of pair 0, 1, 2, ...; None where it was not labelled."""
    return [label(i, who, p) for who, ps in table.items() for i, p in enumerate(ps) if p is not None]


def counted(rows: Sequence[Judgment], gold: Sequence[Judgment]) -> list[AnnotatorReport]:
    """The reports without estimates: only what can be counted."""
    return credibility(rows, gold, min_shared=1_000_000)


def report_of(rows: Sequence[Judgment], who: str, gold: Sequence[Judgment] = ()) -> AnnotatorReport:
    return next(report for report in counted(rows, gold) if report.annotator == who)


def section(kind: str = "mean", min_shared: int = 10, **remove: float) -> AnnotatorsSection:
    return AnnotatorsSection.model_validate(
        {"aggregate": {"kind": kind}, "min_shared": min_shared, "remove": {"min_labels": 1, **remove}}
    )


ALL_KINDS = some("kind", ["mean"], ["dawid_skene"])


def crowd(seed: int, accuracy: dict[str, float], count: int = 60, share: float = 0.8) -> list[Judgment]:
    """Labels of pairs whose first text is the better one half of the time, some held the other way round."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        better = rng.random() < 0.5
        for who, right in accuracy.items():
            if rng.random() < share:
                says = float((rng.random() < right) == better)
                shown = rng.choice(["a", "b", None])
                rows.append(label(number, who, says, rng.random() < 0.5, shown_first=shown, seconds=rng.random() * 9))
    return rows


FOUR = {"ann": 0.95, "bob": 0.9, "cyd": 0.85, "eve": 0.1}
"""Accuracies. Clear enough for Dawid-Skene to converge fast; the last one is better contradicted."""


# ------------------------------------------------------------------------------------------- the figures


def test_agreement_by_hand() -> None:
    rows = rows_of(
        {
            "ann": [1.0, 1.0, 0.5, 1.0, 0.5],
            "bob": [1.0, 0.0, 1.0, 0.9, None],
            "cyd": [1.0, 0.0, 0.0, None, None],
        }
    )
    # ann: agrees; against two; a tie where the others are split; agrees; nobody else.
    assert report_of(rows, "ann").agreement == exact_rate([1, 0, 1, 1])
    # bob: agrees; others are split, half; others (tie and second) lean to the second, against; agrees.
    assert report_of(rows, "bob").agreement == exact_rate([1, 0.5, 0, 1])
    assert report_of(rows, "ann").shared == 3  # the tie of pair 2 is no vote
    assert [report.labels for report in counted(rows, [])] == [5, 4, 3]
    assert report_of(rows, "ann").ties == 2 / 5


def test_gold_by_hand() -> None:
    rows = rows_of({"ann": [1.0, 0.0, 0.5, 1.0, 1.0], "bob": [None, None, None, None, 0.0]})
    gold = [label(0, "gold", 1.0), label(1, "gold", 1.0, turned=True), label(2, "gold", 0.0), label(3, "gold", 0.5)]
    found = report_of([*rows, label(0, "ann", 1.0)], "ann", gold).gold
    assert found is not None
    assert (found.value, found.n) == ((1 + 0 + 0.5) / 3, 3)
    assert report_of(rows, "bob", gold).gold is None


@pytest.mark.parametrize(("hits", "n"), [(0, 3), (2, 3), (7, 10), (40, 40)])
def test_the_interval_is_exact(hits: int, n: int) -> None:
    """By definition: at its ends so few, or so many, hits come in 2.5 % of all cases."""
    rate = exact_rate([1.0] * hits + [0.0] * (n - hits))
    assert rate is not None and rate.low <= rate.value <= rate.high
    if hits < n:
        assert binom.cdf(hits, n, rate.high) == pytest.approx(0.025)
    if hits:
        assert binom.sf(hits - 1, n, rate.low) == pytest.approx(0.025)
    half = exact_rate([1.0, 0.5, 0.0])
    low, high = exact_rate([1.0, 0.0, 0.0]), exact_rate([1.0, 1.0, 0.0])
    assert half and low and high and (half.value, half.low, half.high) == (0.5, low.low, high.high)
    assert exact_rate([]) is None


def test_seconds_and_sides() -> None:
    rows = [
        label(0, "ann", 1.0, shown_first="a", seconds=4),
        label(1, "ann", 1.0, shown_first="b", seconds=1),
        label(2, "ann", 1.0, turned=True, shown_first="a", seconds=50),
        label(3, "ann", 0.5, shown_first="a", seconds=3),
        label(4, "ann", 0.0, turned=True, shown_first="a"),
        label(5, "ann", 0.0),
        label(5, "bob", 0.0),
    ]
    ann = report_of(rows, "ann")
    assert (ann.seconds, ann.timed) == (3.5, 4)
    assert ann.first == exact_rate([1, 0, 0, 1])  # the tie and the label without a side say nothing
    bob = report_of(rows, "bob")
    assert (bob.seconds, bob.timed, bob.first, bob.simulated) == (None, 0, None, False)


def judge(number: int, p: float, leads: tuple[float, float], who: str = "judge:compare") -> Judgment:
    """A judge's judgment, with the lead of what stands first in both orders."""
    verdicts = tuple(
        Verdict(first=first, logprob_first=-1 + lead, logprob_second=-1)
        for first, lead in zip(("a", "b"), leads, strict=True)
    )
    said = PrincipleJudgment(principle="x", checked=False, p_a=p, verdicts=verdicts)
    return Judgment(pair=pair(number), source="ai", annotator=who, p_a=p, principles=(said,), provenance=ORIGIN)


def test_judges_stand_beside_people() -> None:
    rows = [
        *rows_of({"ann": [1.0, 0.0, 1.0], "bob": [1.0, 0.0, 1.0]}),
        *(judge(i, 0.6, (0.5, lead)) for i, lead in enumerate([0.4, 0.0, -1.0])),
    ]
    found = report_of(rows, "judge:compare")
    assert (found.source, found.labels, found.shared) == ("ai", 3, 3)
    assert found.agreement == exact_rate([1, 0, 1])
    assert found.first == exact_rate([1, 1, 1, 1, 0])  # verdicts; an even one says nothing
    assert report_of(rows, "ann").source == "human"


def test_a_panels_members_are_annotators() -> None:
    members = tuple(
        MemberJudgment(member=name, annotator=f"{name}:t", p_a=p, provenance=ORIGIN)
        for name, p in [("u", 0.9), ("v", 0.2)]
    )
    panel = Judgment(pair=pair(0), source="ai", annotator="panel:u+v", p_a=0.6, members=members, provenance=ORIGIN)
    assert [report.annotator for report in counted([panel, label(0, "ann", 1.0)], [])] == ["ann", "u:t", "v:t"]
    assert report_of([panel], "u:t").agreement == exact_rate([0])


def test_accuracy_is_estimated_of_those_who_share_enough() -> None:
    rows = crowd(1, FOUR, share=1.0) + [label(100 + i, "solo", 1.0) for i in range(30)] + [label(0, "few", 1.0)]
    found = {report.annotator: report for report in credibility(rows, [], 10)}
    for name in ("solo", "few"):
        assert found[name].accuracy is None
    assert all(found[name].accuracy is not None for name in FOUR)
    assert all(report.accuracy is None for report in credibility(rows, [], 1000))


# ------------------------------------------------------------------------------------------------- alpha


def test_alpha_by_hand() -> None:
    """Krippendorff's definition on both orientations, multiplied out: see the counts."""
    found = alpha(rows_of({"ann": [1, 1, 0, 0.5], "bob": [1, 1, 1, 1], "cyd": [None, 1, None, None]}), 0)
    # Units: aa, aaa, ab, at and their mirror images bb, bbb, ab, bt. N = 18 labels: 8 a, 8 b, 2 ties.
    # Ordered pairs that disagree, each weighted 1 / (m - 1): ab 2 + ab 2 + at 2 + bt 2 = 8.
    # Expected by chance: (18^2 - 8^2 - 8^2 - 2^2) / 17 = 192 / 17.
    assert found is not None and found.value == pytest.approx(1 - 8 / (192 / 17), abs=1e-12)
    assert (found.units, found.labels) == (4, 9)


def test_alpha_without_ties_is_the_formula() -> None:
    rows = crowd(2, FOUR)
    units = [list(said.values()) for said in table(rows).values() if len(said) > 1]
    count = sum(map(len, units))
    differ = sum(2 * said.count(1.0) * said.count(0.0) / (len(said) - 1) for said in units) / count
    found = alpha(rows, 0)
    assert found is not None and found.value == pytest.approx(1 - (2 * count - 1) * differ / count, abs=1e-12)


def test_alpha_does_not_reward_a_side_that_is_often_better() -> None:
    """A plain nominal alpha on these very labels is near 0 (nearly all say first); mirrored it is high."""
    rows = rows_of({"ann": [1.0] * 19 + [0.0], "bob": [1.0] * 18 + [0.0, 1.0]})
    plain = krippendorff.alpha(value_counts=np.array([[2, 0]] * 18 + [[1, 1]] * 2), level_of_measurement="nominal")
    found = alpha(rows, 0)
    assert plain < 0.05
    assert found is not None and found.value == pytest.approx(1 - 79 / 40 * 0.1, abs=1e-12)


def test_alpha_of_perfect_and_random_annotators() -> None:
    perfect = alpha(crowd(3, dict.fromkeys("xyz", 1.0)), 0)
    assert perfect is not None and (perfect.value, perfect.low, perfect.high) == (1.0, None, None)
    found = [alpha(crowd(seed, dict.fromkeys("xyz", 0.5), 200), 0, samples=200) for seed in range(10)]
    values = [one.value for one in found if one]
    assert max(map(abs, values)) < 0.15 and abs(np.mean(values)) < 0.03
    covered = [one.low <= 0 <= one.high for one in found if one and one.low is not None and one.high is not None]
    assert len(covered) == 10 and sum(covered) >= 8
    contrary = alpha(rows_of({"ann": [1.0] * 9, "bob": [0.0] * 9}), 0)
    assert contrary is not None and contrary.value == pytest.approx(1 - 35 / 18)


def test_alpha_of_what_says_nothing() -> None:
    assert alpha([], 0) is None
    assert alpha(rows_of({"ann": [1.0, 0.0]}), 0) is None
    assert alpha(rows_of({"ann": [0.5, 0.5], "bob": [0.5, 0.5]}), 0) is None


# --------------------------------------------------------------------------------------------- removal


@pytest.mark.parametrize(
    ("hits", "n", "out"), [(0, 2, False), (0, 3, False), (0, 4, True), (4, 10, False), (3, 10, True)]
)
def test_few_gold_questions_remove_nobody(hits: int, n: int, out: bool) -> None:
    """Below 70 % for sure: a third wrong answer in a row happens to somebody who is right in 70 % (0.027)."""
    rows = rows_of({"ann": [1.0] * hits + [0.0] * (n - hits)})
    gold = [label(i, "gold", 1.0) for i in range(n)]
    found = removed(counted(rows, gold), section(min_gold_accuracy=0.7).remove)
    assert (binom.cdf(hits, n, 0.7) < 0.025) == out
    assert list(found) == (["ann"] if out else [])
    if out:
        assert found["ann"].startswith(f"right on gold questions {hits / n:.0%} of {n} (")
        assert found["ann"].endswith("below 70%")


def test_too_fast() -> None:
    rows = [label(i, who, 1.0, seconds=time) for who, time in [("fast", 0.8), ("slow", 9)] for i in range(10)]
    rows += [label(i, "few", 1.0, seconds=0.8) for i in range(9)] + [label(i, "few", 1.0) for i in range(9, 20)]
    rules = Removal(min_labels=10, min_seconds=2)
    assert removed(counted(rows, []), rules) == {"fast": "answers in 0.8 s (median), below 2 s"}
    assert removed(counted(rows, []), Removal()) == {}
    assert removed(counted(rows, []), Removal(min_labels=11, min_seconds=2)) == {}


@pytest.mark.parametrize(("side", "told"), [("a", "first"), ("b", "second")])
def test_always_the_same_side(side: Side, told: str) -> None:
    rows = [label(i, "one-sided", 1.0, shown_first=side) for i in range(40)]
    rows += [label(i, "leaning", float(i >= 6), shown_first=side) for i in range(40)]  # 85 %, at least 70 %
    rows += [label(i, "fair", 1.0, shown_first=side if i % 3 else ("a" if side == "b" else "b")) for i in range(40)]
    found = removed(counted(rows, []), section(max_same_side=0.8).remove)
    assert list(found) == ["one-sided"]
    assert found["one-sided"] == f"prefers what stands {told} in 100% of 40 (91% to 100%), above 80%"


def test_every_reason_is_told() -> None:
    rows = crowd(4, {**FOUR, "troll": 0.5, "fast": 0.9}, 100)
    rows = [
        row.model_copy(update={"answer": Answer(seconds=1)}) if row.annotator in ("eve", "fast") else row
        for row in rows
    ]
    found = removed(counted(rows, []), section(min_agreement=0.5, min_seconds=2).remove)
    assert set(found) == {"eve", "fast"}
    assert found["eve"].startswith("agrees with the others on ") and found["eve"].endswith("; " + found["fast"])


def test_removed_labels_go_with_their_annotator_and_gold_trains_nothing() -> None:
    gold = [label(i, "gold", 1.0) for i in range(10)]
    rows = rows_of({"ann": [1.0] * 14, "troll": [0.0] * 14})
    found = trusted(rows, gold, section(min_gold_accuracy=0.7), 0)
    assert list(found.examined.removed) == ["troll"]
    assert [j.pair.id for j in found.judgments] == [pair(i).id for i in range(10, 14)]
    assert {(j.annotator, j.p_a) for j in found.judgments} == {("ann", 1.0)}
    assert [(r.annotator, bool(r.removed)) for r in found.examined.annotators] == [("ann", False), ("troll", True)]
    examined = found.examined
    assert (examined.labels, examined.pairs, examined.gold_labels, examined.removed_labels) == (28, 14, 20, 4)
    assert found.examined.alpha is not None and found.examined.alpha.value < 0 and examined.alpha_kept is None
    assert json.loads(json.dumps(examined.summary()))["removed"] == found.examined.removed
    ties = [label(i, "gold", 0.5) for i in range(10)]
    assert trusted(rows, ties, section(min_gold_accuracy=0.7), 0).examined.removed == {}
    assert len(trusted(rows, ties, section(), 0).judgments) == 4


def test_nothing_left_is_one_clear_line() -> None:
    rows, gold = rows_of({"troll": [0.0] * 12}), [label(i, "gold", 1.0) for i in range(9)]
    with pytest.raises(DataError, match=r"annotators.remove: leaves no labels; 1 annotators .* troll: right on gold"):
        trusted(rows, gold, section(min_gold_accuracy=0.7), 0)
    with pytest.raises(DataError, match="all 9 labels are of gold questions"):
        trusted(rows[:9], gold, section(), 0)
    assert trusted([], [], section(), 0).judgments == []


# ------------------------------------------------------------------------------------------- aggregation


def test_mean_by_hand() -> None:
    rows = rows_of({"ann": [1.0, 1.0, 0.5], "bob": [1.0, 0.0, None], "cyd": [0.0, 0.5, None]})
    found = aggregate([*rows, label(0, "cyd", 1.0, turned=True)], section())
    assert [judgment.p_a for judgment in found] == pytest.approx([2.5 / 3, 0.5, 0.5])  # cyd's two are one half
    assert [judgment.annotator for judgment in found] == ["mean:ann+bob+cyd", "mean:ann+bob+cyd", "ann"]


def test_a_single_label_is_left_as_it_is() -> None:
    lone = label(0, "ann", 1.0, shown_first="b", seconds=3, reason="shorter")
    assert aggregate([lone, label(1, "bob", 0.0)], section()) == [lone, label(1, "bob", 0.0)]


def test_dawid_skene_is_the_posterior() -> None:
    rows = crowd(6, FOUR)
    labels = table(rows)
    accuracy = accuracies(labels, 10)
    assert accuracy["eve"] < 0.5 < min(accuracy["ann"], accuracy["bob"], accuracy["cyd"]) and max(accuracy.values()) < 1
    merged = {judgment.pair.id: judgment for judgment in aggregate(rows, section("dawid_skene"))}
    for pair_id, said in labels.items():
        for_first, for_second = (
            math.prod(accuracy[who] if p == side else 1 - accuracy[who] for who, p in said.items()) for side in (1, 0)
        )
        one = merged[pair_id]
        assert one.p_of(min(one.pair.a, one.pair.b)) == pytest.approx(for_first / (for_first + for_second))
        assert one.annotator == "dawid_skene:" + "+".join(said)


def test_dawid_skene_softens_single_labels() -> None:
    rows = crowd(7, FOUR, share=1.0)
    lone = [label(200, "ann", 1.0), label(201, "new", 0.0), label(202, "eve", 1.0), label(203, "ann", 0.5)]
    accuracy = accuracies(table(rows), 10)
    mean = sum(accuracy.values()) / 4
    found = aggregate([*rows, *lone], section("dawid_skene"))[-4:]
    assert [j.p_a for j in found] == pytest.approx([accuracy["ann"], 1 - mean, accuracy["eve"], 0.5])
    assert found[2].p_a < 0.5  # the flipper is better contradicted
    assert [j.annotator for j in found[:2]] == ["dawid_skene:ann", "dawid_skene:new"]


def test_dawid_skene_without_overlap_is_the_mean() -> None:
    rows = rows_of({"ann": [1.0] * 20, "bob": [None] * 15 + [0.0] * 9})
    assert accuracies(table(rows), 10) == {}
    assert aggregate(rows, section("dawid_skene")) == aggregate(rows, section())
    assert aggregate(rows, section("dawid_skene", min_shared=5))[0].annotator == "dawid_skene:ann"


def test_accuracies_are_never_certain() -> None:
    rows = crowd(8, dict.fromkeys("xyz", 1.0), share=1.0)
    assert accuracies(table(rows), 10) == pytest.approx(dict.fromkeys("xyz", 61 / 62))


def test_what_a_merged_judgment_keeps() -> None:
    def said(who: str, p: float, turned: bool, **principles: float) -> Judgment:
        row = label(0, who, p, turned)
        parts = tuple(
            PrincipleJudgment(principle=name, checked=False, p_a=1 - q if turned else q)
            for name, q in principles.items()
        )
        tags = ("harmful", who)
        return row.model_copy(update={"principles": parts, "pair": row.pair.model_copy(update={"tags": tags})})

    rows = [said("ann", 1.0, False, kind=1.0, brief=0.0), said("bob", 0.0, True, kind=0.5)]
    (merged,) = aggregate(rows, section())
    assert [(p.principle, p.p_a) for p in merged.principles] == [("brief", 0.0), ("kind", 0.75)]
    assert merged.pair.tags == ("harmful", "ann", "bob") and merged.answer is None
    (fake,) = aggregate([label(0, "ann", 1.0), label(0, "simulated:lazy-1", 1.0, simulated=True)], section())
    assert fake.answer == Answer(simulated=True) and fake.annotator == "mean:ann+simulated:lazy-1"
    (mixed,) = aggregate([judge(0, 0.6, (1, 1)), label(0, "ann", 1.0)], section())
    assert (mixed.source, mixed.p_a) == ("human", pytest.approx(0.8))
    (machine,) = aggregate([judge(0, 0.6, (1, 1)), judge(0, 0.8, (1, 1), "other")], section())
    assert machine.source == "ai"


# ------------------------------------------------------------------------------------- what cannot matter


@ALL_KINDS
def test_exchanging_a_and_b_of_any_judgment_changes_nothing(kind: str) -> None:
    rows = crowd(10, FOUR, 24)
    gold = [label(i, "gold", float(i % 2)) for i in range(8)]
    turned = [swapped(row) if i % 3 == 0 else row for i, row in enumerate(rows)]
    turned_gold = [swapped(row) if i % 2 else row for i, row in enumerate(gold)]
    rules = section(kind, min_agreement=0.55)
    before, after = trusted(rows, gold, rules, 1), trusted(turned, turned_gold, rules, 1)
    assert after.examined == before.examined
    for one, other in zip(before.judgments, after.judgments, strict=True):
        assert other.p_of(one.pair.a) == pytest.approx(one.p_a, abs=1e-15)
        assert (one.pair.id, one.annotator) == (other.pair.id, other.annotator)


@ALL_KINDS
def test_the_order_of_the_rows_changes_only_the_order(kind: str) -> None:
    rows = crowd(11, FOUR, 24)
    shuffled = random.Random(1).sample(rows, len(rows))
    rules = section(kind, min_agreement=0.55)
    before, after = trusted(rows, [], rules, 1), trusted(shuffled, [], rules, 1)
    assert after.examined == before.examined
    place = {one.pair.id: one for one in after.judgments}
    for one in before.judgments:
        assert place[one.pair.id].p_of(one.pair.a) == pytest.approx(one.p_a, abs=1e-15)
    assert list(place) == list(
        dict.fromkeys(row.pair.id for row in shuffled if row.annotator not in after.examined.removed)
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from("xyz"), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans()),
        max_size=25,
    )
)
def test_one_judgment_a_pair_whatever_comes(said: list[tuple[int, str, float, bool]]) -> None:
    rows = [label(*one) for one in said]
    merged = aggregate(rows, section("dawid_skene"))
    held = {row.pair.id: row.pair for row in reversed(rows)}
    assert all(one.pair == held[one.pair.id] for one in merged)
    assert [one.pair.id for one in merged] == list(dict.fromkeys(row.pair.id for row in rows))
    for one in aggregate(rows, section()):
        ps = [row.p_of(one.pair.a) for row in rows if row.pair.id == one.pair.id]
        assert min(ps) - 1e-12 <= one.p_a <= max(ps) + 1e-12
    reports = counted(rows, [])
    assert sum(report.labels for report in reports) == len(rows)


# ------------------------------------------------------------------------------------------- the commands


def test_the_report_of_files_and_runs(cli: Cli, tmp_path: Path) -> None:
    rows = crowd(12, FOUR, 40)
    run = Run(tmp_path / "run")
    write_jsonl(run.annotations, rows)
    write_jsonl(run.judgments, [judge(i, 0.6, (1, 1)) for i in range(40)])
    write_jsonl(tmp_path / "gold.jsonl", [label(i, "gold", 1.0) for i in range(20)])
    report = ("annotators", "report", "--gold", "gold.jsonl")
    code, shown, _ = cli(*report, "run", "--out", "report.json", "--remove", "min_agreement=0.5,min_labels=5")
    lines = shown.splitlines()
    assert code == 0 and lines[0].startswith(f"5 annotators gave {len(rows) + 40} labels of 40 pairs, ")
    assert [line.split()[0] for line in lines[1:7]] == ["annotator", "ann", "bob", "cyd", "eve", "judge:compare"]
    start = lines[1].index("verdict")
    assert [line[start:].split(":")[0] for line in lines[2:7]] == ["kept", "kept", "kept", "removed", "kept"]
    assert all(line[start - 1] == " " for line in lines[1:7])
    said, without = (line.partition(": ") for line in lines[7:9])
    assert (said[0], without[0]) == ("Krippendorff's alpha", "without those removed")
    assert float(said[2].split()[0]) < float(without[2].split()[0])
    assert not any("simulated" in line for line in lines) and lines[-1] == "figures: report.json"
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["schema"] == "rlaif/annotators/v1"
    assert [one["annotator"] for one in figures["annotators"]] == ["ann", "bob", "cyd", "eve", "judge:compare"]
    again = cli(*report, "run/annotations.jsonl", "run/judgments.jsonl")[1].splitlines()
    assert again[2].split()[1] == lines[2].split()[1] and "kept" in again[5]


def test_what_is_simulated_says_so(cli: Cli, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "truth.jsonl", [label(i, "ann", 1.0) for i in range(30)])
    simulated = ("annotators", "simulate", "truth.jsonl", "--crew", "careful:2,lazy:1", "--out")
    _, shown, _ = cli(*simulated, "made.jsonl")
    assert shown.startswith("30 simulated labels of 30 pairs by 3 simulated annotators: made.jsonl\n")
    out = tmp_path / "made.jsonl"
    rows = read_jsonl(out, Judgment)
    assert all(row.annotator.startswith("simulated:") and row.answer and row.answer.simulated for row in rows)
    before = out.read_bytes()
    assert cli(*simulated, "made.jsonl")[1] == shown and out.read_bytes() == before
    assert cli("annotators", "report", "made.jsonl")[1].splitlines()[-1].startswith("simulated: made-up answers")
    write_jsonl(tmp_path / "renamed.jsonl", [row.model_copy(update={"annotator": "innocent"}) for row in rows])
    assert "\ninnocent (simulated)" in cli("annotators", "report", "renamed.jsonl")[1]
    code, _, err = cli(*simulated, "truth.jsonl")
    assert code == 2 and "is the source" in err


def test_labels_of_other_shapes_and_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(json.dumps({"prompt": "why?", "chosen": "because", "rejected": "no"}) + "\n")
    assert [judgment.annotator for judgment in read_labels(path)] == ["human"]
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl: not one usable pair: the sources are empty"):
        read_labels(tmp_path / "empty.jsonl")
    (tmp_path / "run").mkdir()
    with pytest.raises(DataError, match=r"run: a run without labels: neither annotations\.jsonl nor judgments\.jsonl"):
        read_labels(tmp_path / "run")
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        read_labels(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("min_gold_acuracy=0.6", "no rule 'min_gold_acuracy'; did you mean 'min_gold_accuracy'"),
        ("min_seconds", "'min_seconds' is not of the form name=value"),
        ("min_agreement=2", r"min_agreement: .* less than or equal to 1 \(got '2'\)"),
        ("min_labels=x", r"min_labels: .* \(got 'x'\)"),
    ],
)
def test_bad_rules_are_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        removal_of(text)
    assert "\n" not in str(caught.value)


def test_rules() -> None:
    assert removal_of("") == Removal()
    assert removal_of("min_gold_accuracy=0.6, min_labels=3") == Removal(min_gold_accuracy=0.6, min_labels=3)
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.5"):
        Removal(max_same_side=0.4)
