"""A file system of fsspec that fails when it is told to: a folder of this machine, under the protocol ``failing``."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Failing(LocalFileSystem):
    """Raises what ``errors`` holds, one a call, and counts calls by name."""

    protocol = "failing"
    errors: ClassVar[list[Exception]] = []
    calls: ClassVar[Counter[str]] = Counter()
    lock = threading.Lock()

    def cat_file(self, path: str, *more: Any, **named: Any) -> Any:
        self._met("cat_file")
        return super().cat_file(path, *more, **named)

    def info(self, path: str, **named: Any) -> Any:
        self._met("info")
        return super().info(path, **named)

    def pipe_file(self, path: str, value: bytes, **named: Any) -> Any:
        # What fails has written something already.
        super().pipe_file(path, value[: len(value) // 2], **named)
        self._met("pipe_file")
        return super().pipe_file(path, value, **named)

    def _met(self, name: str) -> None:
        with self.lock:
            self.calls[name] += 1
            if self.errors:
                raise self.errors.pop(0)


def reset(*errors: Exception) -> None:
    """Raise these next; no call has been counted."""
    fsspec.register_implementation("failing", Failing, clobber=True)
    Failing.errors[:] = errors
    Failing.calls.clear()
