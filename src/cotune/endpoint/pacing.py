"""How many requests are under way at once: a little more after each that went well, half after one that did not."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Window:
    """Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain 1989).

    Requests that were sent before the last decrease say nothing about the present width, so a burst that is turned down
    halves it once.

    Attributes:
        most: requests at once at most.
        width: at present; whole requests count.
        generation: how often it was halved.
    """

    most: int
    width: float = 2.0
    generation: int = 0

    def __post_init__(self) -> None:
        self.width = min(self.width, float(self.most))

    def grow(self) -> None:
        """A request went well: one more after as many as fit at once."""
        self.width = min(float(self.most), self.width + 1.0 / self.width)

    def shrink(self, generation: int) -> None:
        """A request that began in ``generation`` was turned down."""
        if generation == self.generation:
            self.width = max(1.0, self.width / 2)
            self.generation += 1


@dataclass
class Gate:
    """Lets threads through as a :class:`Window` allows, and none while one of them waits as the server asked.

    Attributes:
        window: how many.
    """

    window: Window
    _running: int = 0
    _held: int = 0
    _turn: threading.Condition = field(default_factory=threading.Condition)

    def enter(self, stop: threading.Event) -> int:
        """Wait for one's turn; returns the window's generation, or -1 where ``stop`` was set meanwhile."""
        with self._turn:
            while self._held or self._running >= int(self.window.width):
                if stop.is_set():
                    return -1
                self._turn.wait(0.5)
            if stop.is_set():
                return -1
            self._running += 1
            return self.window.generation

    def leave(self, generation: int, *, well: bool, crowded: bool = False, hold: bool = False) -> None:
        """A request has ended.

        Args:
            generation: what :meth:`enter` gave.
            well: whether it was answered.
            crowded: whether it failed in a way that fewer at once might help.
            hold: let nobody through until :meth:`release`.
        """
        with self._turn:
            self._running -= 1
            self._held += hold
            if well:
                self.window.grow()
            elif crowded:
                self.window.shrink(generation)
            self._turn.notify_all()

    def release(self) -> None:
        """What was asked for has been waited for."""
        with self._turn:
            self._held -= 1
            self._turn.notify_all()
