"""What the doctor says of executors that need nothing installed, of a storage, and of Ray where it is not installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cotune.executor import Choice
from cotune.executor.doctor import diagnose_executor, read_from
from cotune.executor.opening import processes_of
from cotune.executor.storage import UrlStorage


def test_processes_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotune.executor.opening.usable_cpus", lambda: 8)
    monkeypatch.setattr("cotune.executor.doctor.usable_cpus", lambda: 8)
    monkeypatch.setattr("cotune.executor.opening.available_memory", lambda: 64 << 30)
    monkeypatch.setattr("cotune.executor.opening.default_threads", lambda: 8)
    assert [processes_of(Choice("processes", workers=n)) for n in (None, 1, 3, 16)] == [(8, 1), (1, 8), (3, 2), (16, 1)]
    (check,) = diagnose_executor(Choice("processes", workers=3))
    assert (check.status, check.finding) == ("ok", "3 workers, 2 threads each")
    (check,) = diagnose_executor(Choice("processes", workers=16))
    assert check.status == "warn" and check.hint == "Use fewer --workers."
    monkeypatch.setattr("cotune.executor.opening.default_threads", lambda: 1)
    assert processes_of(Choice("processes")) == (8, 1) and processes_of(Choice("processes", workers=2)) == (2, 1)
    assert diagnose_executor(Choice("local"))[0].status == "ok"


def test_ray_that_is_not_installed_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (check,) = diagnose_executor(Choice("ray"))
    assert check.status == "fail" and "ray is not installed" in check.finding
    assert check.hint == "Install it with: pip install 'cotune[ray]'."


def test_a_storage_is_written_to_read_and_left_empty(tmp_path: Path) -> None:
    url = f"local://{tmp_path}/store"
    workers, storage = diagnose_executor(Choice("processes", workers=1, storage=url))
    assert workers.status == storage.status == "ok"
    assert storage.name == "storage" and storage.finding.startswith(f"{url}, 0.")
    assert not [*(tmp_path / "store").iterdir()]


def test_a_storage_that_cannot_be_used_is_told_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotune.executor.storage._WAITS_S", (0.0,))
    (tmp_path / "store").write_text("a file, not a folder")
    _, storage = diagnose_executor(Choice("processes", workers=1, storage=f"local://{tmp_path}/store/below"))
    assert storage.status == "fail" and "could not write to the storage" in storage.finding
    assert storage.hint.startswith("Check the URL")


def test_a_node_reads_an_object_or_says_why_not(tmp_path: Path) -> None:
    storage = UrlStorage(f"local://{tmp_path}/store")
    with storage.trial() as name:
        assert read_from(storage.url, name) == ""
    assert read_from(storage.url, name) == "the object is not there"
    if not find_spec("s3fs"):
        assert "a package that is not installed" in read_from("s3://bucket/runs", name)
