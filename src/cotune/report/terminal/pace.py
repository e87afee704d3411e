"""Throughput, elapsed time and remaining time of a run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from cotune.plain import number


class Pace:
    """Rolling tokens per second, elapsed active time, and the remaining time, counted down between two estimates.

    Args:
        now: monotonic clock in seconds.
        window: seconds over which the rate is averaged.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, window: float = 15.0) -> None:
        self._now, self._window = now, window
        self._samples: deque[tuple[float, int]] = deque()
        self._active, self._active_at = 0.0, now()
        self._left: tuple[float, float] | None = None
        self.tokens = 0

    def saw_event(self, event: Mapping[str, Any]) -> None:
        if (active := number(event.get("active_s"))) is not None:
            self._active, self._active_at = active, self._now()

    def saw_tokens(self, tokens: int) -> None:
        self.tokens += tokens
        self._samples.append((self._now(), tokens))
        self._forget()

    def set_left(self, seconds: float | None) -> None:
        left = number(seconds)
        self._left = None if left is None else (left, self._now())

    @property
    def elapsed(self) -> float:
        """Active seconds of the run, including earlier sessions."""
        return self._active + self._now() - self._active_at

    @property
    def left(self) -> float | None:
        """Remaining seconds, counted down since they were last set."""
        return None if self._left is None else max(0.0, self._left[0] - (self._now() - self._left[1]))

    @property
    def rate(self) -> float | None:
        """Tokens per second over the window; None with too few samples."""
        self._forget()
        if len(self._samples) < 2 or (span := self._samples[-1][0] - self._samples[0][0]) <= 0:
            return None
        # The first sample's tokens were processed before its time stamp, those of the others since then.
        return sum(tokens for _, tokens in list(self._samples)[1:]) / span

    def _forget(self) -> None:
        while self._samples and self._samples[0][0] < self._now() - self._window:
            self._samples.popleft()
