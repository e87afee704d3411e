"""The command line, called in this process or started at a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from typing import NamedTuple

from cotune.cli import main


class Ended(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str


def call(*arguments: object, stdin: str = "") -> Ended:
    """Call the command line in this process, its streams no terminal."""
    out, err, before, code = io.StringIO(), io.StringIO(), sys.stdin, 0
    sys.stdin = io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdin = before
    return Ended(code, out.getvalue(), err.getvalue())


def typed(*arguments: object, keys: bytes) -> Ended:
    """Start the command line with a terminal as its standard input, and type keys that it need not wait for."""
    terminal, other = os.openpty()
    command = [sys.executable, "-m", "cotune.cli", *map(str, arguments)]
    try:
        with subprocess.Popen(command, stdin=other, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            os.close(other)
            os.write(terminal, keys)
            out, err = child.communicate(timeout=200)
    finally:
        os.close(terminal)
    return Ended(child.returncode, out, err)
