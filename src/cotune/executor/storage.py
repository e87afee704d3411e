"""Where results are stored: in a folder that all workers see, or below a URL of fsspec such as ``s3://bucket/path``."""

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
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from cotune.errors import CotuneError, InputError, shortened
from cotune.files import atomic_path, content_hash, inside, make_folder, sync

_APPEARS_S = 60.0
_WAITS_S = (0.25, 1.0, 4.0, 10.0)
"""Seconds before a store is asked again that failed."""
_FINAL = (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
"""What no second attempt mends."""
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss"})
"""Protocols of object stores: an object is there whole or not at all."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}
_PACKAGES |= {"adl": "adlfs", "oss": "ossfs", "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol"}
_HASHES = "sha256"
_TEMPORARY = ".tmp"
_EXAMPLE = "Give a URL such as s3://bucket/path"

T = TypeVar("T")


class StorageError(CotuneError):
    """A store failed again and again, or for good."""


class Storage(ABC):
    """Results and other data by name; whatever is read was written whole.

    Names are content hashes, with an ending for what is not a job's result.
    """

    hint = ""
    """What helps where a result does not appear."""

    @abstractmethod
    def check(self) -> None:
        """See that a worker can use it from here.

        Raises:
            InputError: it cannot.
        """

    @abstractmethod
    def where(self, name: str) -> str:
        """Path or URL of what has a name, for messages."""

    @abstractmethod
    def names(self) -> set[str]:
        """Names of all that is there."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether something has this name."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """What was written under a name. Raises FileNotFoundError where nothing was."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write data whole or not at all; replaces what has the name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove what has a name, if anything has."""

    @abstractmethod
    def clear(self) -> None:
        """Remove all that is there, and the place itself."""

    def wait_for(self, name: str) -> None:
        """Wait for what another node has written: a network file system may show it late.

        Raises:
            InputError: it does not appear.
        """
        self._waited(name, lambda: self.has(name) or None)

    def read_late(self, name: str) -> bytes:
        """Read what another node has written, as soon as it is here.

        Raises:
            InputError: it does not appear.
        """

        def read() -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return self.read(name)
            return None

        return self._waited(name, read)

    def put_folder(self, name: str, folder: Path, files: Sequence[str]) -> None:
        """Write some of a folder's files as one object, so that all of them are there or none."""
        # Workers import numpy after their threads are set.
        import numpy as np

        from cotune.executor.tensors import packed

        data = {file: (folder / file).read_bytes() for file in files}
        hashes = {file: content_hash(each, 64) for file, each in data.items()}
        arrays = {file: np.frombuffer(each, dtype=np.uint8) for file, each in data.items()}
        self.write(name, packed(arrays, {_HASHES: json.dumps(hashes)}))

    def fetch_folder(self, name: str, target: Path) -> None:
        """Make a folder of what :meth:`put_folder` wrote. It appears whole, by a rename; one that is there already is left.

        Raises:
            InputError: nothing has this name, what has it is damaged, or the folder cannot be made.
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
                raise InputError("this folder cannot be made", where=str(target), hint="Allow writing there.")
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _waited(self, name: str, found: Callable[[], T | None]) -> T:
        patience = time.monotonic() + _APPEARS_S
        while (result := found()) is None:
            if time.monotonic() > patience:
                raise InputError("a worker wrote this result, and it is not here", where=self.where(name), hint=self.hint)
            time.sleep(0.2)
        return result


@dataclass(frozen=True)
class Folder(Storage):
    """A folder that all workers see under the same path.

    Attributes:
        path: the folder, which the driver makes.
    """

    path: Path
    hint = "Choose an output in a folder that all nodes share, and not one that each has by the same name."

    def check(self) -> None:
        if not self.path.is_dir():
            raise InputError(
                f"the worker on {socket.gethostname()} does not see this folder",
                where=str(self.path),
                hint="Choose an output in a folder that every node has under the same path.",
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
    """What lies below a URL that fsspec knows. Credentials are those that its package finds on each node.

    A store that fails is asked again some times, see :data:`_WAITS_S`.

    Attributes:
        url: as :func:`checked_url` gives it, and longer.
    """

    url: str
    hint = "Give a URL that means the same store on every node."

    @cached_property
    def _whole(self) -> bool:
        return self.url.partition("://")[0] in _WHOLE

    def check(self) -> None:
        _opened(self.url)

    def prove(self) -> None:
        """Write, read and remove an object, before anything is computed.

        Raises:
            InputError: one of them fails, or the package of the protocol is not installed.
        """
        with self.trial():
            pass

    @contextlib.contextmanager
    def trial(self) -> Iterator[tuple[str, bytes]]:
        """Write an object for others to read, and remove it afterwards; gives its name and its data.

        Raises:
            InputError: as for :meth:`prove`.
        """
        name, data = f"{secrets.token_hex(8)}.try", secrets.token_bytes(32)
        try:
            self.write(name, data)
            if self.read_late(name) != data:
                raise StorageError(f"the storage {self.url} gives back something else than was written")
            yield name, data
            self.remove(name)
        except StorageError as error:
            raise InputError(
                str(error).rstrip("."), where="--storage", hint="Check the URL, and that you may read, write and delete there."
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
            # An answer of fsspec's cache may be older than the object; and its exists() takes a failure for a no.
            files.invalidate_cache()
            return bool(files.info(f"{root}/{name}"))

        with contextlib.suppress(FileNotFoundError):
            return self._asked("look into", seen)
        return False

    def read(self, name: str) -> bytes:
        return self._asked("read from", lambda files, root: bytes(files.cat_file(f"{root}/{name}")))

    def write(self, name: str, data: bytes) -> None:
        def put(files: Any, root: str) -> None:
            if self._whole:
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
        """Do something with fsspec's file system and the path in it, again where it fails."""
        files, root = _opened(self.url)
        waits = iter(_WAITS_S)
        while True:
            try:
                return act(files, root)
            except FileNotFoundError:
                raise
            except Exception as error:
                # Packages for stores raise errors of their own, of which few are an OSError.
                if isinstance(error, _FINAL) or (wait := next(waits, None)) is None:
                    raise self._failed(what, error) from error
            time.sleep(wait)

    def _failed(self, what: str, error: Exception) -> StorageError:
        lines = str(error).strip().splitlines() or [""]
        told = shortened(_SECRET.sub(r"\1", lines[0]), 200)
        reason = f"{type(error).__name__}: {told}" if told else type(error).__name__
        return StorageError(
            f"{socket.gethostname()} could not {what} the storage {self.url} ({reason}). What is done is kept: run the same "
            "command again once the storage answers."
        )


_SECRET = re.compile(r"(://)[^/\s@]*@|\?\S+")
"""Parts of a URL in another package's message that may hold a password or a signature."""


def storage_at(place: Path | Storage) -> Storage:
    """The storage that a path means, or the one that is given."""
    return Folder(place) if isinstance(place, Path) else place


def checked_url(url: str) -> str:
    """A URL of ``--storage`` without a slash at its end.

    Raises:
        InputError: it is none, has credentials in it, is of no use for several processes, or needs a package that is missing.
    """
    url = url.strip().rstrip("/")
    protocol, colon, rest = url.partition("://")
    # First, so that no message shows them. A secret may hold a slash, hence in all of the rest.
    if re.search(r":[^@]*@", rest if colon else url) or (
        "@" in rest.partition("/")[0] and protocol in ("s3", "s3a", "gs", "gcs")
    ):
        raise InputError(
            "the URL holds credentials, which would be shown and stored with it",
            where="--storage",
            hint=f"{_EXAMPLE}; set credentials where its package looks for them, in the environment or a file of each node.",
        )
    if "?" in rest or "#" in rest:
        raise InputError("the URL has a part behind ? or #", where="--storage", hint=f"{_EXAMPLE}, without it.")
    if not colon or not rest or not protocol:
        raise InputError(f"{url!r} is no URL", where="--storage", hint=f"{_EXAMPLE}.")
    if "::" in url:
        raise InputError("chained URLs are not supported", where="--storage", hint=f"{_EXAMPLE}.")
    if protocol == "memory":
        raise InputError("memory:// is seen by one process alone", where="--storage", hint=f"{_EXAMPLE}.")
    if protocol in ("file", "local") and not rest.startswith("/"):
        raise InputError(
            f"{url} is not an absolute path", where="--storage", hint=f"Write three slashes: {protocol}:///shared/folder."
        )
    _opened(url)
    return url


@lru_cache(maxsize=8)
def _opened(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
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
    """The files of a folder from :meth:`Storage.put_folder`, checked."""
    from safetensors import SafetensorError

    from cotune.executor.tensors import unpacked

    try:
        arrays, metadata = unpacked(data)
        files = {name: array.tobytes() for name, array in arrays.items()}
        if {name: content_hash(each, 64) for name, each in files.items()} != json.loads(metadata[_HASHES]):
            raise ValueError("another content hash")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "what was stored here is damaged", where=where, hint="Remove it, and run the same command again."
        ) from error
    return files
