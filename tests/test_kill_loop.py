"""Killed at every training step in turn, a method ends in the bytes of a run that was left in peace.

One folder a method lives through all kills: each is a process of its own that ends by SIGKILL when the row of its
step is written, or half of it, and the next one goes on from the newest checkpoint. The other stages, and kills at
other moments, are in test_resume.py.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rlaif.config import Recipe, dump_recipe
from rlaif.digest import hash_path
from rlaif.jsonl import write_jsonl
from rlaif.pipeline import run_recipe
from rlaif.run_folder import Run
from rlaif.testing import small_recipe
from tests.forked import exit_code
from tests.tiny_training import planted

pytestmark = pytest.mark.slow

LORA = {"rank": 4}
ON_POLICY: dict[str, Any] = {
    "steps": 5,
    "rollouts_per_step": 8,
    "minibatch_size": 4,
    "max_tokens": 12,
    "lora": LORA,
    "learning_rate": 1e-3,
    "scoring": {"kind": "checks"},
    "kl": {"kind": "adaptive", "coef": 0.05, "target": 0.1},
}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"kind": "sft", "data": {"kind": "chosen"}, "minibatch_size": 8, "lora": None, "learning_rate": 1e-3},
    "dpo": {"kind": "dpo", "minibatch_size": 8, "epochs": 2, "lora": LORA, "learning_rate": 1e-3},
    "ppo": ON_POLICY | {"kind": "ppo", "critic_lora": None},
    "rloo": ON_POLICY | {"kind": "rloo"},
    "reinforce": ON_POLICY
    | {"kind": "reinforce", "constraints": [{"name": "length", "cost": {"kind": "length", "per": 1}, "limit": 9}]},
}
STEPS = {"sft": 4, "dpo": 9, "ppo": 5, "rloo": 5, "reinforce": 5}
"""Rows of metrics: an update each, and DPO's last one about what was held out."""


class Story(NamedTuple):
    peaceful: Run
    killed: Run
    ends: list[int | None]


def die_at(step: int) -> None:
    """Let this process die when it writes the row of that step: with half of it on disk, or all of it."""
    original = Run.log

    def deadly(run: Run, row: dict[str, Any]) -> None:
        if row["step"] != step:
            original(run, row)
            return
        if step % 2:
            with run.metrics.open("a") as file:
                file.write(json.dumps(row)[:-9])
        else:
            original(run, row)
        os.kill(os.getpid(), signal.SIGKILL)

    Run.log = deadly  # type: ignore[method-assign]


def work(recipe: Recipe, folder: Path, step: int | None) -> None:
    import torch

    torch.set_num_threads(1)
    if step is not None:
        die_at(step)
    run_recipe(recipe, folder, ["optimise"])


def in_a_process(recipe: Recipe, folder: Path, step: int | None = None) -> int | None:
    return exit_code(work, recipe, folder, step)


def begun(recipe: Recipe, folder: Path) -> Run:
    """A run of this recipe with preferences in it, as if the stages before had made them."""
    run = Run(folder)
    run.folder.mkdir(parents=True)
    run.recipe.write_text(dump_recipe(recipe))
    write_jsonl(run.preferences, planted(40))
    return run


@pytest.fixture(scope="module", params=list(METHODS))
def story(request, tmp_path_factory, tiny_folder) -> Story:
    recipe = small_recipe(tmp_path_factory.mktemp("inputs"), tiny_folder, prompts=20, prompts__heldout=4)
    method = METHODS[request.param] | {"checkpoint_every": 2}
    recipe = Recipe.model_validate(recipe.model_dump(mode="json") | {"optimise": method})
    folders = tmp_path_factory.mktemp("runs")
    peaceful, killed = (begun(recipe, folders / name / "letters") for name in ("peaceful", "killed"))
    assert in_a_process(recipe, peaceful.folder) == 0
    steps = len(peaceful.read_metrics("optimise"))
    assert steps == STEPS[request.param], "every step is to be a kill's"
    ends = [in_a_process(recipe, killed.folder, step) for step in range(steps)]
    assert in_a_process(recipe, killed.folder) == 0
    return Story(peaceful, killed, ends)


def test_a_run_killed_at_every_step_ends_in_the_same_bytes(story):
    assert set(story.ends) == {-signal.SIGKILL}
    assert story.killed.metrics.read_bytes() == story.peaceful.metrics.read_bytes()
    assert hash_path(story.killed.policy) == hash_path(story.peaceful.policy)
    policy = story.peaceful.policy / "model.safetensors"
    assert (story.killed.policy / "model.safetensors").read_bytes() == policy.read_bytes()
    assert not list(story.killed.checkpoints.rglob("*.pt"))


def test_the_steps_taught_something(story):
    """Else equal bytes would say nothing."""
    rows = story.peaceful.read_metrics("optimise")
    assert all(row["gradient_norm"] > 0 for row in rows if "gradient_norm" in row)
