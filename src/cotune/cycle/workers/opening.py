"""Starting the workers of a run, and refusing runs that cannot use any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from cotune.config import RunConfig
from cotune.cycle.folder import is_barely_begun
from cotune.cycle.workers.exchange import clean_storage, run_storage
from cotune.errors import CotuneError, InputError
from cotune.executor import Choice, Executor, open_executor
from cotune.executor.storage import Folder, Storage, UrlStorage
from cotune.files import make_folder
from cotune.model.local import LocalModel
from cotune.run_files import JOBS
from cotune.task.task import Task

_ALONE = "Remove --executor: this run works in one process."


@contextmanager
def open_workers(choice: Choice | None, out: Path, device: str) -> Iterator[Executor | None]:
    """Open the executor of a run, which is closed at the end of the block; None without workers.

    Workers get GPUs only if the run's ``device``, which may be ``auto``, is one, so that numbers are comparable. The executor
    ``local`` is the same as None.

    Raises:
        InputError: Ray is not installed, the cluster cannot be reached or is too small for the number of workers, or the
            storage cannot be used.
    """
    if choice is None or choice.kind == "local":
        yield None
        return
    folder = out / JOBS
    make_folder(folder)
    storage: Storage = Folder(folder.absolute())
    if choice.storage:
        storage = run_storage(choice.storage, out)
        # Nothing is computed for a storage that cannot be used.
        with storage.trial():
            pass
    try:
        with open_executor(choice, storage, gpus=_on_gpu(device)) as executor:
            from threadpoolctl import threadpool_limits

            # The run itself does some of the workers' jobs and must get the same numbers, which depend on the thread count.
            with threadpool_limits(limits=executor.threads, user_api="blas"):
                yield executor
    finally:
        # If the run has ended, a worker may have stored something after its results were removed.
        if isinstance(storage, UrlStorage) and (not folder.exists() or is_barely_begun(out)):
            with suppress(CotuneError):
                clean_storage(storage)


def _on_gpu(device: str) -> bool:
    return torch.cuda.is_available() if device == "auto" else device.startswith("cuda")


def check_spread(choice: Choice | None, config: RunConfig, task: Task, alone: str) -> None:
    """Refuse workers for a run that cannot use them; ``alone`` is the reason why its model allows none, if any.

    Raises:
        InputError: answers are not read by a probe on a local model.
    """
    if choice is None or choice.kind == "local":
        return
    if alone:
        raise _refused(alone, _ALONE)
    if task.output.kind.written:
        raise _refused(f"workers support only labels, not answers of type {task.output.kind.name}", _ALONE)
    if config.tune.readout == "words":
        name = "tune.readout=words"
        raise _refused(f"with {name}, labels are read by their words, not by a probe", f"Remove {name} or --executor.")


def check_engine(model: LocalModel) -> None:
    """Refuse workers for a run whose model runs on plain batches.

    Raises:
        InputError: the shared-prefix engine does not support the model.
    """
    if not model.shared:
        raise _refused("workers run passes of the shared-prefix engine, which does not support this model", _ALONE)


def _refused(why: str, hint: str) -> InputError:
    return InputError(f"the run cannot use workers: {why}", where="--executor", hint=hint)
