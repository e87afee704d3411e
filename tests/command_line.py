"""The command line called in this process."""

from __future__ import annotations

import contextlib
import io
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
