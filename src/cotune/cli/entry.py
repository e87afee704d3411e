"""The entry point: streams, interrupts, and error messages without tracebacks."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import warnings
from functools import cache
from typing import Any

from typer.main import get_command

from cotune.cli.program import app, tell
from cotune.cli.terminal import wrapped
from cotune.errors import CotuneError, InputError, shortened
from cotune.streams import drop_output, repair_streams

_UNREACHABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)


@cache
def command() -> Any:
    """The parser of all commands; typer would make it anew, which takes 50 ms, at each call in the same process."""
    return get_command(app)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point; errors that are meant for users go to standard error without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Users cannot act on deprecation warnings of other libraries.
    warnings.filterwarnings("ignore", category=FutureWarning)
    repair_streams()
    try:
        try:
            # By default, click calls the program "python -m cotune.cli" in its help if it was started as a module.
            command()(args=arguments, prog_name="cotune", obj=sys.argv[1:] if arguments is None else arguments)
        finally:
            # Report write errors below, not by the interpreter at exit.
            sys.stdout.flush()
    except CotuneError as error:
        _last_word(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except (SystemExit, BrokenPipeError) as error:
        # On a closed pipe, rich and typer exit with code 1.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        drop_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in _UNREACHABLE and error.filename is not None:
            # Any command may get such a path, and each checks it at a different place.
            place = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
            what = f"the path cannot be reached ({error.strerror})"
            _last_word(str(InputError(what, where=shortened(place, 200), hint="Check it and its permissions.")))
            sys.exit(InputError.exit_code)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO):
            raise
        drop_output()
        _last_word(f"the output cannot be written ({error.strerror}). Free some space, or send it elsewhere.")
        sys.exit(1)


def _last_word(text: str) -> None:
    # If standard error cannot be written either, only the exit code reports the failure.
    with contextlib.suppress(OSError):
        tell(wrapped(f"cotune: {text}", sys.stderr), err=True)
