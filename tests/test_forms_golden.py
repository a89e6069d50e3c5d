"""What every form reads from good rows and from bad ones, against what it read before: all records, failures, counts
and errors, as digests. `python tests/test_forms_golden.py` writes them anew, where a change is meant."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from rlaif.errors import DataError
from rlaif.formats import AnyForm, Form, HumanFile, HumanSource, human_rows, read_form, read_human_rows
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import HumanData, Sheet
from rlaif.jsonl import dumps

HERE = Path(__file__).parent / "golden"
DIGESTS = HERE / "forms.json"
SCHEMA = HERE / "human_source_schema.json"
FORM: TypeAdapter[Form] = TypeAdapter(Form)
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "hh": ("hh.jsonl", {"kind": "comparisons"}),
    "hhh": ("hhh.jsonl", {"kind": "comparisons"}),
    "trl": ("trl.jsonl", {"kind": "comparisons"}),
    "binarized": ("ultrafeedback_binarized.jsonl", {"kind": "comparisons"}),
    "shp": ("shp.jsonl", {"kind": "shp", "min_ratio": 2}),
    "ratings": ("ratings.jsonl", {"kind": "ratings"}),
    "standardised": ("ratings.jsonl", {"kind": "ratings", "standardise": True, "gap": 0.5}),
    "helpsteer": ("helpsteer.jsonl", {"kind": "ratings", "rating": {"helpfulness": 1, "verbosity": -0.3}}),
    "likert": ("likert5.jsonl", {"kind": "likert"}),
    "signed": ("likert5.jsonl", {"kind": "likert", "scale": "signed", "points": 7}),
    "thumbs": ("thumbs.jsonl", {"kind": "thumbs"}),
    "rankings": ("rankings.jsonl", {"kind": "rankings"}),
    "ultrafeedback": ("ultrafeedback.jsonl", {"kind": "ultrafeedback"}),
    "aspects": ("ultrafeedback.jsonl", {"kind": "ultrafeedback", "score": "aspects"}),
    "edits": ("edits.jsonl", {"kind": "edits"}),
    "argilla": ("argilla.json", {"kind": "argilla"}),
    "argilla flat": ("argilla_flat.jsonl", {"kind": "argilla"}),
    "argilla rating": ("argilla_rating.jsonl", {"kind": "argilla", "question": {"kind": "rating"}}),
    "argilla server": ("argilla_server.jsonl", {"kind": "argilla"}),
    "label_studio": ("label_studio.json", {"kind": "label_studio"}),
    "csv": ("choices.csv", {"kind": "csv"}),
    "judgments": ("own.jsonl", {"kind": "judgments"}),
}
VALUES: tuple[Any, ...] = (None, "", "x", 99, -1, 0.5, True, float("nan"), [], {}, "Assistant: y", [{"role": "user"}])
ADDED: tuple[dict[str, Any], ...] = (
    {"p_chosen": 0.7},
    {"p_chosen": 2},
    {"tags": ["t"], "annotator": "kim", "seconds": 3, "reason": ["a", "b"]},
    {"tags": "t"},
    {"seconds": -1},
    {"annotator": {}},
    {"margin": 0.4},
    {"chosen_rating": 1, "rejected_rating": 5},
    {"score_a": 1, "score_b": 1},
    {"preferred": "b"},
    {"system": "Be kind."},
    {"source": "ai"},
    {"scores": [1, 2, 3]},
)


def rows_of(name: str, form: dict[str, Any]) -> list[dict[str, Any]]:
    source = HumanFile(path=str(HERE / "human" / name), form=FORM.validate_python(form))
    return [row.value for row in human_rows(source)]


def read(form: dict[str, Any], rows: list[dict[str, Any]]) -> HumanData:
    data = HumanData.empty()
    source = HumanFile(path="f", tags=("source",))
    placed = (SourceRow(f"f:{number}", row) for number, row in enumerate(rows, start=1))
    read_form(FORM.validate_python(form), placed, Sheet(source, "Be brief.", data))
    return data


def guessed(rows: list[dict[str, Any]]) -> HumanData:
    """As files of labels on the command line are read, whose rows say by their keys what they are."""
    data, source = HumanData.empty(), AnyForm(path="f")
    placed = (SourceRow(f"f:{number}", row) for number, row in enumerate(rows, start=1))
    read_human_rows(source, placed, Sheet(source, None, data, "gold"))
    return data


def outcome(reader: Callable[[], HumanData]) -> str:
    """Everything that came out, or the error."""
    try:
        data = reader()
    except DataError as error:
        return str(error)
    records = [data.judgments, data.edits, data.demonstrations, data.failures]
    return "\n".join([*(dumps(row) for some in records for row in some), json.dumps(sorted(data.counts.items()))])


def changed(row: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every place in the row, and rows in which something else stands there."""
    for path in places(row):
        variants = []
        for value in VALUES:
            copied = copy.deepcopy(row)
            inside(copied, path)[path[-1]] = value
            variants.append(copied)
        without = copy.deepcopy(row)
        del inside(without, path)[path[-1]]
        yield ".".join(map(str, path)), [*variants, without]
    yield "more", [row | added for added in ADDED]


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*before, key)
        yield from places(item, (*before, key))


def inside(row: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        row = row[key]
    return row


def digests(name: str) -> dict[str, str]:
    file, form = FORMS[name]
    rows = rows_of(file, form)
    found = {"whole": digest([outcome(lambda: read(form, rows)), outcome(lambda: guessed(rows))])}
    for number, row in enumerate(rows):
        for place, variants in changed(row):
            read_ones = [[*rows[:number], one, *rows[number + 1 :]] for one in variants]
            found[f"{number + 1} {place}"] = digest(
                [outcome(lambda each=each: read(form, each)) for each in read_ones]
                + [outcome(lambda each=each: guessed(each)) for each in read_ones]
            )
    return found


def digest(texts: list[str]) -> str:
    return sha256("\n\n".join(texts).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", FORMS)
def test_a_form_reads_what_it_read(name: str) -> None:
    expected = json.loads(DIGESTS.read_text())[name]
    found = digests(name)
    assert {place: found[place] for place in expected if found.get(place) != expected[place]} == {}
    assert found.keys() == expected.keys()


def test_the_forms_have_the_knobs_that_they_had() -> None:
    """Their help too, which the recipe's schema shows."""
    assert unordered(schema()) == unordered(json.loads(SCHEMA.read_text()))


def schema() -> dict[str, Any]:
    adapter: TypeAdapter[HumanSource] = TypeAdapter(HumanSource)
    return adapter.json_schema()


def unordered(value: Any) -> Any:
    """The order of the alternatives says nothing."""
    if isinstance(value, list):
        return sorted(map(unordered, value), key=str)
    return {key: unordered(inner) for key, inner in sorted(value.items())} if isinstance(value, dict) else value


if __name__ == "__main__":
    DIGESTS.write_text(json.dumps({name: digests(name) for name in FORMS}, indent=1) + "\n")
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n")
