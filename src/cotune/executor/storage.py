"""Storage of results: a folder that all workers can access, or an fsspec URL such as ``s3://bucket/path``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from cotune.errors import CotuneError, InputError, shortened
from cotune.files import atomic_path, content_hash, inside, make_folder, sync

_APPEARS_S = 60.0
_WAITS_S = (0.25, 1.0, 4.0, 10.0)
"""Seconds to wait before each retry after a failure."""
_FINAL = (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
"""Errors that are not retried."""
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss"})
"""Protocols of object stores, which write an object whole or not at all."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}
_PACKAGES |= {"adl": "adlfs", "oss": "ossfs", "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol"}
_HASHES = "sha256"
_TEMPORARY = ".tmp"
_EXAMPLE = "Give a URL such as s3://bucket/path"

T = TypeVar("T")


class StorageError(CotuneError):
    """A storage failed repeatedly, or with an error that is not retried."""


class Storage(ABC):
    """A store of bytes by name, which never returns incomplete data.

    The name of a job's result is its key, a hash; other names have an ending.
    """

    hint = ""
    """Hint for the error if a result does not appear."""

    @abstractmethod
    def check(self) -> None:
        """Check that this machine can use the storage.

        Raises:
            InputError: it cannot.
        """

    @abstractmethod
    def where(self, name: str) -> str:
        """Path or URL of a name, for messages."""

    @abstractmethod
    def names(self) -> set[str]:
        """All stored names."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether a name is stored."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The data of a name. Raises FileNotFoundError if it is not stored."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write data whole or not at all; replaces earlier data of the name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a name if it is stored."""

    @abstractmethod
    def clear(self) -> None:
        """Remove everything, and the storage's own folder."""

    def wait_for(self, name: str) -> None:
        """Wait until data that another node has written can be seen here.

        Raises:
            InputError: it does not appear in time.
        """
        self._waited(name, lambda: self.has(name) or None)

    def read_late(self, name: str) -> bytes:
        """Read data that another node has written, as soon as it can be seen here.

        Raises:
            InputError: it does not appear in time.
        """

        def read() -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return self.read(name)
            return None

        return self._waited(name, read)

    def put_folder(self, name: str, folder: Path, files: Sequence[str]) -> None:
        """Write files of a folder as one object, so that either all or none are stored."""
        # Imported here, because workers set the number of threads before they import numpy.
        import numpy as np

        from cotune.executor.tensors import packed

        data = {file: (folder / file).read_bytes() for file in files}
        hashes = {file: content_hash(each, 64) for file, each in data.items()}
        arrays = {file: np.frombuffer(each, dtype=np.uint8) for file, each in data.items()}
        self.write(name, packed(arrays, {_HASHES: json.dumps(hashes)}))

    def fetch_folder(self, name: str, target: Path) -> None:
        """Restore a folder from :meth:`put_folder` atomically; an existing folder is not changed.

        Raises:
            InputError: the name is not stored, its data is damaged, or the folder cannot be made.
        """
        files = _unfolded(self.read_late(name), self.where(name))
        make_folder(target.parent)
        for stale in target.parent.glob(f".{target.name}.*{_TEMPORARY}"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}{_TEMPORARY}")
        try:
            for file, data in files.items():
                with atomic_path(inside(temporary, file)) as path:
                    path.write_bytes(data)
            with contextlib.suppress(OSError):
                temporary.rename(target)
            if not target.is_dir():
                raise InputError("the folder cannot be made", where=str(target), hint="Check the permissions there.")
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _waited(self, name: str, found: Callable[[], T | None]) -> T:
        if (result := appears(found, _APPEARS_S)) is None:
            raise InputError("a worker wrote this result, but it does not appear here", where=self.where(name), hint=self.hint)
        return result


def appears(found: Callable[[], T | None], seconds: float) -> T | None:
    """Call a function until its result is not None, for at most so many seconds: network file systems show new files late."""
    end = time.monotonic() + seconds
    while (result := found()) is None and time.monotonic() <= end:
        time.sleep(0.2)
    return result


@dataclass(frozen=True)
class Folder(Storage):
    """A folder that the driver creates, and that all workers can access under the same path."""

    path: Path
    hint = "Choose an output in a folder that all nodes share, not in separate folders of the same name."

    def check(self) -> None:
        if not self.path.is_dir():
            raise InputError(
                f"the worker on {socket.gethostname()} cannot access this folder",
                where=str(self.path),
                hint="Choose an output in a folder that every node can access under the same path.",
            )

    def where(self, name: str) -> str:
        return str(self.path / name)

    def names(self) -> set[str]:
        with contextlib.suppress(FileNotFoundError):
            return {entry.name for entry in os.scandir(self.path) if entry.is_file()}
        return set()

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with atomic_path(self.path / name) as temporary:
            temporary.write_bytes(data)

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class UrlStorage(Storage):
    """A storage below a URL that fsspec supports, with the credentials that fsspec finds on each node.

    Failed operations are retried, see :data:`_WAITS_S`. The URL is from :func:`checked_url`, or one below it.
    """

    url: str
    hint = "Give a URL that refers to the same storage on every node."

    def check(self) -> None:
        _opened(self.url)

    @contextlib.contextmanager
    def trial(self) -> Iterator[str]:
        """Write and read a test object, which others may read inside the block, and remove it; gives its name.

        Raises:
            InputError: one of them fails, or the package of the protocol is not installed.
        """
        name, data = f"{secrets.token_hex(8)}.try", secrets.token_bytes(32)
        try:
            self.write(name, data)
            try:
                if self.read_late(name) != data:
                    raise StorageError(f"the storage {self.url} returned other data than was written")
                yield name
            finally:
                self.remove(name)
        except StorageError as error:
            raise InputError(
                str(error).rstrip("."), where="--storage", hint="Check the URL and your permissions to read, write and delete."
            ) from error

    def where(self, name: str) -> str:
        return f"{self.url}/{name}"

    def names(self) -> set[str]:
        def listed(files: Any, root: str) -> set[str]:
            files.invalidate_cache()
            return {str(path).rpartition("/")[2] for path in files.ls(root, detail=False)}

        with contextlib.suppress(FileNotFoundError):
            return {name for name in self._asked("list", listed) if not name.endswith(_TEMPORARY)}
        return set()

    def has(self, name: str) -> bool:
        def seen(files: Any, root: str) -> bool:
            # fsspec's cached listing may be outdated, and its exists() returns False on errors.
            files.invalidate_cache()
            return bool(files.info(f"{root}/{name}"))

        with contextlib.suppress(FileNotFoundError):
            return self._asked("look into", seen)
        return False

    def read(self, name: str) -> bytes:
        return self._asked("read from", lambda files, root: bytes(files.cat_file(f"{root}/{name}")))

    def write(self, name: str, data: bytes) -> None:
        def put(files: Any, root: str) -> None:
            if self.url.partition("://")[0] in _WHOLE:
                files.pipe_file(f"{root}/{name}", data)
                return
            files.makedirs(root, exist_ok=True)
            temporary = f"{root}/{name}.{secrets.token_hex(6)}{_TEMPORARY}"
            try:
                files.pipe_file(temporary, data)
                if getattr(files, "local_file", False):
                    sync(Path(temporary))
                files.mv(temporary, f"{root}/{name}")
            except BaseException:
                with contextlib.suppress(Exception):
                    files.rm_file(temporary)
                raise

        try:
            self._asked("write to", put)
        except FileNotFoundError as error:
            raise self._failed("write to", error) from error

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._asked("remove from", lambda files, root: files.rm_file(f"{root}/{name}"))

    def clear(self) -> None:
        def removed(files: Any, root: str) -> None:
            files.invalidate_cache()
            files.rm(root, recursive=True)

        with contextlib.suppress(FileNotFoundError):
            self._asked("clear", removed)

    def _asked(self, what: str, act: Callable[[Any, str], T]) -> T:
        """Call a function with fsspec's file system and the path in it, with retries."""
        files, root = _opened(self.url)
        waits = iter(_WAITS_S)
        while True:
            try:
                return act(files, root)
            except FileNotFoundError:
                raise
            except Exception as error:
                # The packages have their own exceptions, few of which are an OSError.
                if isinstance(error, _FINAL) or (wait := next(waits, None)) is None:
                    raise self._failed(what, error) from error
            time.sleep(wait)

    def _failed(self, what: str, error: Exception) -> StorageError:
        lines = str(error).strip().splitlines() or [""]
        told = shortened(_SECRET.sub(r"\1", lines[0]), 200)
        reason = f"{type(error).__name__}: {told}" if told else type(error).__name__
        return StorageError(
            f"{socket.gethostname()} could not {what} the storage {self.url} ({reason}). Finished jobs are stored: run the "
            "same command again when the storage answers."
        )


_SECRET = re.compile(r"(://)[^/\s@]*@|\?\S+")
"""Parts of a URL in another package's message that may contain a password or a signature."""


def storage_at(place: Path | Storage) -> Storage:
    """A storage for a folder; a storage is returned unchanged."""
    return Folder(place) if isinstance(place, Path) else place


def checked_url(url: str) -> str:
    """Check a URL for ``--storage``; returns it without a slash at its end.

    Raises:
        InputError: it is not a URL, contains credentials, cannot be used by several processes, or needs a package that is not
            installed.
    """
    url = url.strip().rstrip("/")
    protocol, colon, rest = url.partition("://")
    # Credentials are checked first, so that no message shows them. They may contain a slash, so the whole URL is searched.
    if re.search(r":[^@]*@", rest if colon else url) or (
        "@" in rest.partition("/")[0] and protocol in ("s3", "s3a", "gs", "gcs")
    ):
        raise InputError(
            "the URL contains credentials, which would be shown and stored with it",
            where="--storage",
            hint=f"{_EXAMPLE}; set credentials on each node where its package looks for them, in the environment or a file.",
        )
    if "?" in rest or "#" in rest:
        raise InputError("the URL has a part after ? or #", where="--storage", hint=f"{_EXAMPLE}, without it.")
    if not colon or not rest or not protocol:
        raise InputError(f"{url!r} is not a URL", where="--storage", hint=f"{_EXAMPLE}.")
    if "::" in url:
        raise InputError("chained URLs are not supported", where="--storage", hint=f"{_EXAMPLE}.")
    if protocol == "memory":
        raise InputError("memory:// is visible to one process only", where="--storage", hint=f"{_EXAMPLE}.")
    if protocol in ("file", "local") and not rest.startswith("/"):
        raise InputError(
            f"{url} is not an absolute path", where="--storage", hint=f"Write three slashes: {protocol}:///shared/folder."
        )
    _opened(url)
    return url


@lru_cache(maxsize=8)
def _opened(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it."""
    protocol = url.partition("://")[0]
    here = f"on {socket.gethostname()}"
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise InputError(
            f"fsspec is not installed {here}", where="--storage", hint="On every node: pip install 'cotune[storage]'."
        ) from error
    try:
        files, root = url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        hint = f"On every node: pip install {package}." if package else f"On every node: {error}."
        raise InputError(f"{protocol}:// needs a package that is not installed {here}", where="--storage", hint=hint) from error
    except ValueError as error:
        raise InputError(
            f"{shortened(url)!r} cannot be opened ({shortened(str(error), 120)})", where="--storage", hint=f"{_EXAMPLE}."
        ) from error
    return files, str(root).rstrip("/")


def _unfolded(data: bytes, where: str) -> dict[str, bytes]:
    """The files in an object from :meth:`Storage.put_folder`, with their hashes checked."""
    from safetensors import SafetensorError

    from cotune.executor.tensors import unpacked

    try:
        arrays, metadata = unpacked(data)
        files = {name: array.tobytes() for name, array in arrays.items()}
        if {name: content_hash(each, 64) for name, each in files.items()} != json.loads(metadata[_HASHES]):
            raise ValueError("another content hash")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("the stored data is damaged", where=where, hint="Remove it and run the same command again.") from error
    return files
