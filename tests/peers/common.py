"""What every peer's script needs: a tiny reward model, preferences, and `rlaif serve` in a process of its own.

These scripts run in the peers' environments (`make peers`), by the project's interpreter with a folder of the peer's
packages before its own. pytest does not collect them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

WORK = Path(os.environ["RLAIF_PEERS_WORK"])
"""Made by tests/peers/run.py before any peer's script runs."""
MODEL, POLICY, PREFERENCES = WORK / "rm", WORK / "policy", WORK / "preferences.jsonl"
ROOT = Path(__file__).parents[2]


def close(found: float, wanted: float, what: str) -> None:
    """AssertionError unless both are the same score, to what batches differ by."""
    assert abs(found - wanted) < 1e-3, f"{what}: {found} instead of {wanted}"


def wanted(prompt: str = "Say it", text: str = "letters") -> float:
    """What the served reward model gives, from `rlaif.RewardModel` in an environment of the project's own."""
    import json

    return float(json.loads((WORK / "wanted.json").read_text())[f"{prompt}|{text}"])


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The URL of `rlaif serve` of the reward model, in the project's environment."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [
        sys.executable,
        "-m",
        "rlaif",
        "serve",
        str(MODEL),
        "--port",
        "0",
        "--out",
        str(WORK / f"served-{os.getpid()}"),
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=WORK)
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if "listening on" in line), None)
        assert line is not None, "rlaif serve did not start"
        yield line.split("listening on ", 1)[1].split(";")[0].strip()
    finally:
        process.terminate()
        process.wait(60)


def export(to: str, name: str) -> Path:
    """The preferences as `rlaif export` writes them, in the project's environment."""
    out = WORK / name
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "rlaif", "export", str(PREFERENCES), "--to", to, "--out", str(out)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=WORK)
    return out


def done(*what: str) -> None:
    """The line that the runner takes for the table."""
    print("RAN " + "; ".join(what))
