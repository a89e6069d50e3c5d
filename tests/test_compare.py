"""Runs side by side."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rlaif.config.measures import LongWords, Syllables
from rlaif.errors import DataError
from rlaif.evaluation.compare import compare_runs
from rlaif.evaluation.measures import instruments
from rlaif.words import number
from tests.fake_run import RECIPE, inputs, write_run

pytestmark = pytest.mark.usefixtures("blank_plots")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(root / "one", inputs(gain=0.1, seed=3)),
        write_run(root / "two", inputs(gain=0.8), RECIPE.replace("quickstart", "<b>rlhf</b>").replace("60}", "90}")),
    ]
    out = root / "out" / "compare.html"
    return compare_runs(runs, out), out


def test_the_table_has_a_column_a_run(compared):
    header, *rows = compared[0]
    assert header == ("", "quickstart", "<b>rlhf</b>")
    assert {len(row) for row in rows} == {3}
    names = [row[0] for row in rows]
    assert names[:3] == ["All checks: before", "All checks: after", "All checks: change"]
    assert "Win rate against the reference" in names


def test_a_measure_of_any_run_has_a_row(tmp_path):
    given = inputs(prompts=6)
    with_measures = dataclasses.replace(
        given, instruments=instruments([Syllables(name="syllables / word. all"), LongWords()])
    )
    runs = [
        write_run(tmp_path / "one", with_measures),
        write_run(tmp_path / "two", given, RECIPE.replace("60}", "90}")),
    ]
    rows = {row[0]: row[1:] for row in compare_runs(runs, tmp_path / "out.html")}
    change = json.loads((runs[0] / "evaluation.json").read_text())["measures"][0]["difference"]["value"]
    own, other = rows["syllables / word. all: change"]
    assert own.startswith(number(change, signed=True)) and other == "\u2013"
    assert "points (" in rows["words of 3 or more syllables: change"][0]


def test_page_and_numbers(compared):
    _, out = compared
    page = out.read_text()
    assert "&lt;b&gt;rlhf&lt;/b&gt;" in page and "<b>rlhf</b>" not in page
    assert "optimise.steps" in page and "do not pick the run" in page
    assert "http" not in page.replace("http-equiv", "")
    raw = json.loads(out.with_suffix(".json").read_text())
    assert [run["name"] for run in raw["runs"]] == ["quickstart", "<b>rlhf</b>"]
    assert raw["recipe_differences"] == {"optimise.steps": ["60", "90"]}
    assert raw["runs"][0]["evaluation"]["policy"]["kl"]["n"] == 48


def test_head_to_head_is_paired_on_shared_responses(compared):
    _, out = compared
    raw = json.loads(out.with_suffix(".json").read_text())
    (row,) = raw["direct"]
    after = [run["evaluation"]["all_checked"]["after"] for run in raw["runs"]]
    assert row["value"] == pytest.approx(after[1] - after[0])
    assert row["low"] > 0 and row["n"] == 48
    assert "passes more" in out.read_text()


def test_different_constitutions_are_not_set_against_each_other(tmp_path):
    runs = [write_run(tmp_path / n, inputs(prompts=4)) for n in ("one", "two")]
    path = runs[1] / "evaluation.json"
    changed = json.loads(path.read_text())
    changed["constitution"]["hash"] = "another"
    del changed["policy"], changed["judge"]
    path.write_text(json.dumps(changed))
    header, *rows = compare_runs(runs, tmp_path / "c.html")
    assert header == ("", "one", "two")  # equal recipe names: the folders' names instead
    page = (tmp_path / "c.html").read_text()
    assert "different constitutions" in page and "Head to head" not in page
    missing = next(row for row in rows if row[0].startswith("KL"))
    assert missing[2] == "\u2013"


def test_three_runs_widen_the_intervals(tmp_path):
    runs = [write_run(tmp_path / str(i), inputs(prompts=4, seed=i)) for i in range(3)]
    compare_runs(runs, tmp_path / "c.html")
    assert "97.5% each" in (tmp_path / "c.html").read_text()


def test_refusals(tmp_path):
    run = write_run(tmp_path / "run", inputs(prompts=2))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"empty: no evaluation\.json"):
        compare_runs([run, empty], tmp_path / "c.html")
    with pytest.raises(DataError, match="no such run folder"):
        compare_runs([run, tmp_path / "nowhere"], tmp_path / "c.html")
    with pytest.raises(DataError, match="two or more different"):
        compare_runs([run, run], tmp_path / "c.html")
    with pytest.raises(DataError, match="raw numbers"):
        compare_runs([run, empty], tmp_path / "c.json")
    assert not (tmp_path / "c.html").exists()
