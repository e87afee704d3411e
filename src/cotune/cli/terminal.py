"""The terminal while something is drawn in it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from cotune.streams import terminal_without


@contextlib.contextmanager
def interrupts_unseen() -> Iterator[None]:
    """Keep the terminal from printing ``^C`` where an interrupt is typed.

    Printed behind a drawing as wide as the screen, it goes onto a new line: the drawing is then renewed a line too low, and its
    upper border stays standing above it.
    """
    try:
        import termios

        handle = sys.stdin.fileno()
        # A process in the background that sets the terminal is stopped for it.
        ours = os.isatty(handle) and os.tcgetpgrp(handle) == os.getpgrp()
    except (ImportError, OSError, ValueError):
        ours = False
    if not ours:
        yield
        return
    with terminal_without(handle, termios.ECHOCTL, termios.TCSANOW):
        yield
