"""Ending a search from outside: a file in the run's folder asks for it, and the run sees it at its next decision."""

from __future__ import annotations

from pathlib import Path

from cotune.files import write_text

_FILE = "finish"
ASKED = "the user asked to finish"
"""Why a search ended."""


def ask_to_finish(folder: Path) -> None:
    """Ask the run of a folder, now at work or resumed later, to end its search at its next decision.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_text(folder / _FILE, "")


def is_asked(folder: Path) -> bool:
    """Whether the run of a folder was asked to finish."""
    return (folder / _FILE).is_file()
