"""The workers of a distributed run: the work of each, and lost workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.errors import counted
from cotune.plain import count_of, duration, fields, number, one_line
from cotune.report.html.markup import data_text, esc, figure, plain_table
from cotune.report.html.sections.record import RunRecord

_MOST = 64
_CAPTION = (
    "A job is one pass over rows, one probe that is fitted, one tuning, or one batch of the test. A worker is busy while it "
    "has a job, loading of the model included. A job whose worker was lost is done again by another one."
)


def workers_section(record: RunRecord) -> str:
    """A table of the workers; empty if the run used none."""
    account = record.workers
    workers = {str(name): fields(one) for name, one in fields(account.get("workers")).items()}
    if not workers:
        return ""
    ranked = sorted(workers.items(), key=lambda item: (-(number(item[1].get("seconds")) or 0.0), item[0]))
    rows = "".join(_row(name, one) for name, one in ranked[:_MOST])
    more = f"<p>{counted(len(ranked) - _MOST, 'more worker')} did less.</p>" if len(ranked) > _MOST else ""
    if unlike := account.get("unlike"):
        note = "The workers differ, so last digits may depend on which worker did a job"
        more += f"<p>{note}: {data_text(one_line(unlike, 300))}.</p>"
    table = plain_table(("Worker", "Jobs", "Busy", "Lost", "Computes with"), rows)
    return figure(_title(account), table + more, _CAPTION)


def _title(account: Mapping[str, Any]) -> str:
    slots, jobs, lost = (count_of(account.get(name)) for name in ("slots", "jobs", "lost"))
    busy, there = (number(account.get(name)) or 0.0 for name in ("busy_seconds", "slot_seconds"))
    share = f", {100 * min(1.0, busy / there):.0f}% of {esc(duration(there))} of slots" if there else ""
    parts = [counted(slots, "slot"), counted(jobs, "job"), f"busy {esc(duration(busy))}{share}"]
    return "; ".join([*parts, *([f"{counted(lost, 'worker')} lost"] if lost else [])])


def _row(name: str, worker: Mapping[str, Any]) -> str:
    engine = fields(worker.get("engine"))
    parts = [str(engine[key]) for key in ("processor", "dtype") if engine.get(key)]
    if threads := number(engine.get("threads")):
        parts.append(counted(int(threads), "thread"))
    jobs, seconds, lost = (number(worker.get(key)) for key in ("jobs", "seconds", "lost"))
    busy = "–" if seconds is None else duration(seconds)
    numbers = "".join(f"<td class=num>{esc(value)}</td>" for value in (f"{int(jobs or 0):,}", busy, int(lost or 0) or "–"))
    return (
        f"<tr><td>{data_text(one_line(name, 80))}</td>{numbers}"
        f"<td class=quiet>{data_text(one_line(', '.join(parts), 80)) or '–'}</td></tr>"
    )
