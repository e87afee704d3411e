"""An executor by what ``--executor`` and ``--workers`` say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cotune.errors import InputError
from cotune.executor.local import LocalExecutor
from cotune.executor.slots import SlotExecutor

if TYPE_CHECKING:
    from cotune.executor.base import Executor

KINDS = ("local", "processes", "ray")
WORKER_BYTES = 2 << 30
"""Memory that a worker is taken to need where nobody says how many workers there are: the bundled model, and rows."""


@dataclass(frozen=True)
class Choice:
    """Which executor.

    Attributes:
        kind: in this process, in processes of this machine, or on Ray.
        address: of a Ray cluster; empty for that of ``RAY_ADDRESS``, or one on this machine.
        workers: how many; None chooses by processors and memory.
    """

    kind: Literal["local", "processes", "ray"]
    address: str = ""
    workers: int | None = None

    @classmethod
    def parse(cls, executor: str, workers: int | None = None) -> Choice:
        """Read ``local``, ``processes``, ``ray`` or ``ray:ADDRESS``.

        Raises:
            InputError: it is none of these, or does not go with the number of workers.
        """
        kind, colon, address = executor.strip().partition(":")
        if kind not in KINDS or (colon and kind != "ray"):
            raise InputError(
                f"unknown executor {executor!r}",
                where="--executor",
                hint="Use local, processes, ray, or ray:ADDRESS such as ray:auto or ray:ray://head:10001.",
            )
        if colon and not address.strip():
            raise InputError(
                "there is no address after the colon", where="--executor", hint="Write ray:ray://head:10001, or ray alone."
            )
        if workers is not None and workers < 1:
            raise InputError(f"{workers} workers are too few", where="--workers", hint="Give 1 or more.")
        if kind == "local" and workers not in (None, 1):
            raise InputError(
                f"local is one worker, not {workers}", where="--workers", hint=f"Use --executor processes --workers {workers}."
            )
        return cls(kind, address.strip(), workers)  # type: ignore[arg-type]


def slots_of(cpus: int, memory: int) -> int:
    """Workers of one processor each that a machine has room for; at least one.

    Args:
        cpus: processors.
        memory: bytes.
    """
    return max(1, min(cpus, memory // WORKER_BYTES))


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
    from cotune.model.hardware.capability import default_threads
    from cotune.model.hardware.machine import available_memory

    if choice.kind == "ray":
        from cotune.executor.on_ray import ray_executor

        return ray_executor(choice, storage)
    threads = default_threads()
    if choice.kind == "local":
        return LocalExecutor(storage, threads)
    from cotune.executor.processes import ProcessWorker

    count = choice.workers or slots_of(threads, available_memory())
    each = max(1, threads // count)
    return SlotExecutor([ProcessWorker(each) for _ in range(count)], storage, each)
