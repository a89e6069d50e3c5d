"""Two processes do what one does: the same losses, the same weights, one voice, and no hanging when one is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlaif.cli import main
from rlaif.console import Console
from rlaif.errors import TrainingError
from rlaif.jsonl import write_json
from rlaif.processes import leads, several
from rlaif.run_folder import Run
from rlaif.training import parallel
from tests import together
from tests.tiny_training import LORA, same

ROOT = Path(__file__).parents[1]
LEARNT = {
    "reward": together.learn_rewards,
    "reward lora": lambda tiny, folder: together.learn_rewards(tiny, folder, LORA),
    "ppo": lambda tiny, folder: together.learn_policy(tiny, folder, "ppo"),
    "ppo full": lambda tiny, folder: together.learn_policy(tiny, folder, "ppo", None),
    "ppo shared": lambda tiny, folder: together.learn_policy(tiny, folder, "ppo", critic="shared"),
    "grpo full": lambda tiny, folder: together.learn_policy(tiny, folder, "grpo", None),
    "sft": together.imitate,
}
ALIKE = {
    "reward": "reward",
    "reward lora": "reward lora",
    "reward fsdp": "reward",
    "reward lora fsdp": "reward lora",
    "ppo": "ppo",
    "ppo fsdp": "ppo full",
    "ppo shared fsdp": "ppo shared",
    "grpo fsdp": "grpo full",
    "sft": "sft",
    "sft fsdp": "sft",
}
"""What two processes did, and what one does that must be the same."""


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> tuple[Path, list[dict[str, Any]]]:
    """The folder in which two processes worked, and what each of them found."""
    folder = tmp_path_factory.mktemp("together")
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.together", str(folder), tiny_folder],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 9], "\n".join(said)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    return {name: learn(tiny_folder, folder / name) for name, learn in LEARNT.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_learn_what_one_does(name: str, two: Any, alone: Any) -> None:
    """Every number of every step to 1e-4, whatever is sharded; the weights are the same bits on both processes."""
    _, (first, second) = two
    expected = alone[ALIKE[name]]
    assert len(first[name]["rows"]) == len(expected["rows"]) >= 2
    for ours, theirs in zip(first[name]["rows"], expected["rows"], strict=True):
        assert ours.pop("stage") == theirs["stage"]
        numbers = {key: value for key, value in theirs.items() if key != "stage"}
        assert ours == pytest.approx(numbers, abs=1e-4, rel=1e-6)
    assert first[name]["weights"].keys() == expected["weights"].keys()
    for key, weight in expected["weights"].items():
        torch.testing.assert_close(first[name]["weights"][key], weight, atol=1e-4, rtol=0)
    assert same(first[name]["weights"], second[name]["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reward fsdp", "ppo fsdp", "sft fsdp"])
def test_what_the_first_process_saved_is_an_ordinary_model(name: str, two: Any) -> None:
    folder, (first, _) = two
    kind = AutoModelForSequenceClassification if name.startswith("reward") else AutoModelForCausalLM
    loaded = dict(kind.from_pretrained(folder / name / "model", dtype=torch.float32).named_parameters())
    saved = {key.removeprefix("0."): weight for key, weight in first[name]["weights"].items()}
    assert same(loaded, saved)


@pytest.mark.slow
def test_one_process_writes_the_run(two: Any) -> None:
    """Metrics are not there twice, and a sharded model's checkpoint has a part of each process, the last step alone."""
    folder, (first, _) = two
    assert [row["step"] for row in first["sft fsdp"]["rows"]] == list(range(4))
    assert first["undisturbed"]["files"] == ["step-000006.1-of-2.pt", "step-000006.2-of-2.pt"]
    assert len(list((folder / "ppo fsdp" / "tensorboard").rglob("events*"))) == 1


@pytest.mark.slow
def test_the_norm_that_clips_is_that_of_the_whole_model(two: Any, tmp_path: Path, tiny_folder: str) -> None:
    _, (first, _) = two
    expected = together.some_updates(tiny_folder, tmp_path, together.WHOLE)
    assert min(expected["rows"]) > 0.5  # the limit: every step is clipped
    assert first["undisturbed"]["rows"] == pytest.approx(expected["rows"], rel=1e-4)
    for key, weight in expected["weights"].items():
        torch.testing.assert_close(first["undisturbed"]["weights"][key], weight, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_sharded_run_goes_on_bit_by_bit(two: Any) -> None:
    _, found = two
    for each in found:
        assert same(each["resumed"]["weights"], each["undisturbed"]["weights"])
        assert each["resumed"]["rows"][5:] == each["undisturbed"]["rows"][4:]  # given up after 5, the last save after 4


@pytest.mark.slow
def test_another_number_of_processes_does_not_go_on_from_parts(two: Any, tiny_folder: str) -> None:
    folder, _ = two
    with pytest.raises(TrainingError, match="made with 2 processes, sharded; go on as it was begun"):
        together.some_updates(tiny_folder, folder / "undisturbed", together.WHOLE)


@pytest.mark.slow
def test_everyone_takes_as_many_turns_and_all_groups_count_once(two: Any) -> None:
    _, found = two
    for count in range(8):
        taken = [each["basics"]["turns"][count] for each in found]
        assert len(taken[0]) == len(taken[1]) == (count + 1) // 2
        counted = [group for turns in taken for group, weight in turns if weight == 1.0]
        assert sorted(counted) == list("abcdefg"[:count])
        assert all(weight in {0.0, 1.0} for turns in taken for _, weight in turns)


@pytest.mark.slow
def test_sums_objects_and_errors_reach_everyone(two: Any) -> None:
    _, found = two
    for each in found:
        basics = each["basics"]
        assert basics["sum"].tolist() == [2.0, 1.0]
        assert basics["gathered"] == ["from 0", "from 1"]
        assert basics["first"] == "by 0"
        assert basics["refused"] == "the first process says no"


@pytest.mark.slow
def test_gradients_add_up_also_where_one_process_has_none(two: Any) -> None:
    """Sums, not means: 1 + 2 of `both` and 2 of `second`; a parameter without a gradient anywhere stays untouched, and
    so does a frozen group."""
    _, found = two
    for each in found:
        gradient = each["basics"]["gradient"]
        assert gradient["norm"] == pytest.approx((3 * 3.0**2 + 3 * 2.0**2) ** 0.5)
        moved, frozen = gradient["weights"]
        assert moved["both"].tolist() == pytest.approx([0.9] * 3, abs=1e-3)
        assert moved["second"].tolist() == pytest.approx([0.9] * 3, abs=1e-3)
        assert moved["none"].tolist() == [1.0] * 3
        assert all(weight.tolist() == [1.0] * 3 for weight in frozen.values())


@pytest.mark.slow
def test_who_is_left_alone_says_so_and_does_not_wait(two: Any) -> None:
    folder, _ = two
    left = (folder / "left alone").read_text()
    assert left.startswith("process 0 lost the others, look for what they said last")
    assert "\n" not in left


@pytest.mark.slow
def test_of_several_that_end_together_one_says_why(two: Any) -> None:
    _, found = two
    assert sorted(each["basics"]["speaks"] for each in found) == [False, True]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_before_the_processes_meet_is_said_by_the_first(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(sys, "argv", ["rlaif", "check", "nowhere.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.count("error: nowhere.yaml") == 1 - rank


def test_alone_nothing_happens() -> None:
    parallel.start()
    assert (parallel.rank(), parallel.size()) == (0, 1)
    assert list(parallel.turns("abc")) == [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    assert parallel.gather("x") == ["x"]
    assert parallel.first(lambda: "y") == "y"
    assert parallel.speaks_first() and leads() and not several()


def test_the_others_write_and_print_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    run = Run(tmp_path / "run")
    with run.lock():
        run.begin("reward", "inputs")
        run.log({"stage": "reward", "step": 0})
        run.mark_done("reward", "inputs", [], {})
        write_json(run.evaluation, {})
        assert run.scope() == ""
    assert not run.folder.exists()
    assert Console(quiet=not leads()).quiet
    monkeypatch.setenv("RANK", "0")
    write_json(run.evaluation, {})
    assert run.evaluation.exists()
