"""The number of concurrent requests: grows slowly while requests succeed, halves when the server is overloaded."""

from __future__ import annotations

import threading


class Gate:
    """Limits the threads that send requests to a window, and pauses all of them when the server asks to wait.

    The window grows additively and shrinks multiplicatively, as in TCP (Chiu and Jain 1989). Requests sent before it last
    shrank do not shrink it again, so that several refusals of one burst halve it once.

    Args:
        most: most concurrent requests.
        width: number of threads that may send at first; rounded down to whole requests.

    Attributes:
        generation: number of times the window was halved.
    """

    def __init__(self, most: int, width: float = 2.0) -> None:
        self.most, self.width, self.generation = most, min(width, float(most)), 0
        self._running = self._held = 0
        self._turn = threading.Condition()

    def enter(self, stop: threading.Event) -> int:
        """Wait until this thread may send; returns the window's generation, or -1 if ``stop`` was set meanwhile."""
        with self._turn:
            while self._held or self._running >= int(self.width):
                if stop.is_set():
                    return -1
                self._turn.wait(0.5)
            if stop.is_set():
                return -1
            self._running += 1
            return self.generation

    def leave(self, generation: int, *, well: bool, crowded: bool = False, hold: bool = False) -> None:
        """Record the end of a request.

        Args:
            generation: what :meth:`enter` returned.
            well: whether it was answered; the window grows by one after as many answers as its size.
            crowded: whether it failed in a way that fewer concurrent requests may prevent.
            hold: let no thread send until :meth:`release`.
        """
        with self._turn:
            self._running -= 1
            self._held += hold
            if well:
                self.width = min(float(self.most), self.width + 1.0 / self.width)
            elif crowded and generation == self.generation:
                self.width = max(1.0, self.width / 2)
                self.generation += 1
            self._turn.notify_all()

    def release(self) -> None:
        """End the pause that ``hold`` began."""
        with self._turn:
            self._held -= 1
            self._turn.notify_all()
