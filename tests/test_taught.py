"""Which principle taught what: shares of the label signal, and how often an independent measure agrees."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from rlaif.config.measures import CodeMeasure, Readability, WordCount
from rlaif.constitution import Constitution
from rlaif.evaluation.agreement import labels_by_principle
from rlaif.evaluation.measures import Instrument, instruments
from rlaif.evaluation.tables import label_rows, labels_part
from rlaif.evaluation.verdict import label_sentences
from rlaif.feedback.verdict import sigma
from rlaif.records import Judgment, MemberJudgment, Pair, PrincipleJudgment, Provenance
from rlaif.stats import Bootstrap
from tests.fake_run import prompt

BOOTSTRAP = Bootstrap(400)
CONSTITUTION = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "x",
        "version": "1.0.0",
        "title": "x",
        "principles": [
            {"id": "plain", "compare": "Which response is plainer?", "weight": 3.0},
            {"id": "brief", "check": {"kind": "max_words", "limit": 3}},
        ],
    }
)
COUNT = Instrument("words", "words", "number", None, lambda text: float(len(text.split())) if text else None)


def judgment(a: str, b: str, plain: float, brief: float, p_a: float | None = None, of: int = 0) -> Judgment:
    """By log-odds for a of the two principles; the label is their weighted mean unless it is given."""
    principles = (
        PrincipleJudgment(principle="plain", checked=False, p_a=sigma(plain)),
        PrincipleJudgment(principle="brief", checked=True, p_a=sigma(brief)),
    )
    label = sigma((3 * plain + brief) / 4) if p_a is None else p_a
    pair = Pair.of(prompt(of), a, b)
    return Judgment(pair=pair, source="ai", annotator="j", p_a=label, principles=principles)


def found(judgments, *measures):
    return labels_by_principle(judgments, CONSTITUTION, measures or (COUNT,), BOOTSTRAP)


def test_by_hand():
    rows = [
        judgment("one two", "one", plain=2.0, brief=0.0, of=0),
        judgment("one two", "one two three", plain=-1.0, brief=-4.0, of=1),
        judgment("x y", "a b", plain=0.5, brief=4.0, of=2),
        judgment("one", "", plain=0.0, brief=4.0, of=3),
    ]
    labels = found(rows)
    plain, brief = labels["by_principle"]["plain"], labels["by_principle"]["brief"]
    assert (labels["pairs"], labels["prefers"]) == (4, 4)
    assert [(one["checked"], one["pairs"], one["prefers"]) for one in (plain, brief)] == [(False, 4, 3), (True, 4, 3)]
    loud = 3 * (2.0 + 1.0 + 0.5), 4.0 * 3
    assert plain["signal"] == pytest.approx(loud[0] / sum(loud)) and brief["signal"] == pytest.approx(
        loud[1] / sum(loud)
    )
    assert plain["agrees"]["value"] == brief["agrees"]["value"] == 1.0 and plain["agrees"]["n"] == 3
    # `plain` prefers the longer of the first and of the second pair; the third has equal counts
    (agreement,) = plain["measures"]
    assert (agreement["value"], agreement["n"], agreement["ties"], agreement["without_value"]) == (0.0, 2, 1, 0)
    # `brief` says nothing of the first; in the last a text has no value
    (agreement,) = brief["measures"]
    assert (agreement["value"], agreement["n"], agreement["ties"], agreement["without_value"]) == (0.0, 1, 1, 1)
    assert labels["label"]["measures"][0]["n"] == 2


def test_the_label_need_not_agree_with_a_principle():
    rows = [judgment("a", "b c", plain=1.0, brief=0.0, p_a=p, of=i) for i, p in enumerate((0.9, 0.2, 0.5))]
    entry = found(rows)["by_principle"]["plain"]
    assert (entry["agrees"]["value"], entry["agrees"]["n"]) == (0.5, 2)
    assert entry["measures"][0]["value"] == 1.0 and entry["measures"][0]["n"] == 3


def test_the_side_is_the_wanted_one():
    rows = [judgment("a", "b c", plain=1.0, brief=0.0, of=i) for i in range(3)]
    higher = Instrument("words", "words", "number", "higher", COUNT.value)
    one, other = (found(rows, each)["by_principle"]["plain"]["measures"][0] for each in (COUNT, higher))
    assert (one["side"], one["value"]) == ("lower", 1.0) and (other["side"], other["value"]) == ("higher", 0.0)


def test_nothing_preferred_is_no_signal():
    labels = found([judgment("a", "b c", 0.0, 0.0)])
    entry = labels["by_principle"]["plain"]
    assert (entry["signal"], entry["prefers"], entry["agrees"], entry["measures"][0]["value"]) == (None, 0, None, None)
    assert "taught nothing" in next(label_sentences({"labels": labels}))
    assert found([]) is None and labels_part({"labels": None}) == []


def test_swapped_and_reordered_pairs_say_the_same():
    rng = random.Random(0)
    rows = [
        judgment(
            "w " * rng.randint(1, 5) + "a",
            "w " * rng.randint(1, 5) + "b",
            rng.gauss(0, 2),
            rng.choice([-4, 0, 4]),
            of=i,
        )
        for i in range(40)
    ]

    def turned(j: Judgment) -> Judgment:
        sides = tuple(p.model_copy(update={"p_a": 1 - p.p_a}) for p in j.principles)
        return j.model_copy(update={"pair": j.pair.swapped(), "p_a": 1 - j.p_a, "principles": sides})

    one, two = found(rows), found([turned(j) for j in reversed(rows)])
    for name in ("plain", "brief"):
        a, b = one["by_principle"][name], two["by_principle"][name]
        assert a["signal"] == pytest.approx(b["signal"]) and a["prefers"] == b["prefers"]
        assert a["agrees"]["value"] == b["agrees"]["value"]
        assert a["measures"][0]["value"] == pytest.approx(b["measures"][0]["value"])


def test_a_panels_members_speak_for_themselves():
    origin = Provenance(
        constitution="x",
        constitution_version="1.0.0",
        constitution_hash="h",
        judge="j",
        judge_revision="r",
        template="t",
        template_hash="h",
        sampling={},
        aggregation="mean",
    )

    def panel(label: float, **leads: float) -> Judgment:
        members = tuple(
            MemberJudgment(
                member=name,
                annotator=name,
                p_a=sigma(lead),
                principles=(PrincipleJudgment(principle="plain", checked=False, p_a=sigma(lead)),),
                provenance=origin,
            )
            for name, lead in leads.items()
        )
        return judgment("a", "b c", 0.0, 0.0, sigma(label)).model_copy(update={"principles": (), "members": members})

    entries = found([panel(1.0, one=3.0, two=-1.0), panel(1.0, one=1.0)])["by_principle"]
    # In the first label each has half a say, in the second one has all of it.
    signals = {name: entry["signal"] for name, entry in entries.items()}
    assert signals == pytest.approx({"one: plain": (1.5 + 1.0) / 3, "two: plain": 0.5 / 3})
    assert entries["two: plain"]["agrees"]["value"] == 0.0


def test_a_judge_of_known_skill_is_told_from_a_coin():
    """A principle that prefers the shorter in 70 % of pairs, and one that tosses coins."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(300):
        a, b = ("w " * n + str(i) for n in rng.choice(np.arange(1, 12), 2, replace=False))
        shorter = 1 if len(a.split()) < len(b.split()) else -1
        skill = shorter if i % 10 < 7 else -shorter
        rows.append(judgment(a, b, skill * abs(rng.normal(1, 0.3)), 4 * rng.choice([-1, 1]), of=i // 3))
    entries = found(rows)["by_principle"]
    judged, coin = (entries[name]["measures"][0] for name in ("plain", "brief"))
    assert (judged["value"], judged["n"]) == (0.7, 300) and 0.6 < judged["low"] < judged["high"] < 0.8
    assert coin["low"] < 0.5 < coin["high"]
    head, table = label_rows({"labels": found(rows)})
    assert head[-1] == "Lower in words" and table[-1][0] == "The label"
    first, second = label_sentences({"labels": found(rows)})
    share = entries["plain"]["signal"]
    assert first == f"The judge gave {100 * share:.0f}% of the label signal, code {100 * (1 - share):.0f}%."
    assert second.startswith("The response that plain prefers is lower more often than a coin in words (70%, ")


def test_a_measure_that_the_run_saw_is_in_the_table_and_in_no_sentence():
    rows = [judgment("a", "b c", 1.0, 0.0, of=i) for i in range(9)]
    evaluation = {"labels": found(rows), "measures": [{"name": "words", "seen": "the check brief"}]}
    (_, table), sentences = label_rows(evaluation), list(label_sentences(evaluation))
    assert len(sentences) == 1 and table[0][-1].text == "100%"


def test_log_odds_beyond_the_limit_count_as_the_limit():
    labels = found([judgment("a", "b c", 500.0, 4.0)])["by_principle"]
    assert labels["plain"]["signal"] == pytest.approx(90 / 94)
    assert math.isfinite(labels["brief"]["signal"])


def test_each_text_is_measured_once(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("tests.scripted_judge.letters", lambda text: asked.append(text) or len(text))
    (letters,) = instruments([CodeMeasure(function="tests.scripted_judge:letters")])
    found([judgment("a", "b c", 1.0, 4.0, of=i) for i in range(5)], letters, *instruments([WordCount(), Readability()]))
    assert sorted(asked) == ["a", "b c"]
