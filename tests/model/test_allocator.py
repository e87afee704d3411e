"""Freed memory stays in the process, and large tensors lie on huge pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIAL = """
import resource, sys
from cotune.model.allocator import settle_memory
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


HUGE = """
import torch
from cotune.model.allocator import settle_memory
settle_memory()
large = torch.ones(64 << 20, dtype=torch.uint8)
print(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")))
"""


def gives_huge_pages_when_asked() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.is_file() and "[madvise]" in setting.read_text()


@pytest.mark.skipif(not gives_huge_pages_when_asked(), reason="this kernel does not wait to be asked for huge pages")
@pytest.mark.parametrize(("wish", "huge"), [(None, True), ("0", False)])
def test_large_tensors_ask_for_huge_pages(wish: str | None, huge: bool) -> None:
    """A wish of the user's own counts."""
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if wish is None else {"THP_MEM_ALLOC_ENABLE": wish}
    found = subprocess.run([sys.executable, "-c", HUGE], check=True, capture_output=True, text=True, env=environment)
    # Half of it will do: the kernel gives what it has.
    assert (int(found.stdout) >= 32 << 10) == huge
