"""What the doctor says of executors that need nothing installed, and of Ray where it is not."""

from __future__ import annotations

import sys

import pytest

from cotune.executor import Choice
from cotune.executor.doctor import diagnose_executor
from cotune.executor.opening import processes_of


def test_processes_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotune.executor.opening.usable_cpus", lambda: 8)
    monkeypatch.setattr("cotune.executor.doctor.usable_cpus", lambda: 8)
    monkeypatch.setattr("cotune.executor.opening.available_memory", lambda: 64 << 30)
    monkeypatch.setattr("cotune.executor.opening.default_threads", lambda: 8)
    assert [processes_of(Choice("processes", workers=n)) for n in (None, 1, 3, 16)] == [(8, 1), (1, 8), (3, 2), (16, 1)]
    (check,) = diagnose_executor(Choice("processes", workers=3))
    assert (check.status, check.finding) == ("ok", "3 workers, 2 threads each")
    (check,) = diagnose_executor(Choice("processes", workers=16))
    assert check.status == "warn" and check.hint == "Give fewer --workers."
    monkeypatch.setattr("cotune.executor.opening.default_threads", lambda: 1)
    assert processes_of(Choice("processes")) == (8, 1) and processes_of(Choice("processes", workers=2)) == (2, 1)
    assert diagnose_executor(Choice("local"))[0].status == "ok"


def test_ray_that_is_not_installed_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (check,) = diagnose_executor(Choice("ray"))
    assert check.status == "fail" and "ray is not installed" in check.finding
    assert check.hint == "Install it with: pip install 'cotune[ray]'."
