"""Freed memory is kept for the next tensor, and given back when another process should have it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from rlaif.models.local import allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        torch.ones(2**24).sum()  # 64 MB, 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

if {keep}:
    allocator.keep_freed()
faults()  # small things settle between the large ones meanwhile
again = faults()
full = resident()
allocator.give_back()
print(again, full - resident())
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
    assert kept < 6000
    if usual > 60_000:  # elsewhere than with 4 KB pages and glibc there is nothing to save
        assert returned > 8000
