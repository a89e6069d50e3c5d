"""What launchers say becomes torch's variables, or one line; two processes that srun or mpirun started are one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.config import dump_recipe
from rlaif.errors import ConfigError
from rlaif.launchers import PORTS, as_torch
from rlaif.pipeline import run_recipe
from rlaif.run_folder import Run
from rlaif.testing import small_recipe
from tests.test_parallel import free_port

ROOT = Path(__file__).parents[1]
STEP = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "3"}


def seen(**said: str) -> tuple[str, str, str, str]:
    found = as_torch(said)
    return found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["MASTER_ADDR"]


def test_srun() -> None:
    assert seen(**STEP, SLURM_JOB_NODELIST="gpu[03-05,9],login") == ("1", "2", "0", "gpu03")
    assert seen(**STEP, SLURM_NNODES="1", SLURM_JOB_NODELIST="gpu3") == ("1", "2", "0", "127.0.0.1")
    assert seen(**STEP, SLURM_LAUNCH_NODE_IPADDR="10.0.0.1") == ("1", "2", "0", "10.0.0.1")
    step = STEP | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "b[1-2]"}
    assert seen(**step, SLURM_JOB_NODELIST="a1,b[1-2]") == ("1", "4", "0", "b1")
    own = {"MASTER_ADDR": "me", "MASTER_PORT": "1", "WORLD_SIZE": "9"}  # exported in a batch script
    found = as_torch(STEP | own)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"], found["WORLD_SIZE"]) == ("me", "1", "2")


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("n[7,9-11]", "n7"),
        ("n[007-010].x.org", "n007.x.org"),
        ("rack[2-3]n[05-09]", "rack2n05"),
        ("n-[1]-ib,m", "n-1-ib"),
    ],
)
def test_the_first_machine_of_a_list(hosts: str, first: str) -> None:
    assert seen(**STEP, SLURM_JOB_NODELIST=hosts)[3] == first


def test_mpi() -> None:
    assert seen(**MPI, OMPI_COMM_WORLD_LOCAL_SIZE="2") == ("1", "2", "1", "127.0.0.1")
    assert seen(**HYDRA) == ("2", "3", "2", "127.0.0.1")
    by_srun = MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"} | STEP | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    assert seen(**by_srun)[:2] == ("1", "2"), "mpirun starts its own by srun"
    assert seen(**STEP, SLURM_NNODES="1", PMI_RANK="1", PMI_SIZE="2")[:2] == ("1", "2"), "srun --mpi=pmi2"


def test_all_processes_of_a_job_meet_at_one_port_and_two_jobs_at_two() -> None:
    one, other = (as_torch(STEP | {"SLURM_NNODES": "1", "SLURM_PROCID": rank}) for rank in "01")
    assert one["MASTER_PORT"] == other["MASTER_PORT"]
    ports = {as_torch(STEP | {"SLURM_NNODES": "1", "SLURM_JOB_ID": str(job)})["MASTER_PORT"] for job in range(50)}
    assert len(ports) > 40 and all(int(port) in PORTS for port in ports)


def test_how_many_share_the_machine() -> None:
    for listed, node, count in [("2", "0", "2"), ("4(x2),1", "1", "4"), ("4(x2),1", "2", "1")]:
        step = STEP | {"SLURM_STEP_TASKS_PER_NODE": listed, "SLURM_NODEID": node, "MASTER_ADDR": "a"}
        assert as_torch(step)["LOCAL_WORLD_SIZE"] == count
    for listed, node in [("", "0"), ("2", "1"), ("2", "x")]:
        step = STEP | {"SLURM_STEP_TASKS_PER_NODE": listed, "SLURM_NODEID": node, "MASTER_ADDR": "a"}
        assert "LOCAL_WORLD_SIZE" not in as_torch(step)


BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "a,b", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    "said",
    [
        {},
        BATCH,
        BATCH | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_TASKS_PER_NODE": "2"},  # a batch script has these
        BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        STEP | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        STEP | {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"},  # torchrun inside
        STEP | {"RANK": "0"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
        {"WORLD_SIZE": "1"},
        {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": ""},
    ],
)
def test_who_is_alone_or_has_torchs_own_is_left_so(said: dict[str, str]) -> None:
    assert as_torch(said) == {}


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (STEP, "srun: 2 processes and no address of the first; set MASTER_ADDR for all"),
        (STEP | {"SLURM_JOB_NODELIST": "(null)"}, "no address of the first"),
        (
            MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            "mpirun: 2 processes and no addr",
        ),
        (STEP | {"SLURM_PROCID": "two"}, r"SLURM_PROCID: must be a whole number \(got 'two'\)"),
        (STEP | {"SLURM_NTASKS": "-2"}, "SLURM_NTASKS: must be a whole number"),
        (STEP | {"SLURM_PROCID": "2"}, "SLURM_PROCID=2: there are 2 processes, counted from 0"),
        ({k: v for k, v in STEP.items() if k != "SLURM_LOCALID"}, "SLURM_LOCALID is not set"),
        ({k: v for k, v in STEP.items() if k != "SLURM_PROCID"}, "SLURM_PROCID is not set"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is not set"),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "²"}, "OMPI_COMM_WORLD_SIZE: must be a whole number"),
        (BATCH | {"SLURM_PROCID": "1"}, "SLURM_PROCID is set, and no SLURM_STEP_ID"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "PMI_SIZE=2, and no MPI_LOCALRANKID"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, and no RANK"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2: there are 2 processes"),
        ({"WORLD_SIZE": "many", "RANK": "2"}, "WORLD_SIZE: must be a whole number"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED=true: accelerate's settings of DeepSpeed"),
        ({"ACCELERATE_USE_FSDP": "1", "RANK": "0"}, "FSDP are not read; .* say compute.sharding=fsdp"),
        ({"ACCELERATE_USE_MEGATRON_LM": "True"}, "settings of Megatron-LM are not read"),
    ],
)
def test_what_cannot_be_translated_is_one_line(said: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as found:
        as_torch(said)
    assert "\n" not in str(found.value)


def command(said: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """rlaif as a launcher starts it."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"} | said
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-m", "rlaif", *words], env=env, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("said", [STEP, {"ACCELERATE_USE_DEEPSPEED": "true"}])
def test_the_command_line_says_it_and_ends(said: dict[str, str], tmp_path: Path) -> None:
    out, error = (process := command(said, "check", "quickstart")).communicate()
    assert (process.returncode, out) == (2, "")
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_two_processes_train_the_reward_model_of_one(launcher: str, tmp_path: Path, tiny_folder: str) -> None:
    recipe = small_recipe(
        tmp_path, tiny_folder, prompts=44, prompts__heldout=4, reward__epochs=2, optimise={"kind": "ppo"}
    )
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    words = ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two"), "--until", "reward"]
    port = {"MASTER_PORT": free_port()}
    step = STEP | port | {"SLURM_NNODES": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
    mpi = MPI | port | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    ranks = {
        "srun": lambda n: step | {"SLURM_PROCID": n, "SLURM_LOCALID": n},
        "mpirun": lambda n: mpi | {"OMPI_COMM_WORLD_RANK": n, "OMPI_COMM_WORLD_LOCAL_RANK": n},
    }
    started = [command(ranks[launcher](n), *words) for n in "01"]
    said = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert [out.count("reward: done") for out, _ in said] == [1, 0], "one speaks"
    one = run_recipe(recipe, tmp_path / "one", ["sample", "label", "pairs", "reward"])
    two = Run(tmp_path / "two")
    assert set(json.loads(two.manifest.read_text())["stages"]) == {"sample", "label", "pairs", "reward"}
    assert one.preferences.read_bytes() == two.preferences.read_bytes()
    ours, theirs = two.read_metrics("reward"), one.read_metrics("reward")
    assert len(ours) == len(theirs) > 3
    for row, expected in zip(ours, theirs, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
