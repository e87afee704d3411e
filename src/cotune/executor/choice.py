"""The choice of an executor by ``--executor`` and ``--workers``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cotune.errors import InputError
from cotune.executor.storage import checked_url

KINDS = ("local", "processes", "ray")
WORKER_BYTES = 2 << 30
"""Memory that a worker is assumed to need if the number of workers is not given: the bundled model, and rows."""


@dataclass(frozen=True)
class Choice:
    """An executor and its number of workers.

    Attributes:
        kind: in this process, in processes of this machine, or on Ray.
        address: address of a Ray cluster; if empty, that of ``RAY_ADDRESS``, or a cluster on this machine.
        workers: number of workers; None chooses it by processors and memory.
        storage: URL below which a run's results are stored; if empty, they are stored in the run's folder.
    """

    kind: Literal["local", "processes", "ray"]
    address: str = ""
    workers: int | None = None
    storage: str = ""

    @classmethod
    def named(cls, executor: str | None, workers: int | None, storage: str | None = None) -> Choice | None:
        """Read options that may be missing; None if no executor is named.

        Raises:
            InputError: as for :meth:`parse`, or a number of workers or a storage is given without an executor.
        """
        if executor is not None:
            return cls.parse(executor, workers, storage)
        if workers is not None:
            raise InputError("workers need an executor", where="--workers", hint="Add --executor processes or ray.")
        if storage is not None:
            raise InputError("a storage needs an executor", where="--storage", hint="Add --executor processes or ray.")
        return None

    @classmethod
    def parse(cls, executor: str, workers: int | None = None, storage: str | None = None) -> Choice:
        """Read ``local``, ``processes``, ``ray`` or ``ray:ADDRESS``.

        Raises:
            InputError: it is none of these, does not fit the number of workers, or the storage is not a usable URL.
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
                "there is no address after the colon", where="--executor", hint="Write ray:ray://head:10001, or just ray."
            )
        if workers is not None and workers < 1:
            raise InputError(f"there must be at least 1 worker, not {workers}", where="--workers", hint="Give 1 or more.")
        if kind == "local" and workers not in (None, 1):
            raise InputError(
                f"the executor local has one worker, not {workers}",
                where="--workers",
                hint=f"Use --executor processes --workers {workers}.",
            )
        if kind == "local" and storage is not None:
            raise InputError(
                "the executor local cannot use a storage", where="--storage", hint="Use --executor processes or ray."
            )
        url = "" if storage is None else checked_url(storage)
        return cls(kind, address.strip(), workers, url)  # type: ignore[arg-type]


def slots_of(cpus: int, memory: int) -> int:
    """Number of workers of one processor each that a machine with so many bytes of memory has room for; at least one."""
    return max(1, min(cpus, memory // WORKER_BYTES))
