"""The examples that come along: tasks with rows that were written for this project."""

from __future__ import annotations

import shutil
from pathlib import Path

import cotune
from cotune.bundle.place import atomic_folder
from cotune.errors import InputError, shown_names

_TASK = "task.yaml"


def examples_folder() -> Path:
    """Where the examples lie: in the installed package, or beside the source that an editable install runs from."""
    package = Path(cotune.__file__).parent
    installed = package / "examples"
    return installed if installed.is_dir() else package.parents[1] / "examples"


def copy_example(name: str) -> tuple[Path, bool]:
    """The task file of an example, copied into the current folder where it is not there yet; and whether it was copied now.

    Raises:
        InputError: there is no such example, or something else has its name here.
    """
    known = sorted(path.parent.name for path in examples_folder().glob(f"*/{_TASK}"))
    if name not in known:
        raise InputError(f"there is no example {name!r}", where="--example", hint=f"Give one of {shown_names(known)}.")
    folder = Path(name)
    if (folder / _TASK).is_file():
        return folder / _TASK, False
    if folder.exists():
        raise InputError(
            f"something else is called {name} here",
            where=str(folder.absolute()),
            hint="Run the command in another folder, or move it away.",
        )
    with atomic_folder(folder) as temporary:
        shutil.copytree(examples_folder() / name, temporary, dirs_exist_ok=True)
    return folder / _TASK, True
