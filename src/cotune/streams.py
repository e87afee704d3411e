"""Standard streams in whatever state a process is given them: closed, full, or of an encoding that cannot hold all texts.

And the terminal behind them, whose modes are changed for a while.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator


def repair_streams() -> None:
    """Replace standard streams that are closed, and have ASCII ones speak UTF-8, as all of cotune's files do.

    The next file to be opened would take the number of a closed stream, and be written to as if it were that stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, which is this one.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if name == "stderr" else "strict")


def drop_output() -> None:
    """Throw away what could not be written to standard output; the interpreter would try it again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def terminal_without(handle: int, flags: int, when: int) -> Iterator[None]:
    """Take local modes off a terminal until the block ends.

    Args:
        handle: file descriptor of the terminal.
        flags: the modes, such as ``termios.ECHO``.
        when: they change, as for :func:`termios.tcsetattr`.
    """
    import termios

    before = termios.tcgetattr(handle)
    changed = termios.tcgetattr(handle)
    changed[3] &= ~flags
    try:
        termios.tcsetattr(handle, when, changed)
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(handle, when, before)
