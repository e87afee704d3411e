from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cotune.model.engine import score_cache
from cotune.model.engine.score_cache import ScoreCache

WRITER = """
import sys
from pathlib import Path
import numpy as np
from cotune.model.engine.score_cache import ScoreCache
sys.stdin.readline()
cache = ScoreCache(Path(sys.argv[1]))
for i in range(300):
    cache.put(f"{sys.argv[2]}-{i}", np.full((2, 3), float(i)), i)
    cache.put(f"both-{i}", np.full((1, 2), float(i)), i)
cache.close()
"""


def test_scores_come_back_bit_for_bit(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(5, 7))
    scores[2, 3] = -np.inf
    cache = ScoreCache(tmp_path / "deep" / "scores.sqlite")
    cache.put("a", scores, 41)
    cache.close()
    again = ScoreCache(tmp_path / "deep" / "scores.sqlite")
    found = again.get("a")
    assert found is not None and found[1] == 41
    assert found[0].tobytes() == scores.tobytes() and found[0].shape == (5, 7)
    found[0][0, 0] = 1.0  # what comes back belongs to the caller
    assert again.get("b") is None


def test_two_processes_open_and_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True) for name in ("left", "right")]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    cache = ScoreCache(path)
    for name in ("left", "right", "both"):
        for i in range(300):
            found = cache.get(f"{name}-{i}")
            assert found is not None and (found[0] == i).all(), f"{name}-{i} was lost"


def test_a_file_locked_by_another_process_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.sqlite"
    first = ScoreCache(path)
    first.put("a", np.ones((1, 1)), 1)
    first.close()
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("PRAGMA journal_mode=DELETE")
        holder.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(score_cache, "_WAIT_S", 0.05)
        locked_out = ScoreCache(path)
        assert locked_out.get("a") is None
        locked_out.put("b", np.ones((1, 1)), 1)
        holder.execute("COMMIT")
    holder.close()
    found = ScoreCache(path).get("a")
    assert found is not None, "a busy file was thrown away"


@pytest.mark.parametrize("damage", [b"", b"this is no database" * 400, None])
def test_a_damaged_file_is_survived(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "scores.sqlite"
    cache = ScoreCache(path)
    for i in range(200):
        cache.put(f"k{i}", np.full((8, 8), float(i)), 1)
    cache.close()
    whole = path.read_bytes()
    # None keeps the header and spoils the pages behind it
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096) if damage is None else damage)
    again = ScoreCache(path)
    for i in range(200):
        found = again.get(f"k{i}")
        assert found is None or (found[0] == i).all()
    again.put("new", np.ones((1, 1)), 1)
    if damage is not None:
        assert again.get("new") is not None


def test_a_row_of_the_wrong_size_is_no_hit(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    cache = ScoreCache(path)
    cache.put("a", np.ones((2, 2)), 1)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE batches SET labels = 3")
    assert cache.get("a") is None


@pytest.mark.parametrize(
    "change", ["data = NULL", "rows = NULL", "tokens = 'x'", "data = 1", "data = 'aaaaaaaa'", "labels = -2"]
)
def test_a_row_of_something_else_is_no_hit(tmp_path: Path, change: str) -> None:
    path = tmp_path / "scores.sqlite"
    cache = ScoreCache(path)
    cache.put("a", np.ones((1, 1)), 1)
    with sqlite3.connect(path) as other:
        other.execute(f"UPDATE batches SET {change}")
    assert cache.get("a") is None


def test_a_folder_that_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ScoreCache(tmp_path / "file" / "scores.sqlite")  # even root cannot make a folder below a file
    cache.put("a", np.ones((1, 1)), 1)
    assert cache.get("a") is None


def test_the_oldest_leave_when_there_are_very_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_cache, "_LIMIT", 10)
    cache = ScoreCache(tmp_path / "scores.sqlite")
    for i in range(30):
        cache.put(f"k{i}", np.ones((1, 1)), 1)
    assert cache.get("k0") is None and cache.get("k29") is not None
