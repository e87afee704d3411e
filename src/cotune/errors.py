"""The errors that a user is meant to read, and how they show long texts, many names and counts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any


def shortened(text: str, length: int = 60) -> str:
    """The text as a message shows it, its end left out where it is longer."""
    return text if len(text) <= length else text[: length - 3] + "..."


def shown_names(names: Collection[str], most: int = 20) -> str:
    """Names as a message lists them, ``most`` of them."""
    return ", ".join(map(repr, islice(names, most))) + (" ..." if len(names) > most else "")


def counted(count: object, noun: str) -> str:
    """``1 prompt``, ``4 prompts``, ``1,200 rows``."""
    shown = f"{count:,}" if isinstance(count, int) else str(count)
    return f"{shown} {noun}{'' if shown == '1' else 's'}"


class CotuneError(Exception):
    """Base of all errors that cotune raises on purpose; the command line prints it without a traceback.

    Attributes:
        exit_code: what the command line exits with.
    """

    exit_code = 1


class InputError(CotuneError):
    """Something that the user gave is wrong. Says what, where, and how to fix it.

    Args:
        what: the problem, one sentence without a full stop at the end; a question keeps its mark.
        where: file, row, column or key that it was found at.
        hint: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        stop = "" if what.endswith("?") else "."
        super().__init__(f"{where + ': ' if where else ''}{what}{stop}{' ' + hint if hint else ''}")

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        # By default the whole message would come back as what is wrong, when a worker process sends the error.
        return partial(type(self), self.what, where=self.where, hint=self.hint), ()


class RowError(InputError):
    """A row cannot be answered for what stands in its cells, while others beside it can."""


def no_run(folder: Path) -> InputError:
    """The error for a folder that is taken for a run's and is none."""
    what = "this is not a run's folder" if folder.exists() else "there is no such folder"
    hint = "Give the --out folder of a cotune run; cotune list FOLDER shows the runs in a folder."
    return InputError(what, where=str(folder), hint=hint)


def not_installed(extra: str, where: str, error: ImportError) -> InputError:
    """The error of a package that is missing and comes with the extra of its name."""
    return InputError(
        f"{extra} is not installed ({error})", where=where, hint=f"Install it with: pip install 'cotune[{extra}]'."
    )


class DivergedError(CotuneError):
    """A loss or score became NaN or infinite; the trial it belongs to is recorded as failed, never as 0."""


class BudgetError(InputError):
    """The budget is too small for even the shortest run, or cannot be read."""


class BusyError(CotuneError):
    """Another process works on the same run folder."""

    exit_code = 3
