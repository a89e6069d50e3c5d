"""What is done is not done again: within a folder whose recipe changed, from another run, between a study's arms; and
nothing large is read to find that out."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif import digest
from rlaif.config import Recipe, dump_recipe
from rlaif.digest import hash_path
from rlaif.errors import ConfigError
from rlaif.jsonl import write_json
from rlaif.pipeline import STAGES, run_recipe, stages_until
from rlaif.run_folder import Run
from rlaif.stages import due
from rlaif.study.config import arm_runs, load_study
from rlaif.study.run import run_study
from rlaif.testing import small_recipe
from tests.test_modes import CONSTITUTION

pytestmark = pytest.mark.usefixtures("blank_plots")
SMALL = {
    "judge__model": "tests.scripted_judge:every_part",
    "prompts__heldout": 6,
    "sample__max_tokens": 6,
    "sample__responses_per_prompt": 3,
    "preferences__tie_margin": 0.02,
    "reward__epochs": 1,
    "optimise__steps": 1,
    "optimise__rollouts_per_step": 4,
    "optimise__minibatch_size": 4,
    "optimise__max_tokens": 6,
    "evaluate__bootstrap_samples": 20,
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, shallow_folder) -> Recipe:
    folder = tmp_path_factory.mktemp("inputs")
    recipe = small_recipe(folder, shallow_folder, prompts=20, **SMALL)
    (folder / "letters.yaml").write_text(CONSTITUTION)
    return recipe


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory) -> Run:
    return run_recipe(recipe, tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture
def copy(done, tmp_path) -> Run:
    shutil.copytree(done.folder, tmp_path / "copy")
    return Run(tmp_path / "copy")


@pytest.fixture
def worked(monkeypatch) -> Counter[str]:
    """How often each stage was really done."""
    found = Counter[str]()

    def counted(name: str) -> Any:
        def run(recipe: Recipe, run: Run) -> dict[str, Any]:
            found[name] += 1
            return stage.run(recipe, run)

        stage = STAGES[name]
        return stage._replace(run=run)

    for name in list(STAGES):
        monkeypatch.setitem(STAGES, name, counted(name))
    return found


def changed(recipe: Recipe, **values: Any) -> Recipe:
    """`section__key` as in small_recipe."""
    plain = recipe.model_dump(mode="json")
    for key, value in values.items():
        section, _, last = key.partition("__")
        plain[section][last] = value
    return Recipe.model_validate(plain)


# ------------------------------------------------------------------------------------------------- the same folder


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"optimise__learning_rate": 2e-2}, {"optimise", "evaluate", "report"}),
        ({"evaluate__bootstrap_samples": 21}, {"evaluate", "report"}),
        ({"label__max_failures": 0.5}, {"report"}),
    ],
    ids=["learning rate", "bootstrap", "limit"],
)
def test_a_change_redoes_what_reads_it_and_no_more(recipe, copy, worked, capsys, change, again):
    other = changed(recipe, **change)
    if again != {"report"}:
        before = {path.name: path.stat() for path in copy.folder.iterdir()}
        with pytest.raises(ConfigError, match="finished stages would be done again"):
            run_recipe(other, copy.folder)
        assert {path.name: path.stat().st_mtime_ns for path in copy.folder.iterdir() if path.name != ".lock"} == {
            name: stat.st_mtime_ns for name, stat in before.items() if name != ".lock"
        }
    run_recipe(other, copy.folder, redo=True)
    assert worked == dict.fromkeys(again, 1)
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the recipe changed (")]
    assert f"{next(iter(change)).replace('__', '.')}: " in told
    run_recipe(other, copy.folder)
    assert worked == dict.fromkeys(again, 1)


def test_a_changed_file_is_followed_and_named(recipe, copy, worked, capsys, tmp_path):
    inputs = tmp_path / "inputs"
    shutil.copytree(Path(recipe.constitution).parent, inputs)
    (inputs / "letters.yaml").write_text(CONSTITUTION.replace("more plain", "many more plain"))
    moved = recipe.model_copy(update={"constitution": str(inputs / "letters.yaml")})
    with pytest.raises(ConfigError, match=r"constitution: .* -> .* \(label, optimise, evaluate\)"):
        run_recipe(moved, copy.folder)
    run_recipe(moved, copy.folder, stages_until(moved, "label"), redo=True)
    assert worked == {"label": 1}
    (inputs / "letters.yaml").write_text(CONSTITUTION)
    run_recipe(moved, copy.folder, stages_until(moved, "label"), redo=True)
    assert worked == {"label": 2}
    assert f"[2/7] label (again: {inputs / 'letters.yaml'} changed)\n" in capsys.readouterr().out


def test_what_a_stage_wrote_by_another_recipe_does_not_stay_beside_what_it_writes_now(recipe, tmp_path):
    rated = changed(recipe, label__mode={"kind": "score"})
    run = run_recipe(rated, tmp_path / "run", stages_until(rated, "label"))
    assert run.scores.exists()
    run_recipe(recipe, run.folder, stages_until(recipe, "label"), redo=True)
    assert run.judgments.exists() and not run.scores.exists()
    run_recipe(recipe, run.folder, stages_until(recipe, "label"))


# ---------------------------------------------------------------------------------------------------- another run


def test_what_is_still_true_is_taken_from_another_run_and_the_end_is_the_same(recipe, done, worked, tmp_path, capsys):
    other = changed(recipe, optimise__learning_rate=2e-2)
    alone = run_recipe(other, tmp_path / "alone")
    worked.clear()
    capsys.readouterr()
    run = run_recipe(other, tmp_path / "b", since=done.folder)
    assert worked == {"optimise": 1, "evaluate": 1, "report": 1}
    out = capsys.readouterr().out
    shared = ["sample", "label", "pairs", "reward"]
    assert [line for line in out.splitlines() if " taken from " in line] == [
        f"[{place}/7] {stage}: taken from {done.folder}" for place, stage in enumerate(shared, start=1)
    ]
    assert "  not as in " in out and "optimise.learning_rate: 0.01 -> 0.02" in out
    marks, theirs, same = (each.read_manifest()["stages"] for each in (run, done, alone))
    for stage in shared:
        assert marks[stage] == theirs[stage] | {"taken_from": str(done.folder)}
    assert {stage: mark["outputs"] for stage, mark in marks.items() if stage not in ("evaluate", "report")} == {
        stage: mark["outputs"] for stage, mark in same.items() if stage not in ("evaluate", "report")
    }
    assert run.metrics.read_bytes() == alone.metrics.read_bytes()
    assert run.scope() != done.scope(), "replies of a model of unknown revision are one run's alone"
    assert (
        json.loads(run.evaluation.read_text())["cost"]["judge_calls"]
        == theirs["label"]["judge_calls"] + (marks["evaluate"]["judge_calls"])
    )
    run_recipe(other, run.folder)
    assert worked == {"optimise": 1, "evaluate": 1, "report": 1}, "it stands on its own feet"


def test_large_files_share_their_bytes_and_neither_run_can_change_the_other(recipe, done, tmp_path, monkeypatch):
    monkeypatch.setattr(due, "LARGE", 10_000)
    run = run_recipe(recipe, tmp_path / "b", stages_until(recipe, "reward"), since=[done.folder])
    one, other = (each.reward_model / "model.safetensors" for each in (done, run))
    assert one.stat().st_ino == other.stat().st_ino and one.stat().st_size > 10_000
    assert run.heldout.stat().st_ino != done.heldout.stat().st_ino
    assert not any(path.is_symlink() for path in run.folder.rglob("*"))
    before = one.read_bytes()
    run_recipe(changed(recipe, reward__learning_rate=1e-4), run.folder, stages_until(recipe, "reward"), redo=True)
    assert one.read_bytes() == before != other.read_bytes()


def test_what_was_changed_there_since_is_not_taken(recipe, copy, worked, tmp_path, capsys):
    with copy.judgments.open("a") as file:
        file.write("\n")
    run_recipe(recipe, tmp_path / "b", stages_until(recipe, "label"), since=copy.folder)
    assert worked == {"label": 1}
    assert f"  not as in {copy.folder}: what it wrote there was changed\n" in capsys.readouterr().out


def test_a_killed_take_over_goes_on(recipe, done, worked, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def kill(self: Run, stage: str, *_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "mark_done", kill)
        run_recipe(recipe, tmp_path / "b", since=done.folder)
    run = run_recipe(recipe, tmp_path / "b", stages_until(recipe, "reward"), since=done.folder)
    assert not worked and run.read_metrics("reward") == done.read_metrics("reward")


def test_since_names_a_run_and_not_its_own_folder(recipe, copy, tmp_path):
    with pytest.raises(ConfigError, match=rf"--since {tmp_path / 'none'}: no run has finished a stage there"):
        run_recipe(recipe, tmp_path / "b", since=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"that is the run's own folder"):
        run_recipe(recipe, copy.folder, since=copy.folder)
    manifest = copy.read_manifest()
    del manifest["read"]
    write_json(copy.manifest, manifest)
    with pytest.raises(ConfigError, match=r": made by an earlier rlaif, which did not note what its stages read$"):
        run_recipe(recipe, tmp_path / "b", since=copy.folder)


def test_arms_that_differ_in_training_sample_and_label_once(recipe, worked, tmp_path):
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    arms = {name: {"kind": "custom", "overrides": [f"optimise.learning_rate={rate}"]} for name, rate in RATES.items()}
    values = {
        "schema": "rlaif/study/v1",
        "name": "rates",
        "title": "Two learning rates",
        "recipe": str(tmp_path / "recipe.yaml"),
        "arms": arms,
        "seeds": [0],
        "pairs": "sampled",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    study = load_study(tmp_path / "study.yaml")
    run_study(study, tmp_path / "study")
    assert worked == {"sample": 1, "label": 1, "pairs": 1, "reward": 1, "optimise": 2, "evaluate": 2, "report": 2}
    slow, fast = (arm.run for arm in arm_runs(study, tmp_path / "study"))
    assert slow.judgments.read_bytes() == fast.judgments.read_bytes()
    assert fast.read_manifest()["stages"]["label"]["taken_from"] == str(slow.folder)
    assert hash_path(slow.policy) != hash_path(fast.policy)
    run_study(study, tmp_path / "study")
    assert worked["report"] == 2


RATES = {"slow": 0.001, "fast": 0.01}


# ------------------------------------------------------------------------------------- what is read to find that out


@pytest.fixture
def opened() -> Iterator[list[Path]]:
    """Every file that Python opens."""
    HOOKED.append(found := [])
    yield found
    HOOKED.remove(found)


HOOKED: list[list[Path]] = []


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if HOOKED and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        HOOKED[-1].append(Path(os.fsdecode(arguments[0])))


sys.addaudithook(hook)


def test_no_large_file_is_read_to_say_that_all_is_up_to_date(recipe, copy, opened, worked, monkeypatch):
    monkeypatch.setattr(digest, "LARGE", 10_000)
    model = Path(recipe.policy.model) / "model.safetensors"
    run_recipe(recipe, copy.folder)
    assert model in opened and copy.policy / "model.safetensors" in opened, "once: this copy is new"
    assert sum(path.stat().st_size for path in set(opened) if path.is_file() and path.name == model.name) > 3 * 10_000
    opened.clear()
    digest._known.clear()  # as in a process of its own
    run_recipe(recipe, copy.folder)
    assert not [path for path in opened if path.name == model.name] and copy.heldout in opened
    assert not worked


def test_a_touched_file_is_up_to_date_and_a_changed_one_is_not(recipe, copy, opened, worked, monkeypatch):
    monkeypatch.setattr(digest, "LARGE", 10_000)
    run_recipe(recipe, copy.folder)
    weights = copy.policy / "model.safetensors"
    os.utime(weights, ns=(1, weights.stat().st_mtime_ns + 10**9))
    run_recipe(recipe, copy.folder)
    assert not worked
    opened.clear()
    run_recipe(recipe, copy.folder)
    assert weights not in opened, "its new time is known now"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    stat = weights.stat()
    weights.write_bytes(content)
    os.utime(weights, ns=(1, stat.st_mtime_ns + 10**9))
    assert weights.stat().st_size == stat.st_size and weights.stat().st_ino == stat.st_ino
    run_recipe(recipe, copy.folder)
    assert worked["optimise"] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{\"'policy/model.safetensors'\": 3}", '{"x": [1, 2, 3, "zz"]}'])
def test_a_broken_memo_only_costs_time(recipe, copy, worked, text, monkeypatch):
    monkeypatch.setattr(digest, "LARGE", 10_000)
    (copy.folder / ".digests.json").write_text(text)
    run_recipe(recipe, copy.folder)
    assert not worked


def test_rows_of_people_that_failed_come_along(recipe, tmp_path):
    rows = [{"prompt": f"Say {n}", "chosen": "letters", "rejected": str(n)} for n in range(40)]
    rows.append({"prompt": "Say 1", "chosen": " ", "rejected": "x"})
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = {"kind": "human", "human_data": [{"kind": "file", "path": str(tmp_path / "said.jsonl")}]}
    human = changed(recipe, preferences__labels=labels)
    first = run_recipe(human, tmp_path / "1", ["pairs"])
    second = run_recipe(human, tmp_path / "2", ["pairs"], since=first.folder)
    assert "said.jsonl:41" in second.human_failures.read_text()
    assert second.human_failures.read_bytes() == first.human_failures.read_bytes()


def test_rows_that_failed_stay_where_only_the_judge_labels_peoples_pairs(recipe, tmp_path):
    rows = [{"prompt": f"Say {n}", "chosen": "letters", "rejected": str(n)} for n in range(40)]
    rows.append({"prompt": "Say 1", "chosen": " ", "rejected": "x"})
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"kind": "file", "path": str(tmp_path / "said.jsonl")}]
    judged = changed(recipe, preferences__labels={"kind": "ai", "pairs": "human", "human_data": data})
    run = run_recipe(judged, tmp_path / "1", ["label", "pairs"])
    assert "said.jsonl:41" in run.human_failures.read_text()


def test_every_file_of_failures_is_an_output_of_a_stage(tmp_path):
    run = Run(tmp_path)
    outputs = [path for stage in STAGES.values() for path in stage.outputs(run)]
    assert {path for name, path in vars(run).items() if name.endswith("failures")} <= set(outputs)
    assert len(outputs) == len(set(outputs))


def test_a_run_that_may_only_be_read_can_be_taken_from(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "LARGE", 4)
    (tmp_path / "weights").write_bytes(b"many bytes")
    (tmp_path / ".digests.json").mkdir()  # root may write anywhere, but no file where a folder is
    assert Run(tmp_path).hash(tmp_path / "weights") == hash_path(tmp_path / "weights")


def test_the_weaker_model_of_a_reward_is_a_file_of_optimise_and_not_of_label(tmp_path, shallow_folder):
    weaker = shutil.copytree(shallow_folder, tmp_path / "weaker")
    mode = {"kind": "contrast", "against": {"backend": "local", "model": str(weaker)}}
    recipe = small_recipe(tmp_path, shallow_folder, optimise__scoring={"kind": "judge", "mode": mode})
    reads = {name: weaker in STAGES[name].inputs(recipe, Run(tmp_path)) for name in ("label", "optimise", "evaluate")}
    assert reads == {"label": False, "optimise": True, "evaluate": True}
    recipe = small_recipe(tmp_path, shallow_folder, label__mode=mode)
    assert weaker in STAGES["label"].inputs(recipe, Run(tmp_path))
