"""The folder next to an output that stores finished chunks until all are finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cotune.errors import InputError
from cotune.files import cannot_write, locked, make_folder, remove_stale, write_json

_MARK = "parts.json"
_LOCK = ".lock"


def part_folder_of(out: Path) -> Path:
    """The folder of an output's finished chunks."""
    return out.absolute().with_name(f"{out.name}.parts")


@contextmanager
def part_folder(out: Path) -> Iterator[Path]:
    """A folder for the results of an output's jobs: ``answers.csv.parts`` next to ``answers.csv``.

    The folder is removed when the block ends. If an error or an interrupt ends the block and a job is done, the folder is kept,
    so that the same command can continue from it.

    Raises:
        BusyError: another command writes the same output.
        InputError: something else has the folder's name, or the folder cannot be made.
    """
    folder = part_folder_of(out)
    if folder.exists() and not _is_ours(folder):
        raise InputError(
            "finished chunks would be stored in this folder, but it contains something else",
            where=str(folder),
            hint="Move it away, or choose another name for the output.",
        )
    try:
        make_folder(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with locked(folder / _LOCK, f"{out}: another command is writing this file. Wait for it, or choose another --out."):
        complete = False
        try:
            remove_stale(folder)
            write_json(folder / _MARK, {"output": out.name})
            yield folder
            complete = True
        finally:
            # While the lock is held: another command may take the folder as soon as it is free.
            if complete or not finished(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether this module made a folder; a folder of hidden files may be one whose command was killed before it was marked."""
    return folder.is_dir() and ((folder / _MARK).is_file() or all(path.name.startswith(".") for path in folder.iterdir()))


def finished(folder: Path) -> int:
    """Number of results in a folder; all other files in it have a dot in their names."""
    with suppress(OSError):
        return sum("." not in path.name for path in folder.iterdir())
    return 0
