"""Every fault in mutants.py turns the test that is named beside it red; without a fault all of them are green."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import FAULTS, Fault

ROOT = Path(__file__).parents[1]
NAMES = [f"{i}-{Path(fault.file).stem}" for i, fault in enumerate(FAULTS)]
OWN_MISTAKES = {"NameError", "AttributeError", "ImportError", "ModuleNotFoundError", "SyntaxError"}
"""What a test that catches a fault does not raise, and a fault that is written wrong does."""


class Runner:
    """A warm process that runs tests with a fault in one module (mutant_runner.py)."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutant_runner"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        )

    def run(self, nodes: list[str], fault: Fault | None = None) -> dict[str, Any]:
        """The outcome of these tests: pytest's code, and what passed, failed or broke."""
        order: dict[str, Any] = {"nodes": [f"tests/{node}" for node in nodes], "source": None, "options": []}
        if fault is not None:
            name = "rlaif." + fault.file.removesuffix(".py").replace("/", ".")
            # One red test is enough.
            order |= {"module": name, "path": str(path_of(fault)), "source": with_fault(fault), "options": ["-x"]}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        result: dict[str, Any] = json.loads(self.process.stdout.readline())
        return result

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    found = Runner()
    yield found
    found.close()


def path_of(fault: Fault) -> Path:
    return ROOT / "rlaif" / fault.file


def with_fault(fault: Fault) -> str:
    source = path_of(fault).read_text(encoding="utf-8")
    assert source.count(fault.old) == 1, (
        f"rlaif/{fault.file} has {fault.old!r} {source.count(fault.old)} times, not once: update tests/mutants.py"
    )
    return source.replace(fault.old, fault.new)


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_a_fault_has_its_place(fault: Fault) -> None:
    assert with_fault(fault) != path_of(fault).read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_a_fault_every_named_test_passes(runner: Runner) -> None:
    nodes = sorted({fault.caught_by for fault in FAULTS})
    result = runner.run(nodes)
    assert result["code"] == 0, result["output"]
    assert all(any(passed.startswith(f"tests/{node}") for passed in result["passed"]) for node in nodes)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_a_fault_is_caught(fault: Fault, runner: Runner) -> None:
    result = runner.run([fault.caught_by], fault)
    assert result["code"] == 1, f"{fault.old!r} -> {fault.new!r} ({fault.harm}) is not caught:\n{result['output']}"
    assert result["failed"], f"not the test but what is around it failed: {result['broken']}\n{result['output']}"
    assert not OWN_MISTAKES & set(result["errors"]), result["output"]


def test_there_are_at_least_twenty_and_no_two_are_the_same() -> None:
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS) >= 24
