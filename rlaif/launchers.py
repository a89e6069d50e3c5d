"""What srun, mpirun and mpiexec say to the processes that they start, in torch's variables.

Everything else reads these alone: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. torchrun and `accelerate
launch` set them themselves.
"""

from __future__ import annotations

import re
import socket
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from rlaif.errors import ConfigError, shown


class Launcher(NamedTuple):
    """The variables of one; of several names the first that is set counts."""

    name: str
    marks: tuple[str, ...]
    """One of them is set in what it starts, and nowhere else."""
    rank: str
    sizes: tuple[str, ...]
    local_rank: str
    local_size: str | None


OF_A_STEP = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID", "SLURM_STEPID", "SLURM_LAUNCH_NODE_IPADDR")
"""What a batch script lacks: it has SLURM_NTASKS and a SLURM_PROCID of 0 though nobody else was started."""
LAUNCHERS = (
    Launcher(
        "mpirun",
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        "OMPI_COMM_WORLD_RANK",
        ("OMPI_COMM_WORLD_SIZE",),
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher("mpiexec", ("MPI_LOCALRANKID",), "PMI_RANK", ("PMI_SIZE",), "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    Launcher("srun", OF_A_STEP, "SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), "SLURM_LOCALID", None),
)
"""In this order: mpirun may start its processes by srun."""
NOT_READ = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
JOBS = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
PORTS = range(10_000, 30_000)


def as_torch(said: Mapping[str, str]) -> dict[str, str]:
    """Torch's variables, from an environment that says another launcher's; empty where they are there already, or where
    this process is the only one. ConfigError for what cannot be translated."""
    for name, way in NOT_READ.items():
        if said.get(name, "").lower() in {"1", "true", "yes", "y", "t", "on"}:
            raise ConfigError(
                f"{name}={said[name]}: accelerate's settings of {way} are not read; launch without them, and where a "
                "model is to be divided say compute.sharding=fsdp in the recipe"
            )
    if "RANK" in said:
        if (size := _number(said, "WORLD_SIZE", "1")) > 1:
            _below(said, "RANK", size)
        return {}
    for launcher in LAUNCHERS:
        if any(mark in said for mark in launcher.marks):
            return _translated(said, launcher)
    if _number(said, "SLURM_PROCID", "0") > 0:
        raise ConfigError("SLURM_PROCID is set, and no SLURM_STEP_ID: which processes are there? Start them by srun")
    for name, rank in (("WORLD_SIZE", "RANK"), ("PMI_SIZE", "MPI_LOCALRANKID")):
        if _number(said, name, "1") > 1:
            raise ConfigError(f"{name}={said[name]}, and no {rank}: which of the processes is this?")
    return {}


def _translated(said: Mapping[str, str], launcher: Launcher) -> dict[str, str]:
    size_name = _first(said, launcher.sizes) or launcher.sizes[0]
    size = _number(said, size_name, "1")
    if size < 2:
        return {}
    job = ".".join(said.get(name, "") for name in JOBS)
    found = {
        "RANK": _below(said, launcher.rank, size),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": _below(said, launcher.local_rank, size),
        "MASTER_PORT": said.get("MASTER_PORT") or str(PORTS[zlib.crc32(job.encode()) % len(PORTS)]),
    }
    local = _here(said) if launcher.local_size is None else said.get(launcher.local_size)
    if local:
        found["LOCAL_WORLD_SIZE"] = local
    address = said.get("MASTER_ADDR") or ("127.0.0.1" if local == str(size) else _first_host(said, launcher))
    if not address:
        raise ConfigError(f"{launcher.name}: {size} processes and no address of the first; set MASTER_ADDR for all")
    return found | {"MASTER_ADDR": address}


def _here(said: Mapping[str, str]) -> str | None:
    """How many processes of the step are on this machine, from a list like `4(x2),1`."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", said.get("SLURM_STEP_TASKS_PER_NODE", ""))
    counts = [tasks for tasks, times in groups for _ in range(int(times or 1))]
    node = said.get("SLURM_NODEID", "0")
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else None


def _first_host(said: Mapping[str, str], launcher: Launcher) -> str | None:
    """Where process 0 of a step of Slurm is: on the first machine of its list, such as `gpu[03-05,9],login`. Where that
    name means nothing, on the machine that srun was called on."""
    if launcher.name != "srun":
        return None
    if said.get(_first(said, ("SLURM_STEP_NUM_NODES", "SLURM_NNODES")) or "") == "1":
        return "127.0.0.1"
    listed = said.get(_first(said, ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")) or "", "")
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", listed)
    host = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else "")
    known, other = re.fullmatch(r"[\w.-]+", host), said.get("SLURM_LAUNCH_NODE_IPADDR")
    return host if known and (not other or _has_address(host)) else other


def _has_address(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _first(said: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if said.get(name)), None)


def _number(said: Mapping[str, str], name: str, otherwise: str | None = None) -> int:
    text = said.get(name, otherwise)
    if text is None:
        raise ConfigError(f"{name} is not set, as the launcher should have done: which of the processes is this?")
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"{name}: must be a whole number (got {shown(text)})")
    return int(text)


def _below(said: Mapping[str, str], name: str, size: int) -> str:
    if (number := _number(said, name)) >= size:
        raise ConfigError(f"{name}={number}: there are {size} processes, counted from 0")
    return str(number)
