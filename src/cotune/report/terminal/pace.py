"""How fast a run goes, how long it has gone on, and how long it still will."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from cotune.report.terminal.plain import number


class Pace:
    """Rolling tokens a second, elapsed active time, and time left between two reports of it.

    Args:
        now: seconds of a clock that never goes back.
        window: seconds that the rate looks back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, window: float = 15.0) -> None:
        self._now, self._window = now, window
        self._samples: deque[tuple[float, int]] = deque()
        self._active, self._active_at = 0.0, now()
        self._left: tuple[float, float] | None = None
        self.tokens = 0

    def saw_event(self, event: Mapping[str, Any]) -> None:
        """Set the active time by an event's own."""
        if (active := number(event.get("active_s"))) is not None:
            self._active, self._active_at = active, self._now()

    def saw_tokens(self, tokens: int) -> None:
        """So many tokens were just finished."""
        self.tokens += tokens
        self._samples.append((self._now(), tokens))
        self._forget()

    def set_left(self, seconds: float | None) -> None:
        """The run is expected to last so long from now on."""
        found = number(seconds)
        self._left = None if found is None else (found, self._now())

    @property
    def elapsed(self) -> float:
        """Active seconds of the run, earlier sessions included."""
        return self._active + self._now() - self._active_at

    @property
    def left(self) -> float | None:
        """Seconds to the end, counted down since they were last set."""
        return None if self._left is None else max(0.0, self._left[0] - (self._now() - self._left[1]))

    @property
    def rate(self) -> float | None:
        """Tokens a second over the window; None where too little was seen in it."""
        self._forget()
        if len(self._samples) < 2 or (span := self._samples[-1][0] - self._samples[0][0]) <= 0:
            return None
        # The first sample's tokens were run before its time, the others' since then.
        return sum(tokens for _, tokens in list(self._samples)[1:]) / span

    def _forget(self) -> None:
        while self._samples and self._samples[0][0] < self._now() - self._window:
            self._samples.popleft()
