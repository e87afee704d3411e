"""The terminal: its width, and what it prints by itself while something is drawn in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from cotune.streams import terminal_without

if TYPE_CHECKING:
    from rich.console import Console

_UNWRAPPED = 10_000
"""Columns of what is no terminal: a program that reads lines wants them whole."""
_COMMAND = ": cotune "


def out_console() -> Console:
    """Standard output for tables and long texts, which are wrapped on a terminal alone, or where ``COLUMNS`` is set."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _UNWRAPPED)


def wrapped(text: str, stream: TextIO) -> str:
    """A message between whose words a terminal's lines break; a command at its end stays whole, to be copied."""
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
