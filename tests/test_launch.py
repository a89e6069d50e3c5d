"""`accelerate launch -m rlaif`: a whole recipe by two processes, and one line when it cannot go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.config import dump_recipe
from rlaif.pipeline import run_recipe
from rlaif.run_folder import Run
from rlaif.testing import small_recipe
from tests.test_parallel import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def test_two_launched_processes_are_one_run_and_end_with_one_line(tmp_path: Path, tiny_folder: str) -> None:
    """The reward model is the one that a single process trains; then rollouts are asked for that no machine holds."""
    recipe = small_recipe(
        tmp_path,
        tiny_folder,
        prompts=44,
        prompts__heldout=4,
        reward__learning_rate=1e-3,
        reward__epochs=2,
        reward__microbatch_tokens=256,
        optimise__rollouts_per_step=2**26,
    )
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--cpu",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port()]
    done = subprocess.run(
        [*launch, "-m", "rlaif", "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert said.count("error: optimise: needs about") == 1, said
    assert "most is KV cache" in said and "lower optimise.rollouts_per_step" in said
    assert said.count("[4/7] reward: done") == 1
    two = Run(tmp_path / "two")
    assert set(json.loads(two.manifest.read_text())["stages"]) == {"sample", "label", "pairs", "reward"}
    one = run_recipe(recipe, tmp_path / "one", ["sample", "label", "pairs", "reward"])
    assert one.preferences.read_bytes() == two.preferences.read_bytes()
    ours, theirs = two.read_metrics("reward"), one.read_metrics("reward")
    assert len(ours) == len(theirs) > 3
    for row, expected in zip(ours, theirs, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
