"""The terminal while something is drawn in it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


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
    before = termios.tcgetattr(handle)
    changed = termios.tcgetattr(handle)
    changed[3] &= ~termios.ECHOCTL
    try:
        termios.tcsetattr(handle, termios.TCSANOW, changed)
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(handle, termios.TCSANOW, before)
