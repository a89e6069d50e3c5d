"""The benchmark for GPUs works on the day that there is one: on the CPU, with a tiny model, every row is there."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
METHODS = ("sft", "dpo", "reward", "ppo, own critic", "ppo, shared trunk", "reinforce", "rloo", "grpo")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """From another folder, without rlaif on the path: a bare checkout is enough."""
    folder = tmp_path_factory.mktemp("gpu")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(SCRIPT), "--size", "tiny", "--device", "cpu", "--out", "found.json"]
    ended: Any = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ended.found = json.loads((folder / "found.json").read_text())
    return ended


def rows(done: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["method"], row["learns"]): row for row in done.found["rows"]}


def test_every_method_has_a_row_of_finite_numbers_on_both_sides(done: Any) -> None:
    wanted = {(method, learns) for method in METHODS for learns in ("LoRA", "all weights")} | {("generate", "nothing")}
    assert set(rows(done)) == wanted
    for row in rows(done).values():
        for side in ("rlaif", "plain"):
            figures = [row[side][name] for name in ("tokens_per_s", "seconds", "peak_gb", "mfu")]
            assert all(math.isfinite(figure) and figure > 0 for figure in figures), (row["method"], side, row[side])


@pytest.mark.parametrize("method", METHODS)
def test_first_updates_agree_with_another_process_in_both_precisions(method: str, done: Any) -> None:
    """Of the same rows. In bf16 they are near and not the same: the comparison is of numbers that were computed."""
    for learns in ("LoRA", "all weights"):
        row = rows(done)[method, learns]
        assert row["check_float32"]["agrees"] and row["check_bfloat16"]["agrees"]
        assert row["check_bfloat16"]["row"] != row["check_float32"]["row"]
        if method not in {"sft", "dpo", "reward"}:
            assert row["check_float32"]["row"]["gradient_norm"] > 0


def test_the_table_parses(done: Any) -> None:
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(line) for line in cells} == {12}
    assert [tuple(line[:2]) for line in cells[2:]] == list(rows(done))
    for line in cells[2:]:
        for cell in line[2:-3]:
            assert math.isfinite(float(cell.removesuffix("%")))
        assert line[-1] == ("-" if line[0] == "generate" else "yes")


@pytest.fixture
def gpu() -> Any:
    return importlib.import_module("benchmarks.gpu")


def test_what_differs_or_fails_is_found(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that is off by a tenth, a gradient half as long, and a method that breaks; the others go on."""
    assert gpu.near("loss", 11.93, 11.95, "bfloat16") and not gpu.near("loss", 11.93, 11.95, "float32")
    assert not gpu.near("loss", 0.76, 0.69, "bfloat16")
    assert gpu.near("gradient_norm", 0.056, 0.053, "bfloat16") and not gpu.near("gradient_norm", 0.03, 0.06, "bfloat16")

    def breaks() -> Any:
        raise RuntimeError("CUDA out of memory")

    row = {"method": "sft", "learns": "LoRA", "rlaif": gpu.attempt("sft, LoRA: rlaif", breaks)}
    assert gpu.bad(row) and "CUDA out of memory" in capsys.readouterr().out
    assert not gpu.bad({"method": "sft", "check_float32": {"agrees": True}})
    assert gpu.bad({"method": "sft", "check_float32": {"agrees": False}})
    assert gpu.table([row], "float32").splitlines()[2] == "| sft | LoRA |" + " - |" * 10


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA L40S", 362), ("NVIDIA L4", 121)],
)
def test_the_rate_is_that_of_the_card(name: str, teraflops: float, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: name)
    assert gpu.peak_rate("cuda", "bfloat16")[0] == teraflops * 1e12


def test_what_there_is_no_time_for_is_skipped_and_said(
    gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(size="tiny", device="cpu", dtype="float32", minutes=0.0, methods=None)
    assert gpu.run(args, tmp_path) == []
    said = capsys.readouterr().out
    assert said.count("skipped, the 0 minutes are nearly up") == 2 * len(METHODS) + 1
    assert "those are not checked" in said
