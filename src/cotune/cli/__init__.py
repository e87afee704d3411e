"""The command line, one file per command. Commands import heavy packages only when they run."""

from __future__ import annotations

from cotune.cli import (  # noqa: F401
    compare,
    doctor,
    embed,
    evaluate,
    export,
    init,
    label,
    list_runs,
    predict,
    push,
    report,
    run,
    serve,
    try_prompt,
    view,
)
from cotune.cli.entry import main
from cotune.cli.program import app

__all__ = ["app", "main"]
