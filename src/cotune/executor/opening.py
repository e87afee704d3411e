"""Opens the chosen executor and closes it at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cotune.executor.choice import Choice, slots_of
from cotune.executor.local import LocalExecutor
from cotune.executor.slots import SlotExecutor
from cotune.model.hardware.capability import default_threads
from cotune.model.hardware.machine import available_memory, usable_cpus

if TYPE_CHECKING:
    from cotune.executor.base import Executor


@contextmanager
def open_executor(choice: Choice, storage: Path) -> Iterator[Executor]:
    """An executor whose workers end with the block.

    Args:
        choice: which.
        storage: folder of the results; on Ray every node must see it.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached or has too little for so many workers.
    """
    executor = _executor(choice, storage)
    try:
        yield executor
    finally:
        executor.close()


def _executor(choice: Choice, storage: Path) -> Executor:
    if choice.kind == "ray":
        from cotune.executor.on_ray import ray_executor

        return ray_executor(choice, storage)
    if choice.kind == "local":
        return LocalExecutor(storage, default_threads())
    from cotune.executor.processes import ProcessWorker

    count, each = processes_of(choice)
    return SlotExecutor([ProcessWorker(each) for _ in range(count)], storage, each)


def processes_of(choice: Choice) -> tuple[int, int]:
    """How many processes of this machine, and the threads of each."""
    cpus = usable_cpus()
    count = choice.workers or slots_of(cpus, available_memory())
    # OMP_NUM_THREADS bounds the threads of one process, not the number of them.
    return count, max(1, min(default_threads(), cpus // count))
