"""A cache of scores on disk, so that neither a resumed run nor ``cotune try`` computes them again."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LIMIT = 200_000
_WAIT_S = 10.0


class ScoreCache:
    """A table from content hash to label scores, shared by processes.

    If the file is damaged or the disk is full, scoring continues without the cache.

    Args:
        path: the database file; created if missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection | None:
        patience = time.monotonic() + _WAIT_S
        damaged = False
        while True:
            connection = None
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS batches"
                    " (key TEXT PRIMARY KEY, rows INTEGER, labels INTEGER, tokens INTEGER, data BLOB)"
                )
                return connection
            except OSError:
                return None
            except sqlite3.OperationalError as error:
                # Busy or not writable, but not damaged: another process may be using the file.
                _close(connection)
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                    return None
                time.sleep(0.02)
            except sqlite3.DatabaseError:
                _close(connection)
                if damaged:
                    return None
                damaged = True
                for end in ("", "-wal", "-shm"):
                    with contextlib.suppress(OSError):
                        self._path.with_name(self._path.name + end).unlink()

    def get(self, key: str) -> tuple[NDArray[np.float64], int] | None:
        """``[rows, labels]`` scores stored under a key with the tokens that they cost, or None."""
        if self._connection is None:
            return None
        try:
            row = self._connection.execute("SELECT rows, labels, tokens, data FROM batches WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error:
            return None
        # A file written by another program may hold any value in any column.
        if row is None or not isinstance(row[3], bytes) or not all(isinstance(n, int) and n >= 0 for n in row[:3]):
            return None
        if len(row[3]) != row[0] * row[1] * 8:
            return None
        return np.frombuffer(row[3], dtype="<f8").reshape(row[0], row[1]).copy(), int(row[2])

    def put(self, key: str, scores: NDArray[np.float64], tokens: int) -> None:
        """Store scores and the tokens that they cost; the oldest entries are removed if there are too many."""
        if self._connection is None:
            return
        with contextlib.suppress(sqlite3.Error):
            data = np.ascontiguousarray(scores, dtype="<f8").tobytes()
            self._connection.execute(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?)", (key, *scores.shape, tokens, data)
            )
            self._connection.execute("DELETE FROM batches WHERE rowid < (SELECT MAX(rowid) FROM batches) - ?", (_LIMIT,))

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()
