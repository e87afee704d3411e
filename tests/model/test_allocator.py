"""Freed memory stays in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRIAL = """
import resource, sys
from cotune.model.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
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
