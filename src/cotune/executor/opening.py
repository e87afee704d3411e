"""Opening and closing the chosen executor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cotune.executor.choice import Choice, slots_of
from cotune.executor.local import LocalExecutor
from cotune.executor.slots import SlotExecutor
from cotune.executor.storage import Storage, storage_at
from cotune.model.hardware.capability import default_threads
from cotune.model.hardware.machine import available_memory, usable_cpus

if TYPE_CHECKING:
    from cotune.executor.base import Executor


@contextmanager
def open_executor(choice: Choice, storage: Path | Storage, *, gpus: bool = False) -> Iterator[Executor]:
    """Open an executor whose workers end with the block.

    Args:
        choice: which executor.
        storage: storage of the results, or their folder, which with Ray every node must be able to access.
        gpus: whether workers compute on GPUs; if the number of workers is not given, there is one for each GPU.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached or is too small for the number of workers.
    """
    executor = _executor(choice, storage_at(storage), gpus)
    try:
        yield executor
    finally:
        executor.close()


def _executor(choice: Choice, storage: Storage, gpus: bool) -> Executor:
    if choice.kind == "ray":
        from cotune.executor.on_ray import ray_executor

        return ray_executor(choice, storage, gpus=gpus)
    if choice.kind == "local":
        return LocalExecutor(storage, default_threads())
    from cotune.executor.processes import ProcessWorker

    cards = _cards() if gpus else 0
    count, each = processes_of(choice, cards)
    workers = [ProcessWorker(each, slot % cards if cards else None) for slot in range(count)]
    return SlotExecutor(workers, storage, each)


def _cards() -> int:
    import torch

    return torch.cuda.device_count()


def processes_of(choice: Choice, cards: int = 0) -> tuple[int, int]:
    """Number of worker processes, one for each GPU if GPUs are used, and the number of threads of each."""
    cpus = usable_cpus()
    count = choice.workers or cards or slots_of(cpus, available_memory())
    # OMP_NUM_THREADS bounds the threads of one process, not the number of them.
    return count, max(1, min(default_threads(), cpus // count))
