"""Labels in parts: the rows of one file, a killed stage that goes on after its last part, and who reads them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlaif.config import Recipe
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.human import read_labels
from rlaif.jsonl import read_jsonl, stream_jsonl
from rlaif.pipeline import run_recipe
from rlaif.records import Judgment
from rlaif.testing import small_recipe
from tests.forked import exit_code
from tests.test_modes import judged, recipe_with


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.feedback.judge.SHARD", 6)


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    return run_recipe(recipe_with(folder, tiny_folder, {"kind": "compare"}), folder / "run", ["sample"]).responses


def lines(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("part-*.jsonl"))]


@pytest.mark.parametrize("mode", [{"kind": "compare"}, {"kind": "score"}, {"kind": "rank"}])
@pytest.mark.usefixtures("small_shards")
def test_parts_hold_the_rows_of_one_file_and_later_stages_read_them(
    mode: dict[str, Any], responses: Path, tmp_path: Path, tiny_folder: str
) -> None:
    stages = ["label", "pairs"]
    one = judged(recipe_with(tmp_path, tiny_folder, mode), tmp_path / "one", responses, stages)
    many = judged(recipe_with(tmp_path, tiny_folder, mode, label__parts=10), tmp_path / "many", responses, stages)
    parts = lines(many.judgments)
    assert many.judgments == tmp_path / "many" / "judgments" and not many.one_judgments.exists()
    assert b"".join(parts) == one.judgments.read_bytes()
    assert len(parts) > 2 and all(part.count(b"\n") >= 10 for part in parts[:-1])
    prompts = [[json.loads(line)["pair"]["prompt_id"] for line in part.splitlines()] for part in parts]
    assert all(one[-1] != other[0] for one, other in pairwise(prompts)), "a part ends with a shard"
    for name in ("failures.jsonl", "preferences.jsonl", *(path.name for path in one.evidence if path.exists())):
        assert (many.folder / name).read_bytes() == (one.folder / name).read_bytes(), name
    facts = [run.read_manifest()["stages"]["label"] for run in (one, many)]
    assert all(facts[0][key] == facts[1][key] for key in ("pairs", "unlabelled", "judge_calls", "prompt_tokens"))
    assert not any((many.folder / "checkpoints").rglob("*.jsonl"))
    assert read_jsonl(many.judgments, Judgment) == list(stream_jsonl(many.judgments, Judgment))


def killed(recipe: Recipe, folder: Path, responses: Path, shards: int, environment: dict[str, str]) -> None:
    """The label stage, by a process that dies when so many shards are written."""
    os.environ.update(environment)
    import rlaif.feedback.judge
    from rlaif.stages.parts import LabelParts

    rlaif.feedback.judge.SHARD = 6
    count, add = 0, LabelParts.add

    def deadly(self: LabelParts, result: Any) -> None:
        nonlocal count
        add(self, result)
        count += type(result).__name__ != "Piece"
        if count == shards:
            os.kill(os.getpid(), signal.SIGKILL)

    LabelParts.add = deadly  # type: ignore[method-assign]
    (run_recipe if folder.exists() else lambda *given: judged(given[0], given[1], responses, given[2]))(
        recipe, folder, ["label"]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards")
def test_a_killed_stage_goes_on_after_its_last_part(
    responses: Path,
    tmp_path: Path,
    tiny_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = recipe_with(tmp_path, tiny_folder, {"kind": "score"}, label__parts=6)
    whole = judged(recipe, tmp_path / "whole", responses, ["label"])
    folder = tmp_path / "killed"
    for number, shards in enumerate((3, 2)):  # two are judged, and the third is whole; then one more
        monkeypatch.setenv("RLAIF_REPLIES", str(tmp_path / f"{number}.sqlite"))
        assert exit_code(killed, recipe, folder, responses, shards, dict(os.environ)) == -signal.SIGKILL
    marks = list((folder / "checkpoints" / "label").glob("*/done.json"))
    assert len(marks) == 5 and not (folder / "judgments").exists()
    monkeypatch.setenv("RLAIF_REPLIES", str(tmp_path / "last.sqlite"))
    capfd.readouterr()
    again = run_recipe(recipe, folder, ["label"])
    assert "30 of 60 pairs are labelled already" in capfd.readouterr().out
    assert lines(again.judgments) == lines(whole.judgments)
    assert again.scores.read_bytes() == whole.scores.read_bytes()
    facts = [run.read_manifest()["stages"]["label"] for run in (whole, again)]
    assert [facts[0][key] == facts[1][key] for key in ("judge_calls", "pairs", "unlabelled")] == [True] * 3
    with closing(sqlite3.connect(tmp_path / "last.sqlite")) as asked:
        assert 0 < asked.execute("SELECT COUNT(*) FROM replies").fetchone()[0] <= facts[0]["judge_calls"] * 0.6


def test_parts_and_one_file_take_each_others_place(responses: Path, tmp_path: Path, tiny_folder: str) -> None:
    recipe = recipe_with(tmp_path, tiny_folder, {"kind": "compare"})
    parted = recipe_with(tmp_path, tiny_folder, {"kind": "compare"}, label__parts=20)
    run = judged(recipe, tmp_path / "run", responses, ["label"])
    rows = run.judgments.read_bytes()
    run_recipe(parted, run.folder, ["label"], redo=True)
    assert not run.one_judgments.exists() and b"".join(lines(run.judgments)) == rows
    other = judged(parted, tmp_path / "other", responses, [])
    run_recipe(parted, other.folder, ["label"], since=run.folder)
    assert lines(other.judgments) == lines(run.judgments) and not other.one_judgments.exists()
    assert "taken_from" in other.read_manifest()["stages"]["label"]
    run_recipe(recipe, run.folder, ["label"], redo=True)
    assert run.judgments.read_bytes() == rows and not run.judgment_parts.exists()


def test_labels_of_a_run_in_parts_are_labels_of_a_run(responses: Path, tmp_path: Path, tiny_folder: str) -> None:
    one, many = (
        judged(recipe_with(tmp_path, tiny_folder, {"kind": "compare"}, **parts), tmp_path / name, responses, ["label"])
        for name, parts in (("one", {}), ("many", {"label__parts": 20}))
    )
    assert read_labels(many.folder) == read_labels(one.folder) == read_labels(many.judgments) != []


def test_a_folder_without_parts_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be read"):
        read_jsonl(tmp_path, Judgment)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label__mode": {"kind": "revise"}}, "is 'revise', which makes no judgments; set label.parts=null"),
        (
            {"label__mode": {"kind": "panel", "members": [{"name": "a"}, {"name": "b"}]}},
            "is 'panel', which estimates its members over all pairs",
        ),
        ({"label__parts": 0}, "greater than or equal to 1"),
        ({"sample__contrast": {}}, "sample.contrast counts agreement over all pairs"),
    ],
)
def test_what_comes_in_no_parts_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValidationError), match=said):
        small_recipe(tmp_path, "model", **{"label__parts": 5} | changes)
