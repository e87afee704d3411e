"""How far a probe race spreads over workers: the executor's real scheduler with jobs that sleep as long as measured ones took.

``python benchmarks/scale.py RUN --out scale.json`` reads the lengths from a finished run's journal, so it needs no cluster. A
search's race over prompts is played as :func:`cotune.cycle.probe_search.race.rounds_of` plans it and as a run with workers
does it: in each round every remaining prompt embeds its new rows, in passes of 64, the longest first. The driver reads these
in its own order and submits each probe's fit behind them; then it collects the fits, and does those itself that no worker has
begun. A round ends before the next one starts. The test drops nobody, so that every round has its planned jobs. Time runs 20
times faster, which makes the scheduler's own time (files written and synced, threads woken) look 20 times longer than it is.

Efficiency is the sum of all jobs' seconds divided by slots times wall-clock seconds; the driver's own fits count as jobs, the
driver not as a slot. It is given with fits as jobs, and with all fits done by the driver.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.race import rounds_of
from cotune.executor import Done, Job, Storage
from cotune.executor.job import perform
from cotune.executor.slots import SlotExecutor

CHUNK = 64


class Sleeper:
    """A worker that is busy without computing."""

    name = "sleeper"

    def start(self) -> None:
        return None

    def perform(self, job: Job, storage: Storage) -> Done:
        return perform(job, storage)

    def stop(self) -> None:
        return None


def sleep(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """A job that takes its time."""
    time.sleep(given["seconds"])
    return b""


def measured(run: Path) -> tuple[list[float], int, int]:
    """Seconds a row of each embedding of a run, its labelled rows, and its labels."""
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [event["value"] for event in events if event["kind"] == "embed" and event["value"]["stage"] == "race"]
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    rows = summary["n"]["train"] + summary["n"]["dev"]
    return [step["seconds"] / step["rows"] for step in steps], rows, len(summary["output"]["labels"])


def race(slots: int, paces: list[float], rows: int, fit: float, *, fits_as_jobs: bool, faster: float) -> dict[str, float]:
    """Play a race of as many prompts as there are paces; seconds as they would be, and the efficiency."""
    busy, number, own = 0.0, 0, 0

    def job(seconds: float) -> Job:
        nonlocal busy, number
        busy, number = busy + seconds, number + 1
        return Job(sleep, {"seconds": seconds / faster, "number": number})

    with tempfile.TemporaryDirectory() as folder:
        executor = SlotExecutor([Sleeper() for _ in range(slots)], Path(folder), 1)
        begun, before, standing = time.monotonic(), 0, len(paces)
        for step in rounds_of(len(paces), rows, HEURISTICS.first_rows):
            chunks = [min(CHUNK, step.rows - start) for start in range(before, step.rows, CHUNK)]
            longest = [(pace * size, place) for place, pace in enumerate(paces[:standing]) for size in chunks]
            passes: list[list[Future[Done]]] = [[] for _ in range(standing)]
            for seconds, place in sorted(longest, reverse=True):
                passes[place].append(executor.submit(job(seconds)))
            fits: list[tuple[Job, Future[Done] | None]] = []
            for states in passes:
                for future in states:
                    future.result()
                probe = job(fit)
                fits.append((probe, executor.submit(probe) if fits_as_jobs else None))
            for probe, found in fits:
                if found is None or executor.cancel(probe):
                    own += 1
                    time.sleep(fit / faster)
                else:
                    found.result()
            before, standing = step.rows, step.keep
        wall = (time.monotonic() - begun) * faster
        executor.close()
    told = {"wall_s": round(wall, 1), "busy_s": round(busy, 1), "efficiency": round(busy / (slots * wall), 3)}
    return {**told, "jobs": number - own, "driver_fits": own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of labels")
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--faster", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    seen, rows, labels = measured(given.run)
    # As cotune.cycle.probe_search.prices prices a fit.
    fit = 0.3 + HEURISTICS.fit_seconds * rows * 576 * labels
    found = []
    for count in given.prompts:
        draw = random.Random(given.seed)
        paces = [draw.choice(seen) for _ in range(count)]
        for slots in given.slots:
            for fits_as_jobs in (False, True):
                result = race(slots, paces, rows, fit, fits_as_jobs=fits_as_jobs, faster=given.faster)
                found.append({"prompts": count, "slots": slots, "fits": "jobs" if fits_as_jobs else "driver", **result})
                print(json.dumps(found[-1]), flush=True)
    told = {"rows": rows, "labels": labels, "fit_s": round(fit, 3), "s_a_row": [round(pace, 4) for pace in seen]}
    if given.out is not None:
        given.out.write_text(json.dumps({"measured": told, "races": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
