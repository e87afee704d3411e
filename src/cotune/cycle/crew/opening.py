"""Starts the workers of a run, and refuses runs that cannot use any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cotune.config import RunConfig
from cotune.cycle.crew.crew import jobs_folder
from cotune.cycle.crew.exchange import clean_storage, run_storage
from cotune.cycle.folder import is_barely_begun
from cotune.errors import CotuneError, InputError
from cotune.executor import Choice, Executor, open_executor
from cotune.executor.storage import Folder, Storage, UrlStorage
from cotune.files import make_folder
from cotune.model.local import LocalModel
from cotune.task.task import Task

_ALONE = "Leave --executor out: this run works in one process."


@contextmanager
def open_workers(choice: Choice | None, out: Path, device: str) -> Iterator[Executor | None]:
    """The executor of a run, closed at the end of the block; None without workers.

    Args:
        choice: the executor; ``local`` is the same as None.
        out: the run's folder.
        device: the run's device, or ``auto``. Workers get GPUs only if the run itself uses one, so that numbers are comparable.

    Raises:
        InputError: Ray is not installed, the cluster cannot be reached or has too little for so many workers, or the storage
            cannot be used.
    """
    if choice is None or choice.kind == "local":
        yield None
        return
    folder = jobs_folder(out)
    make_folder(folder)
    storage: Storage = Folder(folder.absolute())
    if choice.storage:
        storage = run_storage(choice.storage, out)
        storage.prove()
    try:
        with open_executor(choice, storage, gpus=_on_gpu(device)) as executor:
            from threadpoolctl import threadpool_limits

            # What the run takes back from its workers it must compute as they do.
            with threadpool_limits(limits=executor.threads, user_api="blas"):
                yield executor
    finally:
        # Of a run that ended, a worker may have stored something since its results were removed.
        if isinstance(storage, UrlStorage) and (not folder.exists() or is_barely_begun(out)):
            with suppress(CotuneError):
                clean_storage(storage)


def _on_gpu(device: str) -> bool:
    import torch

    return torch.cuda.is_available() if device == "auto" else device.startswith("cuda")


def check_spread(choice: Choice | None, config: RunConfig, task: Task) -> None:
    """Refuse workers for a run that cannot use them.

    Raises:
        InputError: rows are answered in another way than by probes on a model of this machine.
    """
    if choice is None or choice.kind == "local":
        return
    tune = config.tune
    if config.remote_model is not None:
        raise _refused("the model answers behind an endpoint, whose questions go out side by side anyway", _ALONE)
    if task.output.kind.written:
        raise _refused(f"answers of type {task.output.kind.name} are written, and only labels are searched by workers", _ALONE)
    for name, wrong in (
        ("tune.readout=words", tune.readout == "words"),
        ("tune.method=prefix", tune.method != "lora"),
        ("refit=true", config.refit),
    ):
        if wrong:
            raise _refused(f"with {name} labels are searched by their words", f"Leave {name} out, or --executor.")


def check_engine(model: LocalModel) -> None:
    """The same, once the model is known.

    Raises:
        InputError: the shared-prefix engine does not fit it.
    """
    if not model.shared:
        raise _refused("the shared-prefix engine does not fit this model, so labels are searched by their words", _ALONE)


def _refused(why: str, hint: str) -> InputError:
    return InputError(f"the run cannot be spread over workers: {why}", where="--executor", hint=hint)
