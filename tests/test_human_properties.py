"""What holds for every form: neither the order of rows nor which response is called a changes anything, and no row is
lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from rlaif.errors import DataError
from rlaif.formats import Form, HumanFile, HumanHub, human_rows, read_form
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import HumanData, Sheet
from rlaif.records import Judgment

GOLDEN = Path(__file__).parent / "golden" / "human"
FORM: TypeAdapter[Form] = TypeAdapter(Form)
FORMS: dict[str, dict[str, Any]] = {
    "hh.jsonl": {"kind": "comparisons"},
    "trl.jsonl": {"kind": "comparisons"},
    "ultrafeedback_binarized.jsonl": {"kind": "comparisons"},
    "shp.jsonl": {"kind": "shp", "min_ratio": 2},
    "ratings.jsonl": {"kind": "ratings"},
    "helpsteer.jsonl": {"kind": "ratings", "rating": {"helpfulness": 1, "verbosity": -0.3}, "scale": [0, 4]},
    "likert5.jsonl": {"kind": "likert"},
    "thumbs.jsonl": {"kind": "thumbs"},
    "rankings.jsonl": {"kind": "rankings"},
    "ultrafeedback.jsonl": {"kind": "ultrafeedback"},
    "edits.jsonl": {"kind": "edits"},
    "argilla.json": {"kind": "argilla"},
    "argilla_flat.jsonl": {"kind": "argilla"},
    "argilla_rating.jsonl": {"kind": "argilla", "question": {"kind": "rating"}},
    "label_studio.json": {"kind": "label_studio"},
    "choices.csv": {"kind": "csv"},
}
TEXTS = st.sampled_from(["x", "y", "z", "x ", ""])
SOURCE = HumanHub(dataset="d")


def read(form: dict[str, Any], rows: list[SourceRow]) -> HumanData:
    data = HumanData.empty()
    read_form(FORM.validate_python(form), iter(rows), Sheet(SOURCE, None, data))
    return data


def of(form: dict[str, Any], rows: list[dict[str, Any]]) -> HumanData:
    return read(form, [SourceRow(f"f:{number}", row) for number, row in enumerate(rows, start=1)])


def bag(judgments: list[Judgment]) -> Counter[str]:
    return Counter(judgment.model_dump_json() for judgment in judgments)


@pytest.mark.parametrize("name", FORMS)
def test_the_order_of_rows_changes_no_judgment(name: str) -> None:
    source = HumanFile(path=str(GOLDEN / name), form=FORM.validate_python(FORMS[name]))
    rows = list(human_rows(source))
    straight = read(FORMS[name], rows)
    for seed in range(5):
        Random(seed).shuffle(rows)
        mixed = read(FORMS[name], rows)
        assert bag(mixed.judgments) == bag(straight.judgments)
        assert mixed.counts == straight.counts
        assert Counter(mixed.failures) == Counter(straight.failures)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["q", "r"]), TEXTS, st.integers(1, 5), st.sampled_from(["kim", "lee"])), max_size=9
    ),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_ratings_in_any_order(given_rows: list[tuple[str, str, int, str]], standardise: bool, random: Any) -> None:
    """Every row is in a pair, unpaired or a failure; every pair of usable rows is a judgment or counted."""
    keys = ("prompt", "response", "rating", "annotator")
    rows = [dict(zip(keys, row, strict=True)) for row in given_rows]
    form = {"kind": "ratings", "gap": 1.2, "standardise": standardise}
    data = of(form, rows)
    usable = [row for row in rows if row["response"].strip()]
    assert len(data.failures) == len(rows) - len(usable)
    groups = Counter((row["prompt"], row["annotator"]) for row in usable)
    pairs = sum(size * (size - 1) // 2 for size in groups.values())
    assert pairs == len(data.judgments) + data.counts["closer_than_gap"] + data.counts["same_text"]
    assert data.counts["rows"] == len(rows)
    random.shuffle(rows)
    assert bag(of(form, rows).judgments) == bag(data.judgments)


SIDED: dict[str, tuple[dict[str, Any], Any]] = {
    "likert": (
        {"kind": "likert", "points": 7},
        lambda a, b, v: (
            {"response_a": a, "response_b": b, "rating": v},
            {"response_a": b, "response_b": a, "rating": 8 - v},
        ),
    ),
    "csv": (
        {"kind": "csv"},
        lambda a, b, v: (
            {"response_a": a, "response_b": b, "choice": ("a", "b", "tie")[v % 3]},
            {"response_a": b, "response_b": a, "choice": ("b", "a", "tie")[v % 3]},
        ),
    ),
    "shp": (
        {"kind": "shp"},
        lambda a, b, v: (
            {"history": "q", "human_ref_A": a, "human_ref_B": b, "labels": v % 2},
            {"history": "q", "human_ref_A": b, "human_ref_B": a, "labels": 1 - v % 2},
        ),
    ),
    "rankings": (
        {"kind": "rankings"},
        lambda a, b, v: (
            {"responses": [a, b], "ranks": [v % 3, 1]},
            {"responses": [b, a], "ranks": [1, v % 3]},
        ),
    ),
    "label_studio": (
        {"kind": "label_studio"},
        lambda a, b, v: (selected(a, b, "left" if v % 2 else "right"), selected(b, a, "right" if v % 2 else "left")),
    ),
    "argilla": (
        {"kind": "argilla"},
        lambda a, b, v: (ranked(a, b, v, 4), ranked(b, a, 4, v)),
    ),
}
"""Rows that say the same with their sides exchanged, from two texts and a number of 1 to 7."""


def selected(left: str, right: str, side: str) -> dict[str, Any]:
    result = [{"type": "pairwise", "value": {"selected": side}}]
    return {"data": {"prompt": "q", "text1": left, "text2": right}, "annotations": [{"result": result}]}


def ranked(one: str, other: str, first: int, second: int) -> dict[str, Any]:
    value = [{"value": "response1", "rank": first}, {"value": "response2", "rank": second}]
    fields = {"instruction": "q", "response1": one, "response2": other}
    return {"fields": fields, "responses": {"ranking": [{"value": value, "user_id": "u"}]}}


@pytest.mark.parametrize("kind", SIDED)
@settings(deadline=None, max_examples=30)
@given(st.text(min_size=1, max_size=4), st.text(min_size=1, max_size=4), st.integers(1, 7))
def test_exchanging_the_sides_changes_no_judgment(kind: str, one: str, other: str, value: int) -> None:
    form, make = SIDED[kind]
    found = [of(form, [{"prompt": "q", **row}]) for row in make(one, other, value)]
    assert len({len(data.judgments) for data in found}) == 1
    if found[0].judgments:
        straight, exchanged = (data.judgments[0] for data in found)
        assert straight.pair == exchanged.pair
        assert straight.p_of(one.strip()) == pytest.approx(exchanged.p_of(one.strip()), abs=1e-15)
    else:
        assert found[0].failures or found[0].counts["same_text"]


@pytest.mark.parametrize("name", ["hh.jsonl", "trl.jsonl", "shp.jsonl", "likert5.jsonl", "edits.jsonl", "choices.csv"])
def test_every_row_is_a_judgment_a_failure_or_counted(name: str) -> None:
    rows = list(human_rows(HumanFile(path=str(GOLDEN / name), form=FORM.validate_python(FORMS[name]))))
    data = read(FORMS[name], rows)
    counted = sum(number for what, number in data.counts.items() if what not in ("rows", "failed"))
    assert len(rows) == data.counts["rows"] == len(data.judgments) + len(data.failures) + counted


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(list(FORMS)),
    st.randoms(use_true_random=False),
    st.sampled_from([None, 3, -1.5, "", "x", [], {}, True, float("nan"), [None], {"x": 1}]),
)
def test_a_spoilt_value_is_a_failure_or_one_clear_line(name: str, random: Any, spoilt: Any) -> None:
    """Never another exception, and never a row without a trace."""
    rows = list(human_rows(HumanFile(path=str(GOLDEN / name), form=FORM.validate_python(FORMS[name]))))
    row = json.loads(json.dumps(random.choice(rows).value))
    holder: Any = row
    while True:
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if isinstance(holder[key], dict | list) and holder[key] and random.random() < 0.7:
            holder = holder[key]
        else:
            break
    holder[key] = spoilt
    try:
        data = read(FORMS[name], [SourceRow("f:1", row)])
    except DataError as error:
        assert "f:1" in str(error) and "\n" not in str(error)
    else:
        assert data.judgments or data.failures or sum(data.counts.values()) > 1
