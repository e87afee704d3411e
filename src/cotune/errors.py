"""Errors with messages for users, and formatting of long texts, lists of names and counts in them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any


def shortened(text: str, length: int = 60) -> str:
    """The text quoted for a message, truncated if it is long."""
    return text if len(text) <= length else text[: length - 3] + "..."


def shown_names(names: Collection[str], most: int = 20) -> str:
    """A list of at most ``most`` names for a message."""
    return ", ".join(map(repr, islice(names, most))) + (" ..." if len(names) > most else "")


def counted(count: object, noun: str) -> str:
    """``1 prompt``, ``4 prompts``, ``1,200 rows``."""
    shown = f"{count:,}" if isinstance(count, int) else str(count)
    return f"{shown} {noun}{'' if shown == '1' else 's'}"


class CotuneError(Exception):
    """Base class of cotune's errors. The command line prints them without a traceback.

    Attributes:
        exit_code: exit code of the command line.
    """

    exit_code = 1


class InputError(CotuneError):
    """Invalid input: a file, a row, a config key or an option. The message says what, where, and how to fix it.

    Args:
        what: the problem in one sentence, without a full stop at the end; a question keeps its question mark.
        where: file, row, column or key with the problem.
        hint: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        stop = "" if what.endswith("?") else "."
        super().__init__(f"{where + ': ' if where else ''}{what}{stop}{' ' + hint if hint else ''}")

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        # Without this, unpickling an error from a worker process would pass the whole message as ``what``.
        return partial(type(self), self.what, where=self.where, hint=self.hint), ()


class RowError(InputError):
    """A single row cannot be answered because of its cells; other rows may be answered."""


def no_run(folder: Path) -> InputError:
    """The error for a folder that is not a run's folder."""
    what = "this is not a run's folder" if folder.exists() else "there is no such folder"
    hint = "Give the --out folder of a cotune run; cotune list FOLDER shows the runs in a folder."
    return InputError(what, where=str(folder), hint=hint)


def not_installed(extra: str, where: str, error: ImportError) -> InputError:
    """The error for a missing package that the extra of the same name installs."""
    return InputError(
        f"{extra} is not installed ({error})", where=where, hint=f"Install it with: pip install 'cotune[{extra}]'."
    )


class DivergedError(CotuneError):
    """A loss or score became NaN or infinite. Its trial is recorded as failed, not with score 0."""


class BudgetError(InputError):
    """The budget is too small for the shortest run, or cannot be parsed."""


class BusyError(CotuneError):
    """Another process is using the same run folder."""

    exit_code = 3
