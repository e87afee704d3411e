"""The number of concurrent requests: grows slowly while requests succeed, halves when the server is overloaded."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Window:
    """Additive increase, multiplicative decrease, as in TCP (Chiu and Jain 1989).

    Requests sent before the last decrease do not count, so that several refusals of one burst halve the width once.

    Attributes:
        most: most concurrent requests.
        width: present width; rounded down to whole requests.
        generation: number of times the width was halved.
    """

    most: int
    width: float = 2.0
    generation: int = 0

    def __post_init__(self) -> None:
        self.width = min(self.width, float(self.most))

    def grow(self) -> None:
        """Record a success; the width grows by one after as many successes as its size."""
        self.width = min(float(self.most), self.width + 1.0 / self.width)

    def shrink(self, generation: int) -> None:
        """Record that a request which began in ``generation`` was refused for overload."""
        if generation == self.generation:
            self.width = max(1.0, self.width / 2)
            self.generation += 1


@dataclass
class Gate:
    """Limits the threads that send requests to a :class:`Window`, and pauses all of them when the server asks to wait.

    Attributes:
        window: the number of threads that may send at once.
    """

    window: Window
    _running: int = 0
    _held: int = 0
    _turn: threading.Condition = field(default_factory=threading.Condition)

    def enter(self, stop: threading.Event) -> int:
        """Wait until this thread may send; returns the window's generation, or -1 if ``stop`` was set meanwhile."""
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
        """Record the end of a request.

        Args:
            generation: what :meth:`enter` returned.
            well: whether it was answered.
            crowded: whether it failed in a way that fewer concurrent requests may prevent.
            hold: let no thread send until :meth:`release`.
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
        """End the pause that ``hold`` began."""
        with self._turn:
            self._held -= 1
            self._turn.notify_all()
