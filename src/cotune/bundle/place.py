"""Checking and atomically replacing output folders."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from cotune.errors import InputError
from cotune.files import cannot_write, make_folder, sync

_CURRENT_FOLDER = -100
_SWAP = 2
_OF_THE_SYSTEM = re.compile(r"\(os error (\d+)\)")
"""How an error of safetensors names that of the system, such as a full disk."""


def check_new(folder: Path) -> None:
    """Refuse an output folder that is not new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "the folder is not empty" if folder.is_dir() else "this is a file, not a folder"
        raise InputError(what, where=str(folder), hint="Give a new or empty folder.")


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that is synced and renamed to ``folder`` when the block ends without an error.

    An existing folder of that name is swapped with the new one in the same step and then removed. If the process is killed, the
    old or the new folder is there, and the next call removes leftovers. If the file system cannot swap folders, the old one is
    moved aside first; should the process be killed at this moment, the next call repairs it. Safe with concurrent processes.

    Raises:
        InputError: the disk is full or not writable; the existing folder is unchanged.
    """
    import filelock

    folder = folder.absolute()
    aside = folder.with_name(f".{folder.name}.old")
    try:
        make_folder(folder.parent)
        with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
            if aside.exists() and not folder.exists():
                aside.rename(folder)
            for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
                if left == aside or left.name.startswith(f".{folder.name}.new-"):
                    shutil.rmtree(left, ignore_errors=True)
            temporary = folder.with_name(f".{folder.name}.new-{secrets.token_hex(6)}")
            try:
                temporary.mkdir()
                yield temporary
                _sync_all(temporary, stat.S_IMODE(temporary.stat().st_mode))
                _put(temporary, folder, aside)
                sync(folder.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    except SafetensorError as error:
        if (found := _OF_THE_SYSTEM.search(str(error))) is None:
            raise
        raise cannot_write(folder, OSError(int(found[1]), os.strerror(int(found[1])))) from error
    except InputError as error:
        # Messages should not name the temporary folder.
        if isinstance(error.__cause__, OSError):
            raise cannot_write(folder, error.__cause__) from error
        raise


def _put(temporary: Path, folder: Path, aside: Path) -> None:
    if not folder.exists():
        temporary.rename(folder)
    elif not exchange(temporary, folder):
        folder.rename(aside)
        temporary.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)


def exchange(left: Path, right: Path) -> bool:
    """Swap two folders atomically; False if the system or file system does not support it."""
    a, b = os.fsencode(left), os.fsencode(right)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if hasattr(library, "renameat2"):
            return int(library.renameat2(_CURRENT_FOLDER, a, _CURRENT_FOLDER, b, _SWAP)) == 0
        return int(library.renamex_np(a, b, _SWAP)) == 0
    except (AttributeError, OSError, TypeError):
        return False


def _sync_all(folder: Path, allowed: int) -> None:
    """Sync a folder's files and give them the permissions of new files here: copies have those of their source, and some
    writers make files that only the owner can read."""
    for current, _, names in os.walk(folder):
        for path in (Path(current) / name for name in names):
            mode = stat.S_IMODE(path.stat().st_mode)
            wanted = allowed & (mode | 0o666)
            if mode != wanted:
                path.chmod(wanted)
            sync(path)
        sync(Path(current))
