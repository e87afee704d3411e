"""Many jobs: submitted as slots are free, given back in their own order once all are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from cotune.executor.base import Executor
from cotune.executor.job import Done, Job, found

AHEAD = 2
"""Jobs a slot that are submitted at the same time: one runs, one waits."""


def run_all(executor: Executor, jobs: Iterable[Job], told: Callable[[Done], None] = lambda done: None) -> list[Done]:
    """Have all jobs done.

    Args:
        executor: who does them.
        jobs: in their order; they are made as they are needed.
        told: each job when it is done, in the order in which that happens.

    Returns:
        The jobs in the order in which they were given, whatever the order in which they were done: what is decided by them is
        decided alike on every executor.

    Raises:
        LostError: workers were lost in one job again and again, or none is left.
        InputError: a result is not in the storage, though its worker wrote it.
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
