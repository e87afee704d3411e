"""A stopwatch for model work within steps that do other things too."""

from __future__ import annotations

import time
from typing import Any


class Stopwatch:
    """Adds up the seconds that pass inside its ``with`` blocks, until a step records them as its ``seconds``."""

    def __init__(self) -> None:
        self._seconds = self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *raised: object) -> None:
        self._seconds += time.monotonic() - self._started

    def taken(self) -> dict[str, float]:
        """``seconds`` since the last call, for a step's record."""
        seconds, self._seconds = self._seconds, 0.0
        return {"seconds": round(seconds, 3)}


def untimed(recorded: dict[str, Any]) -> dict[str, Any]:
    """A step's record without its ``seconds``, so that a resumed run gives an equal one."""
    return {name: item for name, item in recorded.items() if name != "seconds"}
