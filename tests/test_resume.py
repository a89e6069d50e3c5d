"""A run that is killed, again and again, in every stage ends in the same bytes as one that was left in peace.

One folder lives through all kills of its list in turn: each is a process of its own that ends by SIGKILL at a fixed
point, the next one goes on. Nothing is slept for or timed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rlaif.config import Recipe
from rlaif.digest import hash_path
from rlaif.evaluation.report import write_report
from rlaif.jsonl import write_json
from rlaif.pipeline import STAGES, run_recipe
from rlaif.run_folder import Run
from rlaif.testing import small_recipe
from tests.forked import blank, draw_nothing, exit_code


class Kill(NamedTuple):
    """In this stage, at the n-th call of what SEAMS names; `after` the call, or in place of it."""

    stage: str
    seam: str
    n: int
    after: bool = False


KILLS = [
    Kill("sample", "replies", 1),
    Kill("sample", "replies", 2, after=True),
    Kill("sample", "replace", 1),
    Kill("sample", "replace", 2),
    Kill("sample", "mark", 1),
    Kill("label", "replies", 9, after=True),
    Kill("label", "replace", 1, after=True),
    Kill("label", "replace", 2),
    Kill("pairs", "replace", 1),
    Kill("pairs", "mark", 1),
    Kill("reward", "row", 3, after=True),  # before the first checkpoint
    Kill("reward", "torn row", 13),  # after it
    Kill("reward", "checkpoint", 1),
    Kill("reward", "publish", 1),
    Kill("reward", "replace", 2),
    Kill("reward", "mark", 1),
    Kill("optimise", "torn row", 2),
    Kill("optimise", "checkpoint", 1, after=True),
    Kill("optimise", "row", 2, after=True),
    Kill("optimise", "checkpoint", 1),
    Kill("optimise", "publish", 1, after=True),
    Kill("evaluate", "replies", 1, after=True),
    Kill("evaluate", "replies", 4, after=True),
    Kill("evaluate", "replace", 2),
    Kill("evaluate", "replace", 4),
    Kill("evaluate", "replace", 6),
    Kill("evaluate", "mark", 1),
    Kill("report", "replace", 1),
    Kill("report", "mark", 1),
]
"""Counted from the start of the process, so each must be reachable from where the one before it died."""
FEW = [
    Kill("sample", "replies", 2, after=True),
    Kill("label", "replace", 2),
    Kill("pairs", "mark", 1),
    Kill("reward", "torn row", 13),
    Kill("reward", "publish", 1),
    Kill("optimise", "row", 2, after=True),
    Kill("optimise", "checkpoint", 1, after=True),
    Kill("evaluate", "replies", 4, after=True),
    Kill("report", "replace", 1),
]
"""In every stage and at every seam once."""


def seams() -> dict[str, tuple[Any, str]]:
    """What can be interrupted: (owner, attribute)."""
    from rlaif.models.cache import CachedModel
    from rlaif.training.session import Session
    from rlaif.training.tracking import Tracker

    return {
        "replies": (CachedModel, "_save"),
        "replace": (os, "replace"),
        "mark": (Run, "mark_done"),
        "row": (Tracker, "log"),
        "torn row": (Run, "log"),
        "checkpoint": (Session, "save"),
        "publish": (Path, "rename"),
    }


def arm(kill: Kill) -> None:
    """Let this process die there."""
    owner, name = seams()[kill.seam]
    original: Callable[..., Any] = getattr(owner, name)
    calls = count(1)

    def deadly(*arguments: Any, **named: Any) -> Any:
        last = next(calls) == kill.n
        if last and kill.seam == "torn row":
            with arguments[0].metrics.open("a") as file:
                file.write(json.dumps(arguments[1])[:-9])
        if last and not kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def work(recipe: Recipe, folder: Path, kill: Kill | None, drawn: bool) -> None:
    """The body of one process: the whole recipe, armed once the kill's stage begins."""
    import torch

    torch.set_num_threads(1)
    if not drawn:
        draw_nothing()
    os.environ["RLAIF_REPLIES"] = str(folder.parent / "replies.sqlite")  # what one run asked the other must ask too
    if kill is not None:
        stage = STAGES[kill.stage]

        def armed(*arguments: Any) -> dict[str, Any]:
            arm(kill)
            return stage.run(*arguments)

        STAGES[kill.stage] = stage._replace(run=armed)
    run_recipe(recipe, folder)


class Story(NamedTuple):
    peaceful: Run
    killed: Run
    kills: list[Kill]
    ends: list[int | None]
    recipe: Recipe


@pytest.fixture(scope="module", params=[FEW, pytest.param(KILLS, marks=pytest.mark.slow)], ids=["few", "all"])
def story(request, tmp_path_factory, shallow_folder) -> Story:
    recipe = small_recipe(
        tmp_path_factory.mktemp("inputs"),
        shallow_folder,
        prompts=30,
        policy__batch_size=8,
        prompts__heldout=10,
        sample__max_tokens=8,
        sample__responses_per_prompt=3,
        reward__lora={"rank": 4},
        reward__epochs=3,
        reward__minibatch_size=4,
        preferences__tie_margin=0.02,
        optimise__steps=7,
        optimise__lora={"rank": 4},
        optimise__critic_lora={"rank": 4},
        optimise__rollouts_per_step=8,
        optimise__minibatch_size=4,
        optimise__max_tokens=8,
        optimise__epochs=2,
        optimise__checkpoint_every=3,
        optimise__kl={"kind": "adaptive", "coef": 0.05, "target": 0.1},
        evaluate__bootstrap_samples=100,
    )
    folders = tmp_path_factory.mktemp("runs")
    peaceful, killed = Run(folders / "peaceful" / "letters"), Run(folders / "killed" / "letters")
    drawn = request.param is KILLS
    assert exit_code(work, recipe, peaceful.folder, None, drawn) == 0
    ends = [exit_code(work, recipe, killed.folder, kill, drawn) for kill in request.param]
    assert exit_code(work, recipe, killed.folder, None, drawn) == 0
    return Story(peaceful, killed, request.param, ends, recipe)


def test_every_stage_was_killed_where_it_should_be(story):
    assert {kill.stage for kill in story.kills} == set(STAGES)
    assert {kill.seam for kill in story.kills} == set(seams())
    survived = [kill for kill, end in zip(story.kills, story.ends, strict=True) if end != -signal.SIGKILL]
    assert survived == []


ARTEFACTS = [
    "recipe",
    "responses",
    "sample_failures",
    "judgments",
    "failures",
    "preferences",
    "reward_model",
    "heldout",
    "policy",
]
ARTEFACTS += ["metrics", "samples", "evaluation_judgments", "evaluation_failures"]


@pytest.mark.parametrize("name", ARTEFACTS)
def test_the_artefact_is_the_same_to_the_byte(story, name):
    one, other = getattr(story.peaceful, name), getattr(story.killed, name)
    assert one.exists()
    if one.is_file():
        assert other.read_bytes() == one.read_bytes()
    assert hash_path(one) == hash_path(other)


def test_the_evaluation_is_the_same_but_for_the_clock(story):
    values = [json.loads(run.evaluation.read_text()) for run in (story.peaceful, story.killed)]
    for value in values:
        assert value["cost"].pop("seconds")
    assert values[0] == values[1]


def test_the_page_is_the_same_but_for_the_clock(story, tmp_path, monkeypatch):
    if story.kills is not KILLS:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", blank)
    copy = Run(tmp_path / "letters")
    shutil.copytree(story.killed.folder, copy.folder)
    shutil.copy(story.peaceful.evaluation, copy.folder)  # here and in the manifest are the clock times
    manifest = story.peaceful.read_manifest()
    del manifest["stages"]["report"]  # not there yet when the page was written
    write_json(copy.manifest, manifest)
    write_report(copy.folder)
    assert copy.report.read_bytes() == story.peaceful.report.read_bytes()


def test_no_file_is_forgotten_here(story):
    """Every file of a run is compared above, or has a reason not to be."""
    excused = {"manifest.json", "evaluation.json", "report.html", ".scope", "tensorboard", "checkpoints", ".lock"}
    for run in (story.peaceful, story.killed):
        compared = {getattr(run, name).name for name in ARTEFACTS}
        found = {path.name for path in run.folder.iterdir()}
        assert found == compared | excused
        assert not [path for path in run.checkpoints.rglob("*") if path.is_file()]


def test_the_marks_agree(story):
    one, other = (run.read_manifest()["stages"] for run in (story.peaceful, story.killed))
    assert list(one) == list(other) == list(STAGES)
    for stage in STAGES:
        assert one[stage]["inputs"] == other[stage]["inputs"] or stage == "report"  # reads the clock times


def test_a_finished_run_has_nothing_to_do(story, capsys):
    run_recipe(story.recipe, story.killed.folder)
    assert capsys.readouterr().out.count("up to date") == len(STAGES)
