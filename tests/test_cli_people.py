"""The commands about people's feedback, from words to files: what they print, write, and refuse in one line."""

from __future__ import annotations

import json

import pytest

from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.records import Judgment, Message, Pair, Preference, Prompt


@pytest.fixture
def truth(tmp_path):
    """Forty labelled pairs."""
    rows = [{"prompt": f"Question {i}?", "chosen": f"Good {i}.", "rejected": f"Bad {i}."} for i in range(40)]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_simulated_annotators_are_made_reported_and_removed(cli, truth, tmp_path):
    words = ("annotators", "simulate", "truth.jsonl", "--crew", "careful:3,flipper:1", "--per-pair", "4")
    code, out, _ = cli(*words, "--out", "labels.jsonl")
    assert code == 0 and "160 simulated labels of 40 pairs by 4 simulated annotators" in out
    made = read_jsonl(tmp_path / "labels.jsonl", Judgment)
    assert all(row.annotator.startswith("simulated:") and row.answer.simulated for row in made)
    code, out, _ = cli(
        "annotators",
        "report",
        "labels.jsonl",
        "--gold",
        "truth.jsonl",
        "--remove",
        "min_gold_accuracy=0.6",
        "--out",
        "r.json",
    )
    assert code == 0 and "alpha" in out
    (flipper,) = [line for line in out.splitlines() if "simulated:flipper-1" in line and "careful" not in line][:1]
    assert "gold" in flipper
    assert list(json.loads((tmp_path / "r.json").read_text())["removed"]) == ["simulated:flipper-1"]


def test_rows_in_no_pair_are_told(cli, tmp_path):
    rated = [("Why?", "Because.", 5), ("Why?", "No.", 1), ("How?", "So.", 3)]
    rows = [{"prompt": prompt, "response": text, "rating": rating} for prompt, text, rating in rated]
    write_jsonl(tmp_path / "ratings.jsonl", rows)
    code, out, _ = cli("annotators", "report", "ratings.jsonl")
    assert code == 0 and out.startswith(
        "  human labels: 1 rows or ratings are in no pair, and not used\n1 annotators gave"
    )


def test_preferences_leave_in_other_tools_formats(cli, tmp_path):
    pair = Pair.of(Prompt.of((Message(role="user", content="Why?"),)), "Because.", "No.")
    row = Preference(
        prompt=pair.prompt,
        chosen=(Message(role="assistant", content=pair.a),),
        rejected=(Message(role="assistant", content=pair.b),),
        p_chosen=0.9,
        source="human",
        weight=1.0,
        split="train",
        prompt_id=pair.prompt_id,
        pair_id=pair.id,
    )
    write_jsonl(tmp_path / "preferences.jsonl", [row])
    code, _, _ = cli("export", "preferences.jsonl", "--to", "trl", "--out", "trl.jsonl")
    (written,) = [json.loads(line) for line in (tmp_path / "trl.jsonl").read_text().splitlines()]
    assert code == 0 and written["chosen"] == [{"role": "assistant", "content": "Because."}]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["route", "nowhere", "--budget", "5"], "nowhere: no judgments of a run"),
        (["route", "nowhere", "--budget", "5", "--by", "margn"], "no router 'margn'; did you mean 'margin'?"),
        (["conflicts", "nowhere"], "nowhere: needs labels of a judge and of people"),
        (["annotate", "nowhere"], "nowhere"),
        (["export", "truth.jsonl", "--to", "tlr", "--out", "x"], "no such format; did you mean 'trl'?"),
        (["annotators", "simulate", "truth.jsonl", "--crew", "carful:2", "--out", "x"], "did you mean 'careful'?"),
        (["annotators", "report", "gone.jsonl"], "gone.jsonl"),
        (["study", "gone.yaml"], "gone.yaml"),
        (["compare", "gone"], "compare: name the page to write with --out"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(cli, truth, words, reason):
    code, _, err = cli(*words)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert reason in err


def test_a_study_that_has_not_run_says_so(cli, tmp_path):
    (tmp_path / "study.yaml").write_text("schema: rlaif/study/v1\nname: s\nrecipe: quickstart\narms: {rlaif: {}}\n")
    code, _, err = cli("compare", ".")
    assert code == 2 and "not evaluated yet; `rlaif study`" in err


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["export", "made", "--to", "trl"], "preferences.jsonl"),
        (["export", "truth.jsonl", "--to", "trl"], "judgments.jsonl"),
        (["compare", "made", "other"], "report.html"),
        (["compare", "made", "other"], "manifest.html"),  # its figures go to manifest.json
        (["annotators", "report", "truth.jsonl"], "annotators.json"),
        (["annotators", "simulate", "truth.jsonl", "--crew", "careful:2"], "annotations.jsonl"),
        (["schema", "recipe"], "recipe.yaml"),
        (["constitution", "distill", "truth.jsonl"], "policy/found.yaml"),
        (["constitution", "fit", "quickstart", "--gold", "truth.jsonl"], "recipe.yaml"),
        (["audit", "quickstart", "--gold", "truth.jsonl"], "evaluation.json"),
    ],
)
def test_no_command_writes_over_a_file_of_a_run(cli, truth, tmp_path, words, out):
    run = tmp_path / "made"
    run.mkdir()
    for name in ("recipe.yaml", "manifest.json", "preferences.jsonl"):
        (run / name).write_text("{}")
    code, _, err = cli(*words, "--out", f"made/{out}")
    assert code == 2 and err.startswith(f"error: --out made/{out}: ") and err.count("\n") == 1
    assert "is the run's own in" in err
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "preferences.jsonl", "recipe.yaml"]
    assert all(path.read_text() == "{}" for path in run.iterdir())


def test_a_file_with_another_name_may_lie_in_a_run_folder(cli, tmp_path):
    for name in ("recipe.yaml", "manifest.json"):
        (tmp_path / name).write_text("{}")
    assert cli("schema", "recipe", "--out", "recipe.schema.json")[0] == 0
