"""The terminal: its width and line wrapping, and interrupts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn, TextIO

from cotune.streams import terminal_without

if TYPE_CHECKING:
    from rich.console import Console

_UNWRAPPED = 10_000
"""Width for output that is not a terminal, so that programs get whole lines."""
_COMMAND = ": cotune "


def out_console() -> Console:
    """Standard output for tables and long texts, which are wrapped only on a terminal or if ``COLUMNS`` is set."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _UNWRAPPED)


def wrapped(text: str, stream: TextIO) -> str:
    """A message wrapped at words to the terminal's width; a command at its end stays on one line, for copying."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    with contextlib.suppress(OSError, ValueError):
        width = os.get_terminal_size(stream.fileno()).columns or width
    said, command, rest = text.partition(_COMMAND)
    lines = [
        part
        for line in (said + (":" if command else "")).split("\n")
        for part in textwrap.wrap(line, max(20, width), break_long_words=False, break_on_hyphens=False) or [""]
    ]
    return "\n".join([*lines, *([f"  cotune {rest}"] if command else [])])


@contextlib.contextmanager
def interrupts_unseen() -> Iterator[None]:
    """Keep the terminal from printing ``^C`` on an interrupt.

    After a live display as wide as the screen, it would start a new line. The display would then be redrawn one line too low
    and leave its upper border behind.
    """
    try:
        import termios

        handle = sys.stdin.fileno()
        # A background process that changes the terminal's settings is stopped by the system.
        ours = os.isatty(handle) and os.tcgetpgrp(handle) == os.getpgrp()
    except (ImportError, OSError, ValueError):
        ours = False
    if not ours:
        yield
        return
    with terminal_without(handle, termios.ECHOCTL, termios.TCSANOW):
        yield


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt the block as Ctrl-C does, so that it cleans up, and exit with code 143 if that ends it."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread gets signals.
        yield
        return
    terminated = False

    def interrupt(*_: object) -> NoReturn:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except BaseException:
        if terminated:
            sys.exit(128 + signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
