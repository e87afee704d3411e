"""What every test shares: one thread, no hub, a cache of its own, and the bundled model converted once."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import settings

# How long an example takes says something about the machine alone: the first of a process may take half a second.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def written_through(handle: int) -> None:
    """In place of ``os.fsync``, which took a third of a tiny run on a slow disk.

    It guards against a loss of power, which no test brings about; a process that is killed loses nothing that the system has.
    That files are synced in time is tested in test_files.
    """


os.fsync = written_through


# Ray starts for half a minute and not everyone has it: these run where they are named, as in ``make test-cluster``.
collect_ignore = ["executor/test_ray.py", "bundle/test_predict_on_ray.py", "cycle/test_run_on_ray.py"]

# None that opens a browser: playwright leaves an event loop behind, in which no later test can run one.
LATE_AND_LONG = frozenset(f"test_{name}.py" for name in ("api", "classifier", "cli", "trainer", "new_user"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collecting imports all test files, and with them all libraries: a million objects that stay."""
    from cotune.garbage import collection_paused

    with collection_paused():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long and come late go first: at the end, one process would work on such a file and the others wait."""
    items.sort(key=lambda item: item.path.name not in LATE_AND_LONG)


def pytest_runtest_setup() -> None:
    # Two processes with two threads each on two cores are many times slower than one after the other.
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all test processes of this session."""
    folder = tmp_path_factory.getbasetemp()
    # xdist gives each of its processes a folder in that of the session.
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache, so that nothing an earlier run stored can answer a test; only converted models are shared."""
    from cotune.cache import cache_folder

    shared = cache_folder("models")
    folder = tmp_path_factory.mktemp("cotune-cache")
    (folder / "models").symlink_to(shared, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTUNE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def bundled_folder(cache_of_this_session: Path) -> Path:
    """The bundled model, fetched and converted where this machine does not have it yet."""
    from cotune.errors import InputError
    from cotune.model.loading.bundled import bundled_model_folder

    try:
        return bundled_model_folder()
    except InputError as error:
        pytest.skip(f"no bundled model: {error}")
