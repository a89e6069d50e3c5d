"""`make peers`: each peer from the package index, in a folder of its own, runs its own code on what rlaif makes.

A folder holds what the peer needs in other versions than the project has; torch and the rest are the project's. What
has no wheel for a CPU (flash-attn, vllm, deepspeed) is left out: no code under test needs it. Prints a line per peer.

    python tests/peers/run.py            all of them
    python tests/peers/run.py trl verl   these
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".peers"
LAST = 600
"""Seconds that one peer may take."""


class Peer(NamedTuple):
    """One environment and what is run in it."""

    package: str
    needs: tuple[str, ...] = ()
    """More packages, each without its own."""
    deep: bool = False
    """Whether pip brings what the package needs, too."""
    script: tuple[str, ...] = ()
    """A module of tests/peers and its arguments, where it is not called like the peer."""
    drop: str = ""
    """A folder to take out: compiled for CUDA's torch, and not under test."""


HUB = ("huggingface-hub<2", "tokenizers==0.22.2")
HYDRA = ("omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3")
PEERS = {
    "trl": Peer("trl==1.16.0"),
    "openrlhf": Peer("openrlhf==0.11.2", ("transformers==5.15.0", *HUB, "pylatexenc", "optimum", "loralib")),
    "llamafactory": Peer(
        "llamafactory==0.9.5",
        (
            "transformers==5.6.0",
            *HUB,
            "trl==0.24.0",
            "datasets==4.0.0",
            "peft==0.18.1",
            "accelerate==1.11.0",
            *HYDRA,
            "torchaudio==2.11.0",
            "av",
        ),
        drop="torchaudio/lib",
    ),
    "verl": Peer(
        "verl==0.9.1",
        (
            "transformers==5.9.0",
            *HUB,
            *HYDRA,
            "tensordict==0.10.0",
            "ray==2.60.0",
            "hydra-core",
            "codetiming",
            "torchdata",
            "pylatexenc",
            "pyvers",
            "orjson",
            "cloudpickle",
        ),
    ),
    "wandb": Peer("wandb==0.31.0", deep=True, script=("trackers", "wandb")),
    "trackio": Peer("trackio==0.43.0", deep=True, script=("trackers", "trackio")),
    "mlflow": Peer("mlflow-skinny==3.17.2", ("sqlalchemy", "alembic"), deep=True, script=("trackers", "mlflow")),
}


def main(names: list[str]) -> int:
    """The number of peers that failed."""
    if unknown := [name for name in names if name not in PEERS]:
        sys.exit(f"{unknown[0]}: no such peer; they are {', '.join(PEERS)}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rlaif-peers-") as work:
        run(["-m", "tests.peers.prepare"], environment(work))
        for name in names or PEERS:
            peer = PEERS[name]
            result = install(name, peer) or tried(name, peer, work)
            failed += not result.startswith("ok")
            print(f"| {name} | {peer.package.partition('==')[2]} | {result} |", flush=True)
    return failed


def install(name: str, peer: Peer) -> str:
    """Nothing, or why it could not be. What is installed already stays."""
    target, packages = FOLDER / name, (peer.package, *peer.needs)
    listed = target / "packages.txt"
    if listed.exists() and listed.read_text().splitlines() == list(packages):
        return ""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    options = [] if peer.deep else ["--no-deps"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
    made = subprocess.run(
        [*command, "--target", str(target), *options, *packages], capture_output=True, text=True, check=False
    )
    if made.returncode:
        return f"could not be installed: {last(made.stderr)}"
    if peer.drop:
        shutil.rmtree(target / peer.drop)
    listed.write_text("\n".join(packages))
    return ""


def tried(name: str, peer: Peer, work: str) -> str:
    """What its script says that it ran, or how it failed."""
    module, *arguments = peer.script or (name,)
    try:
        output = run(["-m", f"tests.peers.{module}", *arguments], environment(work, FOLDER / name))
    except subprocess.CalledProcessError as error:
        (FOLDER / f"{name}.log").write_text(f"{error.stdout}\n{error.stderr}")
        return f"failed: {last(error.stderr)}"
    except subprocess.TimeoutExpired:
        return f"failed: nothing within {LAST} s"
    return "ok: " + next(line.removeprefix("RAN ") for line in output.splitlines() if line.startswith("RAN "))


def run(words: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *words], env=variables, cwd=ROOT, capture_output=True, text=True, check=True, timeout=LAST
    )
    return done.stdout


def environment(work: str, *folders: Path) -> dict[str, str]:
    """This process's, with nothing that would ask the network or another version of a package."""
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "WANDB_DIR": work, "TRACKIO_DIR": f"{work}/trackio"}
    there = {
        "RLAIF_PEERS_WORK": work,
        "DISABLE_VERSION_CHECK": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db",
    }
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    return {**os.environ, **offline, **there, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}


def last(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("WARNING", "[notice"))]
    return lines[-1][:200] if lines else "without a word"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
