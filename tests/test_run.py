"""The run folder: whose it is, who works in it, what is done, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.config import load_recipe
from rlaif.digest import hash_path
from rlaif.errors import ConfigError, DataError
from rlaif.jsonl import write_jsonl
from rlaif.pipeline import STAGES, run_recipe, stages_of
from rlaif.run_folder import Run, versions
from rlaif.stages.due import Inputs, check_changes

RECIPE = load_recipe("quickstart")
OTHER = load_recipe("quickstart", ["optimise.steps=999", "seed=77"])


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    with run.lock():
        run.claim(RECIPE)
    return run


# --------------------------------------------------------------------------------------------- whose folder it is


def test_a_new_folder_becomes_a_run_and_stays_one(run):
    assert load_recipe(str(run.recipe)) == RECIPE
    before = run.recipe.read_bytes()
    run.claim(RECIPE)
    assert run.recipe.read_bytes() == before


def test_a_folder_where_nothing_is_done_may_change_its_recipe(run):
    run.begin("label", "inputs")
    run.claim(OTHER)
    assert load_recipe(str(run.recipe)) == OTHER


def finish(run, stage, recipe=RECIPE):
    """As if the stage had finished, having read what is there."""
    inputs = Inputs.of(STAGES[stage], recipe, run)
    for path in STAGES[stage].outputs(run):
        if "." in path.name:
            path.write_text(stage)
    run.mark_done(stage, inputs.hash, STAGES[stage].outputs(run), {}, inputs.read())


def check(run, recipe, redo=False):
    check_changes(recipe, run, [STAGES[name] for name in stages_of(recipe)], redo)


def test_a_change_that_would_replace_finished_work_is_refused_with_what_it_would_replace(run, capsys):
    for stage in ("sample", "label", "pairs", "optimise"):
        finish(run, stage)
    with pytest.raises(ConfigError) as error:
        check(run, OTHER)
    assert str(error.value) == (
        f"{run.folder}: the recipe changed, and finished stages would be done again:\n"
        f"  seed: {RECIPE.seed} -> 77 (sample, label, pairs, optimise)\n"
        f"  optimise.steps: {RECIPE.optimise.steps} -> 999 (optimise)\n"
        f"  add --redo if they may; or keep them, and go on elsewhere with --out FOLDER --since {run.folder}"
    )
    with pytest.raises(ConfigError, match=r"margin: .* \(label, optimise\)\n  what follows from these: pairs\n"):
        check(run, load_recipe("quickstart", ["label.check_margin=1", "preferences.labels.pairs=sampled"]))
    check(run, OTHER, redo=True)
    assert capsys.readouterr().out == (
        f"the recipe changed (seed: {RECIPE.seed} -> 77; optimise.steps: {RECIPE.optimise.steps} -> 999): "
        "sample, label, pairs, optimise again\n"
    )


@pytest.mark.parametrize("knob", ["reward.learning_rate=1", "evaluate.examples=1", "optimise.steps=1", "title=x"])
def test_what_is_not_finished_follows_the_recipe_and_a_line_says_so(run, capsys, knob):
    finish(run, "sample")
    finish(run, "label")
    check(run, load_recipe("quickstart", [knob]))
    assert capsys.readouterr().out.startswith(f"the recipe changed ({knob.partition('=')[0]}: ")
    check(run, RECIPE)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "knob", ["label.max_failures=0.5", "prompts.max_failures=0.5", "tracking.to=[wandb]", "name=x"]
)
def test_limits_trackers_and_names_leave_finished_stages_as_they_are(run, capsys, knob):
    for stage in stages_of(RECIPE):
        finish(run, stage)
    check(run, load_recipe("quickstart", [knob]))
    assert capsys.readouterr().out.endswith("): report again\n"), "the page shows the recipe"


def test_stages_that_are_not_needed_any_more_go_only_when_they_may(run):
    for stage in ("sample", "label"):
        finish(run, stage)
    direct = load_recipe("quickstart", ["optimise.scoring={kind: length}"])
    with pytest.raises(ConfigError, match=r"\n  no longer needed, and deleted: sample, label\n"):
        check(run, direct)
    assert run.judgments.exists()
    check(run, direct, redo=True)
    assert not run.judgments.exists() and run.read_manifest()["stages"] == run.read_manifest()["read"] == {}


def test_a_run_of_an_earlier_rlaif_is_one_line(run, capsys):
    run.mark_done("sample", "inputs", [run.responses], {})
    with pytest.raises(ConfigError) as error:
        check(run, RECIPE)
    assert str(error.value).startswith(f"{run.folder}: made by an earlier rlaif, which did not note what sample read; ")
    assert "\n" not in str(error.value)
    check(run, RECIPE, redo=True)
    assert capsys.readouterr().out == "the recipe changed (rlaif: an earlier one made it): sample again\n"


def test_another_version_of_rlaif_does_not_replace_finished_work_unasked(run, monkeypatch):
    finish(run, "sample")
    monkeypatch.setattr("rlaif.stages.due.__version__", "9.9")
    with pytest.raises(ConfigError, match=r"rlaif: \S+ -> 9\.9 \(sample\)"):
        check(run, RECIPE)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="not empty and not a run; choose another folder with --out"):
        Run(tmp_path).claim(RECIPE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_one_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=f"{folder}: cannot be a run folder: "), Run(folder).lock():
            pass


def test_a_broken_recipe_file_is_named(run):
    run.mark_done("sample", "inputs", [], {})
    run.recipe.write_text("ppo: [")
    with pytest.raises(ConfigError, match=rf"{run.recipe}:1: not valid YAML"):
        check(run, RECIPE)


HOLD = """
import sys
from pathlib import Path
from rlaif.run_folder import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_links_in_a_run_folder_are_not_followed(tmp_path):
    """Whoever may write there cannot have other files emptied."""
    run = Run(tmp_path / "planted")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run.folder.mkdir()
    for name in (".lock", ".judgments.jsonl.tmp", "metrics.jsonl"):
        (run.folder / name).symlink_to(precious)
    with pytest.raises(ConfigError, match=f"{run.folder}: cannot be a run folder: "), run.lock():
        pass
    write_jsonl(run.judgments, [{"a": 1}])
    assert not run.judgments.is_symlink() and run.judgments.read_text() == '{"a": 1}\n'
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        run.log({"stage": "reward"})
    assert precious.read_text() == "mine"


def test_a_second_process_gets_one_line(run):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match="another process is working on this run"), run.lock():
        pass
    other.kill()  # the lock goes with its process: nothing to clean up by hand
    other.communicate()
    with run.lock():
        pass


# ----------------------------------------------------------------------------------------------------- what is done


def done(run, recipe=RECIPE):
    return run.is_done("pairs", Inputs.of(STAGES["pairs"], recipe, run).hash)


def test_done_means_these_inputs_and_these_outputs(run):
    run.judgments.write_text("in")
    assert not done(run)
    run.preferences.write_text("out")
    inputs = Inputs.of(STAGES["pairs"], RECIPE, run)
    run.mark_done("pairs", inputs.hash, [run.preferences], {"rows": 3}, inputs.read())
    assert done(run)
    assert run.read_manifest()["stages"]["pairs"]["rows"] == 3
    assert not done(run, OTHER)
    assert done(run, load_recipe("quickstart", ["optimise.steps=999", "evaluate.prompts=3"])), "pairs read neither"
    for path in (run.judgments, run.preferences):
        text = path.read_text()
        path.write_text("touched")
        assert not done(run)
        path.unlink()
        assert not done(run)
        path.write_text(text)
        assert done(run)


def test_the_manifest_says_with_what(run):
    run.mark_done("pairs", "x", [], {})
    manifest = json.loads(run.manifest.read_text())
    assert set(manifest) == {"stages", "versions", "git", "machine"}
    assert manifest["machine"]["processor"] and manifest["machine"]["cores"] >= 1
    assert manifest["versions"]["torch"] and manifest["versions"]["python"] == versions()["python"]
    assert set(manifest["git"]) <= {"commit", "dirty"}


def test_a_broken_manifest_is_named(run):
    run.manifest.write_text('{"stages":')
    with pytest.raises(DataError, match=rf"{run.manifest}: not JSON"):
        run.read_manifest()


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"stages": []}'])
def test_json_that_is_no_manifest_is_named(run, text):
    run.manifest.write_text(text)
    with pytest.raises(DataError, match=rf"{run.manifest}: .*delete the manifest to start anew"):
        run.is_done("pairs", "x")


def test_checkpoints_live_for_the_inputs_they_were_made_on(run):
    checkpoint = run.checkpoints / "optimise" / "step-000005.pt"

    def begin(inputs):
        run.begin("optimise", inputs)
        there = checkpoint.exists()
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text("x")
        return there

    begin("one")
    assert begin("one"), "a killed stage goes on from its checkpoint"
    assert not begin("two"), "other inputs: its weights have seen what is no longer there"
    run.mark_done("optimise", "two", [], {})
    assert not checkpoint.exists(), "a finished stage keeps none"


def test_a_stage_reads_what_the_stages_before_it_write(run):
    """Each artefact is an input of some later stage, so no change can go unnoticed."""
    last = set(STAGES["report"].outputs(run))
    for number, name in enumerate(STAGES):
        later = [path for other in list(STAGES)[number + 1 :] for path in STAGES[other].inputs(RECIPE, run)]
        unread = set(STAGES[name].outputs(run)) - set(later) - last
        for_people = {run.sample_failures, run.evaluation_judgments, run.evaluation_failures, *run.evidence}
        for_people |= {run.strengths, run.judge_demonstrations, run.human_edits, run.annotators, run.conflicts}
        for_people |= {run.human_failures, run.demonstration_failures, run.slice_samples, run.slice_judgments}
        for_people |= {run.human_demonstrations}  # optimise.data.kind=human reads them, and this recipe is another
        assert unread <= for_people, name


def test_a_stage_the_recipe_does_not_need_is_named(tmp_path):
    labels = "{kind: human, human_data: [{kind: file, path: x.jsonl}]}"
    human = load_recipe("quickstart", [f"preferences.labels={labels}"])
    assert stages_of(human) == ["pairs", "reward", "optimise", "evaluate", "report"]
    with pytest.raises(ConfigError, match="label: this recipe has no such stage; it has pairs, reward, optimise"):
        run_recipe(human, tmp_path / "run", ["label"])


@pytest.mark.parametrize("override", ["constitution=harmlesness", "label.mode.template=compair"])
def test_a_name_that_stands_for_nothing_is_said_before_any_work(tmp_path, capsys, override):
    with pytest.raises(ConfigError, match=r"; did you mean '(harmlessness|compare)'"):
        run_recipe(load_recipe("quickstart", [override]), tmp_path / "run")
    assert capsys.readouterr().out == ""


def test_human_files_may_lie_at_home(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    labels = "{kind: human, human_data: [{kind: file, path: ~/labels.jsonl}]}"
    recipe = load_recipe("quickstart", [f"preferences.labels={labels}"])
    assert tmp_path / "labels.jsonl" in STAGES["pairs"].inputs(recipe, run)


def test_models_on_this_disk_are_inputs(run, monkeypatch, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "package").mkdir()
    module = tmp_path / "package" / "my_judge.py"
    module.write_text("raise RuntimeError('must not be imported to find it')")
    monkeypatch.chdir(tmp_path)
    judge = ["judge.backend=scripted", "judge.model=package.my_judge:judge"]
    recipe = load_recipe("quickstart", ["policy.model=./base", "reward.model=./base", *judge])
    folder = Path("base")
    readers = {name: set(stage.inputs(recipe, run)) for name, stage in STAGES.items()}
    assert [name for name, files in readers.items() if folder in files] == ["sample", "reward", "optimise", "evaluate"]
    assert [name for name, files in readers.items() if module in files] == ["label", "optimise", "evaluate"]
    assert Path() not in set().union(*readers.values())
    missing = load_recipe("quickstart", ["judge.backend=scripted", "judge.model=no.such_module:judge"])
    assert STAGES["label"].inputs(missing, run)


# ----------------------------------------------------------------------------------------------------- hashes


def test_a_hash_is_of_names_and_contents(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    before = hash_path(folder)
    assert before == hash_path(folder) != hash_path(folder / "a")
    assert hash_path(tmp_path / "gone") == "absent"
    copy = tmp_path / "elsewhere" / "model"
    folder.parent.joinpath("elsewhere").mkdir()
    folder.rename(copy)
    assert hash_path(copy) == before, "where it lies does not matter"
    (copy / "a").rename(copy / "c")
    renamed = hash_path(copy)
    assert renamed != before
    (copy / "c").write_text("3")
    assert hash_path(copy) not in {before, renamed}


# ----------------------------------------------------------------------------------------------------- metrics


def test_metrics_are_rows_by_stage(run):
    assert run.read_metrics("optimise") == []
    rows = [{"stage": stage, "step": step, "loss": 0.5} for stage in ("reward", "optimise") for step in range(3)]
    for row in rows:
        run.log(row)
    assert run.read_metrics("optimise") == rows[3:]


@pytest.mark.parametrize("torn", ["", '{"stage": "optimise", "st', '{"stage": "optimise", "step": 3, "loss": 1}'])
def test_a_killed_stage_forgets_what_it_will_do_again(run, torn):
    run.rewind_metrics("optimise", 0)  # nothing yet, nothing to do
    for stage in ("reward", "optimise"):
        for step in range(3):
            run.log({"stage": stage, "step": step})
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write(torn)
    run.rewind_metrics("optimise", 1)
    assert run.read_metrics("reward") == [{"stage": "reward", "step": step} for step in range(3)]
    assert run.read_metrics("optimise") == [{"stage": "optimise", "step": 0}]
    run.log({"stage": "optimise", "step": 1})
    assert [row["step"] for row in run.read_metrics("optimise")] == [0, 1]


@pytest.mark.parametrize("bad", ["{", "[]", '{"stage": "optimise"}', '{"stage": "optimise", "step": "x"}', "\u2028"])
def test_a_bad_row_in_the_middle_is_named(run, bad):
    run.log({"stage": "optimise", "step": 0})
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write(bad + "\n")
    run.log({"stage": "optimise", "step": 1})
    before = run.metrics.read_bytes()
    with pytest.raises(DataError, match=rf"^{run.metrics}:2: not a row with 'stage' and 'step'"):
        run.rewind_metrics("optimise", 1)
    assert run.metrics.read_bytes() == before


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/optimise", "policy", ".reward_model.tmp", "reward_model"])
def test_a_link_to_a_folder_is_refused_before_anything_is_deleted_through_it(tmp_path, name):
    run = Run(tmp_path / "run")
    (elsewhere := tmp_path / "elsewhere" / "optimise").mkdir(parents=True)
    (elsewhere / "step-000001.pt").write_text("mine")
    path = run.folder / name
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere.parent)
    with pytest.raises(ConfigError, match=rf"{path}: a link to a folder"), run.lock():
        pass
    assert (elsewhere / "step-000001.pt").read_text() == "mine"


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", ".scope", ".lock", "recipe.yaml"])
@pytest.mark.parametrize("what", ["pipe", "folder", "endless"])
def test_something_else_in_the_place_of_a_file_is_one_line_and_never_waited_for(tmp_path, name, what):
    run = Run(tmp_path)
    path = tmp_path / name
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "endless": lambda: path.symlink_to("/dev/zero")}[what]()
    where = str(tmp_path) if name == ".lock" else str(path)
    with pytest.raises((ConfigError, DataError, OSError), match=where), run.lock():
        run.read_manifest()
        run.log({"stage": "optimise", "step": 0})
        run.read_metrics("optimise")
        run.scope()
        load_recipe(str(run.recipe))


def test_a_hash_of_a_folder_does_not_stumble_over_a_name_that_is_no_text(tmp_path):
    (tmp_path / os.fsdecode(b"model-\xff")).write_text("x")
    assert len(hash_path(tmp_path)) == 16


@pytest.mark.parametrize("name", ["..", "/", "/etc/passwd", "a/b", "../x", "."])
def test_a_manifest_names_nothing_outside_its_run(tmp_path, name):
    run = Run(tmp_path)
    run.manifest.write_text(json.dumps({"stages": {"sample": {"inputs": "x", "outputs": {name: "absent"}}}}))
    with pytest.raises(DataError, match=r"manifest\.json: stages\.sample\.outputs"):
        run.is_done("sample", "x")
