"""Runs tests against code with a fault in it: `python -m tests.mutant_runner`, one JSON line in, one out.

It has imported what is slow and nothing of what may be faulty, and forks for every line. The child puts the faulty
source in the place of one module before anything imports it, so that `from module import name` sees the fault too.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

import hypothesis
import peft
import pytest
import torch
import transformers.models.llama.modeling_llama

import rlaif.config
import rlaif.records

WARM = (hypothesis, peft, torch, transformers, rlaif.config, rlaif.records)
FAULTY = ("rlaif.training", "rlaif.models.local", "tests.t", "tests.conftest")
"""Must be imported by the child, and not before."""
OPTIONS = ["-q", "--no-header", "--override-ini=addopts=", "-p", "no:cacheprovider", "--tb=line", "--assert=plain"]
SECONDS = 600
"""Of computing; a fault that loops for ever ends there."""


class FaultyLoader(importlib.machinery.SourceFileLoader):
    """Compiles the given source instead of the file's."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class FaultyFinder(importlib.abc.MetaPathFinder):
    """Finds one module, with the fault in it."""

    def __init__(self, name: str, path: str, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != self.name:
            return None
        loader = FaultyLoader(self.name, self.path, self.source)
        return importlib.util.spec_from_file_location(self.name, self.path, loader=loader)


class Notes:
    """A pytest plugin that keeps what failed: in the test itself, or around it."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.broken: list[str] = []
        self.errors: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            (self.failed if report.failed else self.passed).append(report.nodeid)
        elif report.failed:
            self.broken.append(report.nodeid)

    def pytest_exception_interact(self, call: Any) -> None:
        self.errors.append(call.excinfo.type.__name__)


def work(order: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run the tests in this process, with files below `folder`."""
    early = [name for name in sys.modules if name.startswith(FAULTY)]
    assert not early, f"imported before the fault: {early}"
    if order["source"] is not None:
        sys.meta_path.insert(0, FaultyFinder(order["module"], order["path"], order["source"]))
    torch.set_num_threads(1)
    # Quick, the same every time, and nothing kept: what a fault breaks is no example for anybody.
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, database=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("mutants")
    notes = Notes()
    code = int(pytest.main([*OPTIONS, f"--basetemp={folder}/t", *order["options"], *order["nodes"]], plugins=[notes]))
    return {"code": code, **notes.__dict__}


def serve(order: dict[str, Any]) -> dict[str, Any]:
    """Fork, let the child work, and hand on what it says; a child that says nothing died."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as folder:
        if (child := os.fork()) == 0:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            with os.fdopen(writing, "w") as answer:
                json.dump(work(order, folder), answer)
            sys.stdout.flush()
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            said = answer.read()
        _, status = os.waitpid(child, 0)
        output.seek(0)
        text = output.read().decode(errors="replace")
    result = json.loads(said) if said else {"code": f"died ({status})", "failed": [], "broken": [], "errors": []}
    return result | {"output": text[-3000:]}


if __name__ == "__main__":
    gc.freeze()  # so that no child walks through all of torch
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
    os._exit(0)
