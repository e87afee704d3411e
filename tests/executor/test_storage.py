"""Folder or URL: what is read was written whole, failures are told with the URL and without secrets, nothing is left."""

from __future__ import annotations

import importlib.util
import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from failing_store import Failing, reset
from fsspec.core import url_to_fs
from jobs import killed_once, numbers
from safetensors.numpy import save

import object_store
from cotune.cache import cache_folder
from cotune.cycle.workers.exchange import ThroughStorage, exchange_of, run_storage
from cotune.errors import InputError
from cotune.executor import Choice, open_executor, run_all
from cotune.executor import storage as module
from cotune.executor.storage import _PACKAGES, Folder, Storage, StorageError, UrlStorage, checked_url
from cotune.executor.tensors import packed
from cotune.model.adapters.files import CONFIG, WEIGHTS, adapter_content_id
from cotune.probe.readout import PROBE, Probe


@pytest.fixture(params=["folder", "local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield Folder(tmp_path / "store" / "run")
    elif request.param == "local":
        yield UrlStorage(f"local://{tmp_path}/store/run")
    else:
        with object_store.bucket() as url:
            yield UrlStorage(f"{url}/some/run")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(module, "_APPEARS_S", 0.3)


@pytest.mark.usefixtures("impatient")
def test_what_is_written_is_read_and_nothing_else(storage: Storage, tmp_path: Path) -> None:
    assert storage.names() == set() and not storage.has("a")
    with pytest.raises(FileNotFoundError):
        storage.read("a")
    with pytest.raises(InputError, match="it does not appear here") as error:
        storage.read_late("a")
    assert storage.where("a") in str(error.value)
    storage.write("a", b"first")
    storage.write("b.given", b"")
    storage.write("a", b"second")
    assert storage.read("a") == storage.read_late("a") == b"second" and storage.read("b.given") == b""
    storage.remove("c")
    assert storage.has("a") and storage.names() == {"a", "b.given"}
    again: Storage = pickle.loads(pickle.dumps(storage))
    assert again == storage and again.read("a") == b"second"
    remove_elsewhere(storage, "a")
    # Whatever fsspec remembers of its listings.
    assert not storage.has("a") and storage.names() == {"b.given"}
    storage.remove("b.given")
    assert storage.names() == set()
    storage.clear()
    storage.clear()
    assert storage.names() == set()
    assert not [*tmp_path.rglob("*.tmp")] and not (tmp_path / "store" / "run").exists()


def remove_elsewhere(storage: Storage, name: str) -> None:
    """As another process does."""
    if isinstance(storage, UrlStorage):
        files, root = url_to_fs(storage.url, skip_instance_cache=True)
        files.rm_file(f"{root}/{name}")
    else:
        Path(storage.where(name)).unlink()


@pytest.mark.usefixtures("impatient")
def test_a_folder_arrives_whole_or_not_at_all(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes(b"{}")
    (source / "weights").write_bytes(bytes(range(256)) * 9)
    (source / "other").write_bytes(b"stays here")
    storage.put_folder("x.adapter", source, ["config.json", "weights"])
    target = tmp_path / "node" / "x"
    # Left by a process that was killed.
    (tmp_path / "node" / ".x.0123.tmp").mkdir(parents=True)
    storage.fetch_folder("x.adapter", target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "config.json": b"{}",
        "weights": bytes(range(256)) * 9,
    }
    assert [path.name for path in target.parent.iterdir()] == ["x"]
    data = storage.read("x.adapter")
    hostile = packed(
        {"../out": np.frombuffer(b"x", dtype=np.uint8)}, {"sha256": json.dumps({"../out": module.content_hash(b"x", 64)})}
    )
    for damaged in (data[:-1] + b"?", data[: len(data) // 2], b"", hostile):
        storage.write("x.adapter", damaged)
        with pytest.raises(InputError, match=r"damaged|leads out of its folder"):
            storage.fetch_folder("x.adapter", tmp_path / "node" / "y")
    assert sorted(path.name for path in target.parent.iterdir()) == ["x"]


def saved_adapter(parent: Path, seed: int = 0) -> tuple[str, Path]:
    """An adapter's id, and a folder of its weights with a probe."""
    parent.mkdir(parents=True)
    (parent / WEIGHTS).write_bytes(save({"lora_A.weight": np.full((4, 64), seed, np.float32)}))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (parent / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    adapter = adapter_content_id(parent)
    (parent / PROBE).write_bytes(Probe(("a", "b"), np.zeros((2, 64), np.float32), np.zeros(2, np.float32), 1).to_bytes())
    assert adapter_content_id(parent) != adapter
    return adapter, parent


@pytest.mark.usefixtures("impatient")
def test_a_store_that_fails_now_and_then_is_asked_again(tmp_path: Path) -> None:
    reset(OSError("reset by peer"), TimeoutError("too slow"))
    store = UrlStorage(f"failing://{tmp_path}/store")
    store.write("a", b"whole")
    assert Failing.calls["pipe_file"] == 3 and store.read("a") == b"whole" and store.names() == {"a"}
    reset(ConnectionError("gone"))
    assert store.has("a"), "a failure is not taken for a no"
    reset(*[OSError("http://user:pass@host/x?signature=pass is down")] * 9)
    with pytest.raises(StorageError) as error:
        store.write("b", b"other")
    told = str(error.value)
    assert Failing.calls["pipe_file"] == 4 and "pass" not in told
    assert all(
        part in told for part in (store.url, "could not write", "http://host/x", "is down", "run the same command again")
    )
    assert str(pickle.loads(pickle.dumps(error.value))) == told
    reset()
    assert store.names() == {"a"} and [path.name for path in (tmp_path / "store").iterdir()] == ["a"]
    reset(PermissionError("not yours"))
    with pytest.raises(StorageError, match=r"could not read from .* \(PermissionError: not yours\)"):
        store.read("a")
    assert Failing.calls["cat_file"] == 1, "what is forbidden is not asked for again"
    with pytest.raises(InputError, match=r"--storage: .*could not write"):
        reset(PermissionError("not yours"))
        with store.trial():
            pass
    reset()
    with store.trial():
        pass
    assert store.names() == {"a"}


SECRETS = (
    "s3://KEYID:s3cr/et+@bucket/path",
    "s3://s3cr@bucket",
    "sftp://me:s3cr@host/path",
    "https://host/path?sig=s3cr",
    "ftp://me:s3:cr@host",
    "me:s3cr@host/path",
)


@pytest.mark.parametrize("url", SECRETS)
def test_credentials_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InputError) as error:
        checked_url(url)
    assert "s3cr" not in str(error.value) and "s3:cr" not in str(error.value) and "--storage" in str(error.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/shared/folder", "is not a URL. Give a URL such as s3://bucket/path"),
        ("s3://", "is not a URL"),
        ("memory://runs", "one process only"),
        ("file://runs/store", r"not an absolute path\. Write three slashes"),
        ("simplecache::file:///runs", "chained"),
        ("nosuch://place/x", "cannot be opened"),
    ],
)
def test_what_is_no_storage(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked_url(url)


def test_a_missing_package_is_told_with_its_name() -> None:
    missing = [(protocol, name) for protocol, name in _PACKAGES.items() if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all are installed")
    protocol, package = missing[-1]
    with pytest.raises(InputError, match=rf"{protocol}:// needs a package .*On every node: pip install {package}"):
        checked_url(f"{protocol}://host/path")


def test_a_storage_goes_with_workers_alone(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store/"
    assert Choice.named("processes", 2, url) == Choice("processes", "", 2, url.rstrip("/"))
    assert Choice.named(None, None, None) is None
    for executor in (None, "local"):
        with pytest.raises(InputError, match=r"--storage: .*--executor processes"):
            Choice.named(executor, None, url)


def test_a_run_finds_its_own_place_again_and_no_other(tmp_path: Path) -> None:
    one, other = (run_storage("s3://bucket/runs", tmp_path / name) for name in ("one", "other"))
    assert (
        one != other
        and one.url.startswith("s3://bucket/runs/cotune-")
        and run_storage("s3://bucket/runs", tmp_path / "one") == one
    )
    kept = json.loads((tmp_path / "one" / "jobs" / "storage.json").read_bytes())
    assert [*kept] == ["id"], "no URL is stored"
    (tmp_path / "one" / "jobs" / "storage.json").write_text('{"id": "../../else"}', encoding="utf-8")
    assert run_storage("s3://bucket/runs", tmp_path / "one").url.count("/") == one.url.count("/")


@pytest.mark.parametrize("storage", ["local", "s3"], indirect=True)
def test_processes_store_results_at_a_url(storage: Storage, tmp_path: Path) -> None:
    with open_executor(Choice("processes", workers=2), storage) as executor:
        jobs = numbers(6, killed_once, mark=tmp_path / "mark", log=tmp_path / "log")
        done = run_all(executor, jobs)
        assert [json.loads(one.read()) for one in done] == [0, 2, 4, 6, 8, 10] and executor.lost == 1
        assert storage.names() == {job.key for job in jobs}
        assert all(one.earlier for one in run_all(executor, jobs)) and executor.storage == storage


def test_a_store_that_fails_a_worker_is_named_by_its_url(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    storage = UrlStorage(f"local://{tmp_path}/store/run")
    with open_executor(Choice("processes", workers=1), storage) as executor:
        error = executor.submit(numbers(1)[0]).exception(timeout=60)
    assert isinstance(error, StorageError) and f"the storage {storage.url} (NotADirectoryError" in str(error)


@pytest.mark.usefixtures("impatient")
def test_a_node_fetches_an_adapter_once(tmp_path: Path) -> None:
    reset()
    adapter, folder = saved_adapter(tmp_path / "run" / "adapters")
    store = UrlStorage(f"failing://{tmp_path}/store/cotune-1")
    ThroughStorage(store, tmp_path / "run").offer_adapter(adapter, folder)
    found: list[Path] = []

    def fetch() -> None:
        found.append(exchange_of({"storage": store.url}).adapter({}, adapter))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    place = found[0]
    assert found == [place] * 4 and Failing.calls["cat_file"] == 1 and place.is_relative_to(cache_folder("workers"))
    assert {path.name for path in place.iterdir()} == {path.name for path in folder.iterdir()} - {PROBE}
    assert (folder / PROBE).is_file()
    # What was damaged on the node is fetched again; what is damaged in the store is refused.
    (place / "adapter_model.safetensors").write_bytes(b"")
    fetch()
    assert (place / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    other, elsewhere = saved_adapter(tmp_path / "other", seed=1)
    assert other != adapter
    store.put_folder(f"{adapter}.adapter", elsewhere, ["adapter_config.json", "adapter_model.safetensors"])
    (place / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="not the one that the run uses"):
        fetch()
    assert not place.exists()
