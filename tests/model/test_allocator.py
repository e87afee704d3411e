"""Freed memory stays in the process, and large tensors lie on huge pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIAL = """
import resource, sys
from cotune.model.hardware.allocator import settle_memory
if sys.argv[1] == "keep":
    assert settle_memory()
import numpy as np
def work():
    for _ in range(10):
        np.ones(8_000_000)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    return int(subprocess.run([sys.executable, "-c", TRIAL, mode], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_large_blocks_are_not_mapped_anew() -> None:
    assert faults("keep") < faults("plain") / 10


PIECES = """
from pathlib import Path
from cotune.model.hardware.allocator import return_freed_memory, settle_memory
settle_memory()
import numpy as np
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS"))
before = resident()
large, small = [], []
for _ in range(200):
    large.append(np.ones(250_000))
    small.append(np.ones(100))
large.clear()
kept = resident() - before
assert return_freed_memory()
print(kept, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_freed_memory_between_used_blocks_is_returned_on_demand() -> None:
    found = subprocess.run([sys.executable, "-c", PIECES], check=True, capture_output=True, text=True).stdout.split()
    kept, left = map(int, found)
    assert kept > 300 and left < 50, "in MiB, of 380"


HUGE = """
import torch
from cotune.model.hardware.allocator import settle_memory
settle_memory()
large = torch.empty(64 << 20, dtype=torch.uint8)
print(sum(line.startswith("VmFlags") and " hg" in line for line in open("/proc/self/smaps")))
"""


def has_huge_pages() -> bool:
    return Path("/sys/kernel/mm/transparent_hugepage/enabled").is_file() and Path("/proc/self/smaps").is_file()


@pytest.mark.skipif(not has_huge_pages(), reason="this system has no huge pages to ask for")
@pytest.mark.parametrize(("wish", "asked"), [(None, True), ("0", False)])
def test_large_tensors_ask_for_huge_pages(wish: str | None, asked: bool) -> None:
    """A wish of the user's own counts."""
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if wish is None else {"THP_MEM_ALLOC_ENABLE": wish}
    found = subprocess.run([sys.executable, "-c", HUGE], check=True, capture_output=True, text=True, env=environment)
    assert (int(found.stdout) > 0) == asked
