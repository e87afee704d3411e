"""Opening and closing the chosen executor."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

from cotune.executor.base import Executor
from cotune.executor.choice import Choice, slots_of
from cotune.executor.job import Done, Job, perform
from cotune.executor.slots import SlotExecutor
from cotune.executor.storage import Storage, storage_at
from cotune.model.hardware.capability import default_threads
from cotune.model.hardware.machine import available_memory, usable_cpus


class LocalExecutor:
    """Runs each job in this process when it is submitted."""

    slots = 1
    lost = 0
    losses: Mapping[str, int] = MappingProxyType({})

    def __init__(self, storage: Storage, threads: int) -> None:
        self.storage, self.threads = storage, threads

    def submit(self, job: Job) -> Future[Done]:
        future: Future[Done] = Future()
        try:
            future.set_result(perform(job, self.storage))
        except Exception as error:
            future.set_exception(error)
        return future

    def cancel(self, job: Job) -> bool:
        # It is already done.
        return False

    def close(self) -> None:
        return None


def open_executor(choice: Choice, storage: Path | Storage, *, gpus: bool = False) -> closing[Executor]:
    """Open an executor whose workers end with a ``with`` block.

    With Ray, every node must be able to access the storage. If workers compute on GPUs and their number is not given, there is
    one for each GPU.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached or is too small for the number of workers.
    """
    storage = storage_at(storage)
    if choice.kind == "ray":
        from cotune.executor.on_ray import ray_executor

        return closing(ray_executor(choice, storage, gpus=gpus))
    if choice.kind == "local":
        return closing(LocalExecutor(storage, default_threads()))
    from cotune.executor.processes import ProcessWorker

    cards = 0
    if gpus:
        import torch

        cards = torch.cuda.device_count()
    count, each = processes_of(choice, cards)
    workers = [ProcessWorker(each, slot % cards if cards else None) for slot in range(count)]
    return closing(SlotExecutor(workers, storage, each))


def processes_of(choice: Choice, cards: int = 0) -> tuple[int, int]:
    """Number of worker processes, one for each GPU if GPUs are used, and the number of threads of each."""
    cpus = usable_cpus()
    count = choice.workers or cards or slots_of(cpus, available_memory())
    # OMP_NUM_THREADS bounds the threads of one process, not the number of them.
    return count, max(1, min(default_threads(), cpus // count))
