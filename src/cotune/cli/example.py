"""The examples in the package: tasks with rows that were written for this project."""

from __future__ import annotations

import shutil
from pathlib import Path

import cotune
from cotune.bundle.place import atomic_folder
from cotune.errors import InputError, shown_names

_TASK = "task.yaml"


def examples_folder() -> Path:
    """The folder of the examples: in the installed package, or beside the source of an editable install."""
    package = Path(cotune.__file__).parent
    installed = package / "examples"
    return installed if installed.is_dir() else package.parents[1] / "examples"


def copy_example(name: str) -> tuple[Path, bool]:
    """Copy an example into the current folder unless it is there; returns its task file and whether it was copied.

    Raises:
        InputError: if there is no such example, or another file has its name.
    """
    names = sorted(path.parent.name for path in examples_folder().glob(f"*/{_TASK}"))
    if name not in names:
        raise InputError(f"there is no example {name!r}", where="--example", hint=f"Give one of {shown_names(names)}.")
    folder = Path(name)
    if (folder / _TASK).is_file():
        return folder / _TASK, False
    if folder.exists():
        raise InputError(
            f"another file here is called {name}",
            where=str(folder.absolute()),
            hint="Run the command in another folder, or move it away.",
        )
    with atomic_folder(folder) as temporary:
        shutil.copytree(examples_folder() / name, temporary, dirs_exist_ok=True)
    return folder / _TASK, True
