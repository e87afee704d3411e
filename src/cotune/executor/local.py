"""An executor that runs jobs in this process, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType

from cotune.executor.job import Done, Job, perform
from cotune.executor.storage import Storage, storage_at


class LocalExecutor:
    """Runs a job when it is submitted.

    Args:
        storage: storage of the results, or their folder.
        threads: number of CPU threads that a job may use.
    """

    slots = 1
    lost = 0
    losses: Mapping[str, int] = MappingProxyType({})

    def __init__(self, storage: Path | Storage, threads: int) -> None:
        self.storage, self.threads = storage_at(storage), threads

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
