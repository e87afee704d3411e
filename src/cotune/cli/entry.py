"""From the process to a command and back: streams, interrupts, and errors told without a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from typing import Any

from cotune.cli.program import app, tell
from cotune.cli.terminal import wrapped
from cotune.errors import CotuneError
from cotune.streams import drop_output, repair_streams


def main(arguments: list[str] | None = None) -> Any:
    """Entry point; errors that are meant for users go to standard error without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Other libraries' notes to their developers are nothing that a user could fix.
    warnings.filterwarnings("ignore", category=FutureWarning)
    repair_streams()
    try:
        try:
            app(args=arguments, obj=sys.argv[1:] if arguments is None else arguments)
        finally:
            # What cannot be written is told below, and not by the interpreter on its way out.
            sys.stdout.flush()
    except CotuneError as error:
        _last_word(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        drop_output()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EIO):
            raise
        drop_output()
        _last_word(f"the output cannot be written ({error.strerror}). Free some space, or send it elsewhere.")
        sys.exit(1)


def _last_word(text: str) -> None:
    # Where standard error is full as well, the exit code has to say it.
    with contextlib.suppress(OSError):
        tell(wrapped(f"cotune: {text}", sys.stderr), err=True)
