"""Transfer of adapters and states from a run to its workers, and of tuned adapters back.

If all nodes can access the run's folder, they read and write there. With ``--storage URL`` no worker needs access to it:
everything goes through the storage, and each node stores adapters in its cache folder.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cotune.cache import cache_folder
from cotune.errors import InputError
from cotune.executor.storage import Folder, Storage, UrlStorage
from cotune.files import absolute, content_hash, known_json, write_json
from cotune.model.adapters.files import adapter_content_id, adapter_files
from cotune.model.engine.state_store import Half, StateStore, states_of
from cotune.plain import fields
from cotune.run_files import JOBS

_ADAPTERS = "adapters"
_NODE = "workers"
_NODE_DAYS = 7.0
_PLACE = "storage.json"
_ID = re.compile(r"[0-9a-f]{16}")


class SharedFolder:
    """Transfers adapters and states through the run's folder, which all nodes can access under the same path.

    The first three methods are for the run, the others for its workers.

    Attributes:
        storage: storage of results and inputs.
        places: entries for the ``places`` of every job, from which :func:`exchange_of` makes the worker's exchange.
        tuning_folder: folder in which a tuning writes checkpoints and adapters.
    """

    def __init__(self, run: Path) -> None:
        self.tuning_folder, self.storage = run, Folder((run / JOBS).absolute())
        self.places = {"run": absolute(run)}

    def offer_adapter(self, adapter: str, folder: Path) -> dict[str, Any]:
        """Make an adapter available to workers; returns further entries for the ``places`` of jobs that use it."""
        return {"adapter": absolute(folder)}

    def offer_states(self, folder: Path, names: Sequence[str]) -> dict[str, Any]:
        """Make files of a state store available, by their names; returns further entries for ``places``."""
        return {"states": absolute(folder)}

    def receive(self, adapter: str) -> None:
        """Wait until an adapter that a worker published is in the run's folder.

        Raises:
            InputError: it does not appear in time, or is damaged.
        """
        Folder(self.tuning_folder / _ADAPTERS).wait_for(adapter)

    def adapter(self, places: Mapping[str, Any], adapter: str) -> Path:
        """Folder of an adapter that the run has made available.

        Raises:
            InputError: this machine cannot access it, or it is damaged.
        """
        folder = Path(places["adapter"])
        if not folder.is_dir():
            raise InputError(
                "a worker cannot access this adapter",
                where=str(folder),
                hint="Choose an --out that every node can access under the same path, or add --storage URL.",
            )
        return folder

    def states(self, places: Mapping[str, Any], name: str) -> Half | None:
        """States that the run has made available; None if they are not there."""
        return StateStore(Path(places["states"])).get(name)

    def publish(self, adapters: Sequence[str]) -> None:
        """Make adapters in :attr:`tuning_folder` available to the run."""


class ThroughStorage:
    """Transfers adapters and states through a storage at a URL; methods and attributes as of :class:`SharedFolder`.

    ``folder`` is the local folder for adapters: the run's, or the node's cache folder for this run.
    """

    def __init__(self, storage: UrlStorage, folder: Path) -> None:
        self.storage, self._folder = storage, folder
        self.places = {"storage": storage.url}
        # Not among the fetched adapters, which are always complete.
        self.tuning_folder = folder / "tuned"
        self._offered: set[str] = set()

    def offer_adapter(self, adapter: str, folder: Path) -> dict[str, Any]:
        if not self._offers(name := _adapter_name(adapter)):
            # The same folder is registered as two adapters: with its probe and without it.
            self.storage.put_folder(name, folder, adapter_files(folder, probe=adapter_content_id(folder) == adapter))
        return {}

    def offer_states(self, folder: Path, names: Sequence[str]) -> dict[str, Any]:
        store = StateStore(folder)
        for each in names:
            # The store may have removed old states; the run then fits the probe itself.
            with suppress(FileNotFoundError):
                if not self._offers(name := _states_name(each)):
                    self.storage.write(name, store.path(each).read_bytes())
        return {}

    def receive(self, adapter: str) -> None:
        self._fetched(adapter)

    def adapter(self, places: Mapping[str, Any], adapter: str) -> Path:
        from filelock import FileLock

        parent = self._folder / _ADAPTERS
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f".{adapter}.lock"):
            return self._fetched(adapter)

    def states(self, places: Mapping[str, Any], name: str) -> Half | None:
        with suppress(FileNotFoundError):
            return states_of(self.storage.read(_states_name(name)))
        return None

    def publish(self, adapters: Sequence[str]) -> None:
        for adapter in adapters:
            folder = self.tuning_folder / _ADAPTERS / adapter
            self.storage.put_folder(_adapter_name(adapter), folder, adapter_files(folder))

    def _offers(self, name: str) -> bool:
        """Whether a name is stored; the storage is not asked again once it is."""
        if name not in self._offered and self.storage.has(name):
            self._offered.add(name)
        return name in self._offered

    def _fetched(self, adapter: str) -> Path:
        """The local folder of an adapter, which is fetched if it is missing or damaged."""
        folder = self._folder / _ADAPTERS / adapter
        if not _is(folder, adapter):
            shutil.rmtree(folder, ignore_errors=True)
            self.storage.fetch_folder(_adapter_name(adapter), folder)
            if not _is(folder, adapter):
                shutil.rmtree(folder, ignore_errors=True)
                raise InputError(
                    "this adapter is not the one that the run uses",
                    where=self.storage.where(_adapter_name(adapter)),
                    hint="Remove it and run the same command again.",
                )
        return folder


Exchange = SharedFolder | ThroughStorage


def exchange_for(storage: Storage, run: Path) -> Exchange:
    """The exchange for the run itself."""
    return ThroughStorage(storage, run) if isinstance(storage, UrlStorage) else SharedFolder(run)


def exchange_of(places: Mapping[str, Any]) -> Exchange:
    """The exchange for a worker, from the ``places`` of its job."""
    if "storage" not in places:
        return SharedFolder(Path(places["run"]))
    return ThroughStorage(UrlStorage(places["storage"]), _node_folder(places["storage"]))


def run_storage(url: str, run: Path) -> UrlStorage:
    """The storage of a run below a URL, under a random id, which the run's folder stores for resuming."""
    path = run / JOBS / _PLACE
    name = str(fields(known_json(path)).get("id"))
    if not _ID.fullmatch(name):
        name = secrets.token_hex(8)
        write_json(path, {"id": name})
    return UrlStorage(f"{url}/cotune-{name}")


def clean_storage(storage: UrlStorage) -> None:
    """Remove everything that a run stored, and the adapters that workers on this machine fetched.

    Raises:
        StorageError: the storage does not answer.
    """
    shutil.rmtree(_node_place(storage.url), ignore_errors=True)
    storage.clear()


def _node_folder(url: str) -> Path:
    """A node's cache folder for a run. Folders unused for a week are removed here, since no run can clean up all nodes."""
    folder = _node_place(url)
    if not folder.is_dir():
        folder = cache_folder(_NODE, folder.name)
        for other in folder.parent.iterdir():
            with suppress(OSError):
                if time.time() - other.stat().st_mtime > _NODE_DAYS * 86_400:
                    shutil.rmtree(other, ignore_errors=True)
    os.utime(folder)
    return folder


def _node_place(url: str) -> Path:
    return cache_folder(_NODE, content_hash(url), create=False)


def _is(folder: Path, adapter: str) -> bool:
    """Whether a folder contains this adapter, judged by its content."""
    try:
        return folder.is_dir() and adapter_content_id(folder) == adapter
    except (InputError, OSError, ValueError):
        return False


def _adapter_name(adapter: str) -> str:
    return f"{adapter}.adapter"


def _states_name(name: str) -> str:
    return f"{name}.states"
