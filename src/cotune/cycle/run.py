"""A whole run: prepare, search, confirm, test, report. Another call with the same folder resumes the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.config import RunConfig
from cotune.cycle.backends.registry import backend_of
from cotune.cycle.budget.budget import Budget
from cotune.cycle.folder import is_barely_begun, open_folder
from cotune.cycle.inputs import read_inputs
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet, View, say
from cotune.cycle.stages import confirm, prepare, report, search, test
from cotune.cycle.workers.opening import check_spread, open_workers
from cotune.endpoint.errors import EndpointError
from cotune.errors import InputError, counted
from cotune.executor import Choice
from cotune.plain import duration, fields, shipped
from cotune.run_files import BUNDLE, REPORT, SUMMARY
from cotune.task.task import Task

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run.

    Attributes:
        folder: the run's folder.
        summary: content of ``summary.json``.
    """

    folder: Path
    summary: dict[str, Any]

    @property
    def bundle(self) -> Path:
        """Folder of the bundle."""
        return self.folder / BUNDLE

    @property
    def score(self) -> float:
        """Score of the bundle on the sealed test, by the task's metric."""
        return float(shipped(self.summary)["score"])

    def to_frame(self) -> DataFrame:
        """Arms and references as rows of a pandas frame: ``score``, ``low`` and ``high`` (95%), ``n``, ``log_loss``.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise InputError("to_frame needs pandas", where="Result", hint="pip install 'cotune[frames]'.") from error
        found = {"arm": self.summary["arms"], "reference": self.summary.get("references") or {}}
        rows = []
        for kind, named in found.items():
            for name, one in named.items():
                if one is not None:
                    low, high = one.get("ci") or (None, None)
                    facts = {"score": one["score"], "low": low, "high": high, "n": one["n"], "log_loss": one["log_loss"]}
                    rows.append({"name": name, "kind": kind, **facts})
        return DataFrame(rows).set_index("name")

    def report(self) -> Path:
        """Path of the run's report page, a file for the browser; it is written if it is missing.

        Raises:
            CotuneError: the file cannot be written.
        """
        from cotune.report.html import write_report

        page = self.folder / REPORT
        return page if page.is_file() else write_report(self.folder)

    def __repr__(self) -> str:
        from cotune.report.terminal.notebook import summary_line

        return f"Result({str(self.folder)!r}, {summary_line(self.summary)})"

    def _repr_html_(self) -> str:
        from cotune.report.html import run_blocks
        from cotune.report.terminal.notebook import summary_html

        return summary_html({**self.summary, "out": str(self.folder)}, run_blocks(self.folder))


def run(
    config: RunConfig,
    out: Path,
    *,
    task: Task | None = None,
    prompts: Sequence[str] = (),
    view: View | None = None,
    command: str | None = None,
    executor: Choice | None = None,
    started: float | None = None,
) -> Result:
    """Tune prompt and model together for a task; resumes the run in ``out``, if there is one.

    Args:
        out: folder of the run; created if missing.
        task: the rows, if they have already been read; None reads the files that the config names.
        prompts: further prompt texts of the user, candidates besides the seed prompt.
        view: shows progress.
        command: the user's command line, for advice on further commands; None if unknown.
        executor: runs work in parallel; None does all work in this process. A run may resume with another executor.
        started: ``time.monotonic()`` from which the budget counts, so that the imports count too; None means now.

    Raises:
        InputError: the config, the data, the model or the budget is wrong, or the folder holds another run.
        BusyError: another process works in the folder.
    """
    view, started = view or Quiet(), time.monotonic() if started is None else started
    if task is None:
        ended = (out / SUMMARY).is_file()
        say(view, f"{out} holds a finished run: reading the rows to check that it is the same" if ended else "reading the rows")
    else:
        # An earlier run with this task may have opened its test for other arms.
        task = replace(task, test=task.test.sealed_again())
    inputs = read_inputs(config, out, task, prompts)
    check_spread(executor, inputs.config, inputs.task, backend_of(inputs.config).alone)
    with open_folder(out, inputs.config, inputs.identity, command) as folder:
        if folder.replaced:
            say(view, folder.replaced)
        if folder.finished is not None:
            say(view, f"the run in {out} is finished: showing its result")
            return Result(out, folder.finished)
        journal = _open_journal(out, inputs.budget, started, view)
        resumes = bool(journal.events)
        with ExitStack() as stack:
            try:
                # Closed after the workers, which may still be using them.
                resources = stack.enter_context(ExitStack())
                workers = stack.enter_context(open_workers(executor, out, _device(inputs.config, journal)))
                prepared = prepare(inputs, journal, out, view, resources, workers)
            except (InputError, EndpointError, KeyboardInterrupt) as error:
                stack.close()
                # A run that was stopped while the model was loading has nothing to resume. Answers that were paid for stay,
                # and with them the folder.
                if is_barely_begun(out) or (not resumes and isinstance(error, InputError)):
                    folder.take_back()
                raise
            found = search(prepared)
            confirmed = confirm(prepared, found)
            tested = test(prepared, confirmed)
            return Result(out, report(prepared, found, confirmed, tested))


def _device(config: RunConfig, journal: Journal) -> str:
    """Device of the model: that of the run's first session, otherwise that of the config."""
    recorded = (event["value"] for event in journal.events if event["kind"] == "engine")
    return str(fields(next(recorded, None)).get("device", config.engine.device))


def _open_journal(out: Path, budget: Budget, started: float, view: View) -> Journal:
    """Open the run's journal; if it is not empty, tell the view, and whether its time is over."""
    journal = Journal(out, started=started)
    journal.listeners.append(view.event)
    if journal.events:
        done = f"{counted(len(journal.events), 'step')} in {duration(journal.clock())}"
        over = budget.kind == "time" and journal.clock() >= budget.amount
        rest = f"; the budget of {duration(budget.amount)} is spent, so only what a result needs is finished" if over else ""
        note = {"text": f"resuming {out} after {done}{rest}"}
        # The time already spent is included, so that a view's clock continues from it.
        spent = round(journal.clock(), 3)
        view.event({"n": len(journal.events) - 1, "kind": "note", "active_s": spent, "value": note})
        # Only some views need the earlier events.
        for event in journal.events if getattr(view, "wants_history", False) else ():
            view.event(event)
    return journal
