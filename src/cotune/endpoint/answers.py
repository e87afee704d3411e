"""A cache of answers on disk. An answer is written before it is used, so that a killed run never pays for it twice."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from cotune.errors import InputError

_WAIT_S = 10.0


class AnswerCache:
    """A table from content hash to answer (a JSON value). Thread-safe.

    Answers cost money, unlike scores, so errors of reading and writing are raised.

    Args:
        path: the database file; created if missing.

    Raises:
        InputError: if the file cannot be opened or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # FULL: an answer that was used must survive a power failure too.
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise self._failed("opened", error) from error

    def get(self, key: str) -> Any:
        """The answer stored under a key, or None."""
        try:
            with self._lock:
                found = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            return None if found is None else json.loads(found[0])
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._failed("read", error) from error

    def put(self, key: str, answer: Any) -> None:
        """Store an answer; it is on disk when this returns."""
        text = json.dumps(answer, ensure_ascii=True, allow_nan=False)
        try:
            with self._lock:
                self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))
        except sqlite3.Error as error:
            raise self._failed("written", error) from error

    def __len__(self) -> int:
        with self._lock:
            count: int = self._connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        return count

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _failed(self, what: str, error: Exception) -> InputError:
        return InputError(
            f"the stored answers of the endpoint cannot be {what} ({error})",
            where=str(self._path),
            hint="Free some disk space. If the file is damaged, move it away; its answers are then requested again.",
        )


def holds_answers(path: Path) -> bool:
    """Whether a database file of an :class:`AnswerCache` may hold an answer; True if it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)) as opened:
            return bool(opened.execute("SELECT EXISTS (SELECT 1 FROM answers)").fetchone()[0])
    except sqlite3.Error:
        return True
