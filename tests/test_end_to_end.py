"""From a constitution to a policy with real (tiny) transformers: the whole chain must learn, not merely run."""

from __future__ import annotations

import json
import re
import shutil
from statistics import fmean

import pytest

from rlaif.jsonl import read_jsonl, read_objects, write_jsonl
from rlaif.pipeline import run_recipe
from rlaif.records import Judgment, Preference, Response
from rlaif.run_folder import Run
from rlaif.testing import letters, small_recipe

PROMPTS, HELDOUT = 120, 32


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_folder):
    measures = [{"kind": "words"}, {"kind": "code", "function": "rlaif.testing:letters", "better": "higher"}]
    folder = tmp_path_factory.mktemp("inputs")
    return small_recipe(folder, tiny_folder, PROMPTS, evaluate={"measures": measures})


@pytest.fixture(scope="module")
def run(tmp_path_factory, recipe) -> Run:
    return run_recipe(recipe, tmp_path_factory.mktemp("runs") / "letters")


@pytest.fixture(scope="module")
def evaluation(run):
    return json.loads(run.evaluation.read_text())


# ------------------------------------------------------------------------------------------------- it learns


def test_the_reward_model_learns_what_the_judge_likes(evaluation):
    accuracy = evaluation["reward_model"]["heldout_accuracy"]
    assert accuracy["value"] > 0.9 and accuracy["n"] >= 20
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_ppo_raises_the_score_and_the_feature_itself(run, evaluation):
    scores = [row["score"] for row in run.read_metrics("optimise")]
    assert len(scores) == 20
    assert fmean(scores[-3:]) > fmean(scores[:3]) + 1
    assert evaluation["policy"]["score"]["difference"]["low"] > 1
    rows = [row for _, row in read_objects(run.samples)]
    assert len(rows) == HELDOUT
    before, after = (fmean(letters(row[key]) for row in rows) for key in ("before", "after"))
    assert after > 2 * before, "the policy writes letters, which nobody showed it"


def test_the_judge_prefers_the_policy_on_prompts_never_trained_on(evaluation):
    assert evaluation["policy"]["win_rate_vs_reference"]["low"] > 0.75


def test_code_agrees_that_the_checked_principle_is_kept_more_often(evaluation):
    rate = evaluation["principles"]["no-digits"]["pass_rate"]
    assert rate["after"] > rate["before"] + 0.1


def test_a_measure_confirms_it_and_the_labels_say_which_principle_taught_it(evaluation):
    words, letters = evaluation["measures"]
    assert letters["difference"]["low"] > 0 and letters["seen"] == "the judge, a function of the same module"
    assert words["seen"] is None
    taught = evaluation["labels"]["by_principle"]["plain-letters"]
    assert taught["measures"][1]["value"] > 0.95 and taught["measures"][1]["side"] == "higher"
    assert 0 < taught["signal"] < 1 and taught["agrees"]["value"] > 0.5


def test_the_critic_and_the_kl_are_alive(run):
    last = run.read_metrics("optimise")[-1]
    assert last["kl"] > 1 and last["entropy"] > 0.1
    assert 0 < last["clip_fraction"] < 0.9


# ----------------------------------------------------------------------------------------------- it leaves its tracks


def test_held_out_prompts_are_seen_by_no_stage_before_evaluation(run):
    trained_on = {r.prompt_id for r in read_jsonl(run.responses, Response)}
    measured_on = {row["prompt_id"] for _, row in read_objects(run.samples)}
    assert len(trained_on) == PROMPTS - HELDOUT and len(measured_on) == HELDOUT
    assert not trained_on & measured_on
    rows = read_jsonl(run.preferences, Preference)
    by_split = {split: {r.prompt_id for r in rows if r.split == split} for split in ("train", "heldout")}
    assert by_split["train"] and by_split["heldout"] and not by_split["train"] & by_split["heldout"]


def test_every_judgment_says_where_it_came_from(run):
    for judgment in read_jsonl(run.judgments, Judgment):
        assert judgment.source == "ai" and judgment.provenance is not None
        assert judgment.provenance.constitution == "letters"
        judged = [p for p in judgment.principles if not p.checked]
        assert [len(p.verdicts) for p in judged] == [2], "both orders"


def test_evaluation_has_what_is_promised(evaluation, run):
    assert {"value", "low", "high", "n"} <= set(evaluation["reward_model"]["heldout_accuracy"])
    assert {"value", "low", "high", "n"} <= set(evaluation["policy"]["win_rate_vs_reference"])
    assert {"before", "after"} <= set(evaluation["policy"]["response_tokens"])
    assert "kl" in evaluation["policy"]
    assert evaluation["judge"]["coverage"]["value"] == 1
    assert 0.5 < evaluation["judge"]["order_consistency"]["value"] < 1, "the judge favours what it sees first"
    assert {i: p["checked"] for i, p in evaluation["principles"].items()} == {"plain-letters": False, "no-digits": True}
    assert all({"before", "after"} <= set(p["pass_rate"]) for p in evaluation["principles"].values())
    cost = evaluation["cost"]
    asked = 2 * len(read_jsonl(run.judgments, Judgment)) + 2 * len(read_jsonl(run.evaluation_judgments, Judgment))
    assert cost["judge_calls"] == asked and cost["completion_tokens"] == cost["prompt_tokens"] == 0
    assert set(cost["seconds"]) == {"sample", "label", "pairs", "reward", "optimise"}


def test_the_page_stands_alone(run):
    page = run.report.read_text(encoding="utf-8")
    assert "A tiny model learns to write letters" in page and "plain-letters" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert not re.search(r"<(?:script|link|iframe)\b", page)


def test_the_preferences_are_rows_any_trl_run_reads(run, tmp_path):
    from datasets import load_dataset

    table = load_dataset("json", data_files=str(run.preferences), split="train", cache_dir=str(tmp_path))
    for key in ("prompt", "chosen", "rejected"):
        assert {message["role"] for row in table for message in row[key]} <= {"user", "assistant"}
    assert table.num_rows == len(read_jsonl(run.preferences, Preference))


def test_a_finished_run_is_left_as_it_is(run, recipe, capsys):
    files = [path for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}
    run_recipe(recipe, run.folder)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files} == before
    assert capsys.readouterr().out.count("up to date") == 7
    assert not list(run.checkpoints.glob("*/*")), "a finished stage keeps no checkpoints"


def test_a_stage_fed_by_hand_is_done_anew_and_so_is_what_follows(run, recipe, tmp_path, capsys):
    """Other preferences make another reward model, from the start and not from the old one's checkpoint."""
    copy = Run(tmp_path / "letters")
    shutil.copytree(run.folder, copy.folder)
    rows = read_jsonl(copy.preferences, Preference)
    flipped = [row.model_copy(update={"chosen": row.rejected, "rejected": row.chosen}) for row in rows]
    write_jsonl(copy.preferences, flipped)
    before = [row["margin"] for _, row in read_objects(copy.heldout)]
    run_recipe(recipe, copy.folder, ["reward"])
    after = [row["margin"] for _, row in read_objects(copy.heldout)]
    assert fmean(after) > 0 and fmean(before) > 0, "each model agrees with the rows it was shown"
    assert len(copy.read_metrics("reward")) == len(run.read_metrics("reward"))
    assert copy.read_metrics("reward")[-1] != run.read_metrics("reward")[-1]
