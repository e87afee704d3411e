"""Repair of standard streams (closed, full, or with a limited encoding), and temporary changes of a terminal's modes."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def repair_streams() -> None:
    """Replace closed standard streams, and switch ASCII ones to UTF-8, the encoding of all of cotune's files.

    Otherwise the next file to be opened gets the file descriptor of the closed stream, and output would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # open() takes the lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if name == "stderr" else "strict")
        elif number and isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            # A name of a file or a label may have characters that this encoding lacks.
            stream.reconfigure(errors="backslashreplace")


def utf8_streams() -> tuple[TextIO, TextIO]:
    """Standard input and output as UTF-8, whatever the locale; bytes of the input that are none become lone surrogates.

    An error of decoding would come for a whole block of lines, and would lose those that can be read.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    return sys.stdin, sys.stdout


def drop_output() -> None:
    """Discard what could not be written to standard output; otherwise the interpreter tries again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def terminal_without(handle: int, flags: int, when: int) -> Iterator[None]:
    """Turn off local modes of a terminal until the block ends.

    Args:
        handle: file descriptor of the terminal.
        flags: the modes to turn off, such as ``termios.ECHO``.
        when: when the change takes effect, as for :func:`termios.tcsetattr`.
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
