"""At home on the machine it finds: number format and threads by what there is; freed memory is kept for the next
tensor, and given back when another process should have it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from rlaif import processes
from rlaif.audits.requirement import identity
from rlaif.config import Recipe, load_recipe
from rlaif.config.models import LocalModel, VllmModel
from rlaif.constitution import load_constitution
from rlaif.models.local import machine
from rlaif.models.local.machine import (
    Clock,
    Share,
    free_cores,
    multiplies_bf16,
    resolve,
    settled,
    threads_for,
    torch_dtype,
)


@pytest.fixture(autouse=True)
def _asked_anew() -> Any:
    for cached in (resolve, multiplies_bf16):
        cached.cache_clear()
    yield
    for cached in (resolve, multiplies_bf16):
        cached.cache_clear()


def on_a_machine(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(machine, "multiplies_bf16", lambda: bf16)


# ------------------------------------------------------------------------------------------------- number format


def test_auto_is_the_default_of_every_model() -> None:
    assert LocalModel(model="m").dtype == VllmModel(model="m").dtype == "auto"


def test_auto_is_bf16_where_it_is_multiplied_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, bf16=True)
    assert torch_dtype("auto") == torch.bfloat16
    resolve.cache_clear()
    on_a_machine(monkeypatch, bf16=False)
    assert torch_dtype("auto") == torch.float32


def test_an_explicit_format_is_obeyed_and_a_costly_one_remarked_on_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_machine(monkeypatch, bf16=False)
    costs = {torch.bfloat16: 0.08, torch.float32: 0.01}
    monkeypatch.setattr(machine, "seconds_per_product", costs.__getitem__)
    assert (resolve("bfloat16"), resolve("bfloat16"), resolve("float32")) == ("bfloat16", "bfloat16", "float32")
    shown = capsys.readouterr().out
    assert shown == ("dtype bfloat16: this machine emulates it, 8 times slower than float32 (dtype=auto takes that)\n")
    resolve.cache_clear()
    on_a_machine(monkeypatch, bf16=True)
    resolve("bfloat16")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("architecture", "capabilities", "expected"),
    [
        ("x86_64", {"avx2": True}, False),
        ("x86_64", {"avx512_f": True, "avx512_bf16": False}, False),
        ("x86_64", {"avx512_f": True, "avx512_bf16": True}, True),
        ("AMD64", {"amx_bf16": True}, True),
    ],
)
def test_torch_is_asked_what_the_cpu_multiplies(
    architecture: str, capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(machine, "seconds_per_product", lambda kind: pytest.fail("it need not be measured"))
    assert multiplies_bf16() is expected


@pytest.mark.parametrize("faster", [False, True])
def test_a_cpu_that_torch_does_not_know_is_measured(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    costs = {torch.bfloat16: 0.5 if faster else 2.0, torch.float32: 1.0}
    monkeypatch.setattr(machine, "seconds_per_product", costs.__getitem__)
    assert multiplies_bf16() is faster


def test_a_gpu_without_bf16_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert not multiplies_bf16()


def test_a_product_is_measured() -> None:
    assert machine.seconds_per_product(torch.float32) > 0


PANEL = (
    "label.mode={kind: panel, members: [{name: one, model: {backend: local, model: m}}, "
    "{name: two, model: {backend: vllm, model: m, dtype: float32}}]}"
)


def test_every_auto_of_a_recipe_is_settled_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, bf16=True)
    found = settled(load_recipe("quickstart", [PANEL, "reference={backend: vllm, model: m}"]))
    assert "auto" not in str(found.model_dump())
    members = found.model_dump()["label"]["mode"]["members"]
    assert [member["model"]["dtype"] for member in members] == ["bfloat16", "float32"]
    assert found.policy.dtype == found.judge.dtype == found.compared_with.dtype == "bfloat16"  # type: ignore[union-attr]


def test_a_run_goes_on_in_the_format_in_which_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, bf16=False)
    began = settled(load_recipe("quickstart"))
    resolve.cache_clear()
    on_a_machine(monkeypatch, bf16=True)
    again = settled(load_recipe("quickstart"), began)
    assert again == began and again.policy.dtype == "float32"
    changed = settled(load_recipe("quickstart", ["policy.dtype=bfloat16"]), began)
    assert (changed.policy.dtype, changed.judge.dtype) == ("bfloat16", "float32")  # type: ignore[union-attr]


def test_an_audit_holds_for_auto_and_for_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, bf16=False)

    def about(recipe: Recipe) -> dict[str, Any]:
        return identity(recipe, load_constitution(recipe.constitution))

    auto = load_recipe("quickstart")
    assert about(auto) == about(settled(auto))
    assert about(auto) != about(load_recipe("quickstart", ["judge.dtype=bfloat16"]))


# ------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize(
    ("busy", "own", "free", "threads"),
    [
        (20.0, 20.0, 2.0, 2),  # all of it is ours
        (20.0, 10.0, 1.0, 1),  # another process has one core
        (20.0, 13.0, 1.3, 1),  # three threads share two cores: it gets two thirds of one
        (12.0, 10.0, 1.8, 2),
        (20.0, 0.0, 0.0, 1),  # never none
        (9.0, 10.0, 2.0, 2),  # counters of different grain
    ],
)
def test_cores_that_others_use_are_left_to_them(busy: float, own: float, free: float, threads: int) -> None:
    """Ten seconds on a machine of two cores."""
    found = free_cores(Clock(5.0, 100.0, 50.0), Clock(15.0, 100.0 + busy, 50.0 + own), 2)
    assert found == pytest.approx(free)
    assert threads_for(found, 2) == threads


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process that may use two cores of two; what torch is told."""
    told = [2]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: told[-1])
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


def clocks(monkeypatch: pytest.MonkeyPatch, readings: list[Clock]) -> None:
    """What the machine says; the time between two looks is long enough."""
    left = iter(readings)
    monkeypatch.setattr(machine, "clock", lambda: next(left))
    monkeypatch.setattr(machine, "EVERY_S", -1e9)


def test_threads_follow_what_others_do(monkeypatch: pytest.MonkeyPatch, two_threads: list[int]) -> None:
    clocks(monkeypatch, [Clock(0, 0, 0), Clock(1, 1, 0), Clock(3, 5, 2), Clock(5, 7, 4), Clock(7, 11, 8)])
    share = Share()
    for _ in range(4):
        share.update()
    assert two_threads == [2, 1, 2], "one while another process computes, two when it has ended; told only of changes"


def test_who_says_how_many_threads_is_obeyed(monkeypatch: pytest.MonkeyPatch, two_threads: list[int]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(machine, "clock", lambda: pytest.fail("there is nothing to find out"))
    Share().update()
    monkeypatch.delenv("OMP_NUM_THREADS")
    clocks(monkeypatch, [Clock(0, 0, 0), Clock(1, 0, 0), Clock(2, 2, 0)])
    share = Share()
    share.update()
    two_threads.append(3)  # the user's own torch.set_num_threads
    share.update()
    assert two_threads == [2, 3]


def test_the_clock_counts_this_process_among_all() -> None:
    before = machine.clock()
    sum(range(3_000_000))
    after = machine.clock()
    assert after.wall > before.wall and after.own > before.own and after.busy >= before.busy


def test_a_container_gives_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "CGROUP", tmp_path)
    bound = processes.cores()
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda pid: range(64), raising=False)
    assert bound >= 1 and processes.cores() == 64
    for text, expected in (("max 100000", 64), ("250000 100000", 3), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert processes.cores() == expected


def test_one_thread_and_two_give_the_same_bits() -> None:
    """A run may change its threads midway, and a killed one goes on with others."""
    a, b = (
        torch.randn(64, 576, generator=torch.Generator().manual_seed(0)),
        torch.randn(1536, 576, generator=torch.Generator().manual_seed(1)),
    )
    a.requires_grad_(True)
    usual = torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        a.grad = None
        torch.nn.functional.silu(torch.nn.functional.linear(a, b)).sum().backward()
        assert a.grad is not None
        found.append(a.grad.clone())
    torch.set_num_threads(usual)
    assert torch.equal(*found)


# -------------------------------------------------------------------------------------------------------- memory

PROGRAM = """
import resource, statistics, torch
from rlaif.models.local import machine

def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24).sum()  # 64 MB, 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

if {keep}:
    machine.keep_freed()
# Now and then something small settles in the freed room, and the next tensor needs another one: not the rule.
usual = statistics.median(fresh_pages() for _ in range(15))
full = resident()
machine.give_back()
print(int(usual), full - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the page counts are those of Linux")
def test_kept_memory_has_no_fresh_pages_until_it_is_given_back() -> None:
    def run(keep: bool) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, text=True, check=True
        )
        return [int(word) for word in done.stdout.split()]

    (usual, _), (kept, returned) = run(keep=False), run(keep=True)
    assert kept < 1000
    if usual > 10_000:  # elsewhere than with 4 KB pages and glibc there is nothing to save
        assert returned > 8000


def test_what_is_kept_beyond_the_plan_goes_back_between_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(machine, "give_back", lambda: told.append(1))
    machine.trim()
    with machine.heap_within(1e12):
        machine.trim()
    assert told == []
    with machine.heap_within(-1.0):
        machine.trim()
    assert told == [1]
