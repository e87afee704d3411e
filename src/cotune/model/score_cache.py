"""Scores on disk, so that nothing is computed twice: neither on resume nor by ``cotune try``."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LIMIT = 200_000


class ScoreCache:
    """A table from content key to label scores, shared by processes.

    It is a cache and nothing more: where the file is damaged or the disk is full, scoring goes on without it.

    Args:
        path: the database file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection | None:
        for _ in range(2):
            try:
                connection = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, rows INTEGER, labels INTEGER, data BLOB)"
                )
                return connection
            except sqlite3.DatabaseError:
                with contextlib.suppress(OSError):
                    self._path.unlink()
        return None

    def get(self, key: str) -> NDArray[np.float64] | None:
        """``[rows, labels]`` scores stored under a key, or None."""
        if self._connection is None:
            return None
        try:
            found = self._connection.execute("SELECT rows, labels, data FROM scores WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error:
            return None
        if found is None or len(found[2]) != found[0] * found[1] * 8:
            return None
        return np.frombuffer(found[2], dtype="<f8").reshape(found[0], found[1]).copy()

    def put(self, key: str, scores: NDArray[np.float64]) -> None:
        """Store scores; the oldest entries leave when there are very many."""
        if self._connection is None:
            return
        with contextlib.suppress(sqlite3.Error):
            data = np.ascontiguousarray(scores, dtype="<f8").tobytes()
            self._connection.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", (key, *scores.shape, data))
            self._connection.execute("DELETE FROM scores WHERE rowid < (SELECT MAX(rowid) FROM scores) - ?", (_LIMIT,))

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
