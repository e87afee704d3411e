"""``cotune report``: write a run's page and print its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Json, app, echo_json, tell
from cotune.errors import no_run
from cotune.run_files import JOURNAL, run_folder


@app.command(epilog="Example:\n\n  cotune report runs/mine")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, finished or not.")],
    as_json: Json = False,
) -> None:
    """Write report.html, one offline page, and print the verdict again."""
    run = run_folder(run)
    if not (run / JOURNAL).is_file():
        raise no_run(run)
    from cotune.cycle.kept import read_summary
    from cotune.report.html import write_report

    summary = read_summary(run)
    if as_json:
        echo_json({"report": str(write_report(run)), "summary": summary})
        return
    # The verdict comes first, so that it is also printed for a folder that cannot be written to.
    if summary is None:
        why = "the run has not ended, or its summary.json cannot be read"
        tell(f"There is no verdict: {why}. The same cotune run command continues the run, or writes the file again.", err=True)
    else:
        from cotune.cli.terminal import out_console
        from cotune.report.terminal.verdict import print_verdict

        print_verdict({**summary, "out": str(run)}, out_console())
    tell(f"Report: {write_report(run)}")
