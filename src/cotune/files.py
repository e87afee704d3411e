"""Atomic writing of files, canonical JSON, content hashes and safe file names."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cotune.errors import BusyError, InputError

_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_PLACE = {
    errno.EISDIR: "A folder has that name: name a file in it, or choose another name",
    errno.ENOTDIR: "A file has a name where a folder is needed: choose another folder",
    errno.EEXIST: "A file has a name where a folder is needed: choose another folder",
    errno.ENAMETOOLONG: "Choose a shorter name",
}
_TEMPORARY = ".tmp"
# A temporary name: the final name, the number of the writing process, and a unique part.
_OWNER = re.compile(r"\..+\.(\d+)-[^.]+" + re.escape(_TEMPORARY))


# Made once: ``json.dumps`` makes one for each call with arguments.
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal texts. Raises ValueError on NaN or infinity."""
    return _CANONICAL.encode(value)


def content_hash(value: Any, length: int = 16) -> str:
    """The first ``length`` hex digits of the sha256 of a JSON value, a text or bytes."""
    data = value if isinstance(value, bytes) else canonical_json(value).encode()
    return hashlib.sha256(data).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Full sha256 of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_text(path: Path, what: str) -> str:
    """Read a UTF-8 file that a user named; a byte order mark is removed.

    Args:
        what: its description in errors, such as "the prompt file".

    Raises:
        InputError: if it does not exist, is a folder, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{what} does not exist", where=str(path), hint="Check the path.") from error
    except IsADirectoryError as error:
        raise InputError(f"{what} is a folder", where=str(path), hint="Name the file in it.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 text", where=str(path), hint="Save it as UTF-8.") from error
    except ValueError as error:
        raise InputError(f"{what} has a name that no file can have", where=repr(str(path)), hint="Check the path.") from error
    except OSError as error:
        raise InputError(f"{what} cannot be read ({error.strerror})", where=str(path), hint="Check its permissions.") from error


def decode_json(data: str | bytes, *, finite: bool = False) -> Any:
    """The value of a JSON text; with ``finite``, NaN and infinities are refused, which Python reads otherwise.

    Raises:
        ValueError: if it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant if finite else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def load_json(path: Path, *, finite: bool = False) -> Any:
    """The value in a JSON file; ``finite`` as in :func:`decode_json`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not JSON in UTF-8, or is nested too deeply.
    """
    return decode_json(path.read_text(encoding="utf-8"), finite=finite)


def known_json(path: Path) -> Any:
    """The value in a JSON file; None if the file is missing, cannot be read, or is not JSON."""
    try:
        return load_json(path)
    except (OSError, ValueError):
        return None


def read_standard_input() -> str:
    """Read all of standard input as text.

    Raises:
        InputError: if it is not UTF-8.
    """
    try:
        text = sys.stdin.read()
        text.encode()
    except UnicodeError as error:
        raise InputError("it is not UTF-8 text", where="standard input", hint="Pipe in UTF-8.") from error
    return text


def sync(path: Path) -> None:
    """fsync a file or the entries of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and fsync their entries."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_names(place.parent)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, which is fsynced and renamed to ``path`` if the block ends without an error.

    A file that exists keeps its permissions, and of a link the file that it leads to is replaced.

    Raises:
        InputError: if the disk is full or the folder cannot be written to. No temporary file is left behind.
    """
    temporary: Path | None = None
    try:
        if path.is_symlink():
            # Unlike Path.resolve, it takes a link that leads to itself.
            path = Path(os.path.realpath(path))
        make_folder(path.parent)
        named = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(6)}{_TEMPORARY}")
        # os.open applies the umask; tempfile would give the owner access only, whatever the umask allows.
        handle = os.open(named, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        temporary = named
        mode = stat.S_IMODE(path.stat().st_mode if path.is_file() else os.fstat(handle).st_mode)
        os.close(handle)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        # Some writers replace the file by one with other permissions.
        temporary.chmod(mode)
        temporary.replace(path)
        sync_names(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file while the block is executed, so that one process at a time works on something.

    Args:
        busy: message of the error if another process holds it.

    Raises:
        BusyError: another process holds it.
        InputError: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        if not path.exists():
            # Some places, such as /proc, refuse new files in a way that looks like a lock.
            raise InputError(f"cannot write to {path.parent}", hint="Choose another folder.") from None
        raise BusyError(busy) from None
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    with lock:
        yield


def sync_names(folder: Path) -> None:
    """fsync the folder after a rename: without it a power failure may leave the old file, or none."""
    # Some network file systems cannot fsync folders; the file itself is safe there.
    with contextlib.suppress(OSError):
        sync(folder)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a ``path`` that could not be written."""
    what = f"cannot write {path} ({error.strerror or error})"
    if error.errno in _NO_PLACE:
        return InputError(what, hint=f"{_NO_PLACE[error.errno]}, and run the command again.")
    first = "Allow writing there" if error.errno in _NOT_ALLOWED else "Free some space"
    return InputError(what, hint=f"{first} or choose another folder, and run the same command again.")


def check_ending(path: Path, endings: Sequence[str], what: str) -> None:
    """Check the suffix of an output file; ``what`` describes its content in the error.

    Raises:
        InputError: if the name ends differently.
    """
    if path.suffix.lower() not in endings:
        raise InputError(
            f"{what} are not written as {path.suffix or 'a file without an ending'}",
            where=str(path),
            hint=f"End the name in one of {', '.join(endings)}.",
        )


def check_not_input(out: Path, source: Path, what: str) -> None:
    """Check that an output file is not the file that is read; ``what`` is written.

    Raises:
        InputError: it is.
    """
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError("this is the input file", where=f"--out {out}", hint=f"Name another file for the {what}.")


def check_place(path: Path) -> None:
    """Check that a file can be written at a path, before anything is computed.

    Problems that only writing shows, such as a full disk, are reported by :func:`atomic_path`.

    Raises:
        InputError: if the path is a folder, lies under a file, or its folder is not writable.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        above = next(place for place in path.absolute().parents if place.exists())
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # Only writing gives the system's own reason, such as a read-only file system.
        tried = above / f".cotune.{os.getpid()}-{secrets.token_hex(6)}{_TEMPORARY}"
        os.close(os.open(tried, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        tried.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_stale(folder: Path) -> int:
    """Remove temporary files that killed processes left in a folder and its subfolders; returns how many.

    Files of other running processes are kept. Call it before this process has written anything: in a container its number is
    the same in every run, so that files with it belong to an earlier run.
    """
    removed = 0
    for path in folder.rglob(f".*{_TEMPORARY}"):
        match = _OWNER.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        owner = int(match[1])
        if owner == os.getpid() or not _lives(owner):
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
    return removed


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. Raises ValueError on NaN or infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def slug(name: str, length: int = 60) -> str:
    """Convert a text to a file name that is safe on all systems: lower-case letters, digits, ``-`` and ``_``.

    A name without any of these becomes ``task`` with a hash, so that two such names differ.
    """
    plain = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:length]
    return plain or (f"task-{content_hash(name, 8)}" if name.strip() else "task")


def expanded(path: str | Path) -> Path:
    """The path with a leading ``~`` or ``~user`` replaced by the home folder; a file may also be named ``~notes.csv``."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        # There is no such user.
        return Path(path)


def absolute(path: str | Path) -> str:
    """The absolute form of a path."""
    return str(expanded(path).absolute())


def inside(folder: Path, name: str) -> Path:
    """The path ``folder/name``, checked to lie inside the folder.

    Raises:
        InputError: if the name is absolute or leads out of the folder, also through a symbolic link.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"the path {name!r} leads out of its folder", where=str(folder), hint="Use a plain relative name.")
    return path
