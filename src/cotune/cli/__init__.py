"""The command line, one file a command: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

from cotune.cli import doctor, embed, export, predict, report, run, serve, try_prompt, view  # noqa: F401
from cotune.cli.entry import main
from cotune.cli.program import app

__all__ = ["app", "main"]
