"""Running many jobs and returning them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from cotune.executor.base import Executor
from cotune.executor.job import Done, Job, found

AHEAD = 2
"""Number of submitted jobs per slot: one runs, one waits."""


def run_all(executor: Executor, jobs: Iterable[Job], told: Callable[[Done], None] = lambda done: None) -> list[Done]:
    """Run all jobs; returns them in the order of ``jobs``, so that results do not depend on the executor.

    Args:
        jobs: the jobs; the iterable is consumed as slots become free.
        told: called with each job when it is finished, in order of time.

    Raises:
        LostError: too many workers were lost in one job, or no worker is left.
        InputError: a result does not appear in the storage, although its worker wrote it.
    """
    done: dict[int, Done] = {}
    waiting: dict[Future[Done], list[int]] = {}

    def settle(future: Future[Done]) -> None:
        result = future.result()
        result.storage.wait_for(result.key)
        for place in waiting.pop(future):
            done[place] = result
            told(result)

    for place, job in enumerate(jobs):
        if (known := found(job, executor.storage)) is not None:
            done[place] = known
            told(known)
            continue
        future = executor.submit(job)
        waiting.setdefault(future, []).append(place)
        if future.done():
            settle(future)
        while len(waiting) >= AHEAD * executor.slots:
            for ready in wait(waiting, return_when=FIRST_COMPLETED).done:
                settle(ready)
    while waiting:
        for ready in wait(waiting, return_when=FIRST_COMPLETED).done:
            settle(ready)
    return [done[place] for place in range(len(done))]
