"""Groups of annotators: agreement inside, with the others and with the judge, where it is planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import DataError
from rlaif.evaluation.subgroups import groups_of, subgroups, subgroups_part
from rlaif.records import Judgment, Message, Pair, Prompt
from rlaif.run_folder import Run
from rlaif.stages.slices import annotator_groups
from rlaif.stats import Bootstrap
from rlaif.testing import small_recipe

BOOTSTRAP = Bootstrap(200, 0.95, 0)
GROUPS = {"ann": "north", "bob": "north", "eva": "south", "ivo": "south"}


def said(i: int, annotator: str, p_a: float) -> Judgment:
    pair = Pair.of(Prompt.of((Message(role="user", content=f"Say {i}"),)), "one", "two")
    return Judgment(pair=pair, source="ai" if annotator == "judge" else "human", annotator=annotator, p_a=p_a)


def test_the_judge_with_one_groups_taste_is_seen() -> None:
    """The north prefers `one`, as the judge does; of the south one always prefers `two`, and the other every second."""
    people = [said(i, name, 1.0) for i in range(30) for name in ("ann", "bob")]
    people += [said(i, "eva", 0.0) for i in range(30)] + [said(i, "ivo", float(i % 2)) for i in range(30)]
    judge = [said(i, "judge", 0.8) for i in range(30)]
    north, south = subgroups(people, judge, GROUPS, 10, BOOTSTRAP)
    assert (north["name"], north["annotators"], north["labels"], north["alpha"]["value"]) == ("north", 2, 60, 1.0)
    assert north["judge"]["value"] == 1 and north["judge"]["n"] == 30
    assert south["alpha"]["value"] < 0.2
    assert (south["judge"]["value"], south["judge"]["n"]) == (0, 15)  # of the other half the south's majority is a tie
    assert (south["others"]["value"], north["others"]["value"]) == (0, 0)
    page = "".join(map(str, subgroups_part({"annotator_groups": [north, south]})))
    assert "north" in page and "100%" in page and subgroups_part({}) == []


def test_few_pairs_and_nobodys_group_have_no_figure() -> None:
    people = [said(i, name, 1.0) for i in range(9) for name in ("ann", "someone")]
    north, unknown = subgroups(people, [], GROUPS, 10, BOOTSTRAP)
    assert north["others"] is north["judge"] is north["alpha"] is None and unknown["name"] == "not said"


def rows(path: Path, *more: dict[str, Any]) -> Path:
    answers = [
        {"prompt": f"Say {i}", "response_a": "one", "response_b": "two", "label": "a" if name == "ann" else "b"}
        | {"annotator": name, "land": GROUPS[name]}
        for i in range(40)
        for name in ("ann", "eva")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*answers, *more]))
    return path


def test_a_run_groups_people_by_a_field_of_their_rows(tmp_path: Path) -> None:
    file = rows(tmp_path / "people.jsonl")
    source = {"kind": "file", "path": str(file), "form": {"kind": "columns"}}
    labels = {"kind": "human", "human_data": [source]}
    wish = {"evaluate": {"slices": {"annotators": "land"}}, "preferences__labels": labels}
    recipe = small_recipe(tmp_path, "none", 120, **wish)
    north, south = annotator_groups(recipe, Run(tmp_path / "run"))
    assert (north["name"], south["name"], north["labels"]) == ("north", "south", 40)
    assert north["others"]["value"] == south["others"]["value"] == 0 and north["judge"] is None
    with pytest.raises(DataError, match="no row of human_data has a field 'lnad'"):
        groups_of(recipe.preferences.human_data, "lnad")
    rows(file, {"prompt": "x", "response_a": "1", "response_b": "2", "label": "a", "annotator": "ann", "land": "west"})
    with pytest.raises(DataError, match=r"people\.jsonl:81: land: ann is 'west' here and 'north' before"):
        groups_of(recipe.preferences.human_data, "land")
