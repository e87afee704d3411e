"""``cotune list``: the runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Json, app, echo_json
from cotune.cli.terminal import out_console
from cotune.plain import clock, decimal, harmless, one_line

_USUAL = Path("runs")
"""The default folder of runs."""
_ROOMY = 120
"""Minimum width of a terminal, in columns, to show task and model too."""
_TIGHT = 60
"""Width under which only folder, score and state are shown."""


@app.command("list", epilog="Examples:\n\n  cotune list\n  cotune list runs/sweep --json")
def list_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that contains runs.")] = _USUAL,
    as_json: Json = False,
) -> None:
    """List the runs in a folder with their scores.

    Shows score, interval, test rows, time and state; in wide terminals also task and model.
    """
    from cotune.cycle.runs.listing import list_runs

    runs = list_runs(folder) if folder.is_dir() or folder != _USUAL else []
    if as_json:
        echo_json([run.to_json() for run in runs])
        return
    if not runs:
        where = str(folder) if folder.is_dir() else f"{folder}, a folder that does not exist yet"
        typer.echo(harmless(f"No runs in {where}. cotune run FILE --input COLUMN --output COLUMN makes one."))
        return
    from rich.text import Text

    from cotune.report.terminal.layout import table_of

    console = out_console()
    # The folders, which other commands need, get what the other columns leave.
    what = ["task", "model"] if console.width >= _ROOMY else []
    facts = ["95% interval", "rows>", "time>"] if console.width >= _TIGHT else []
    table = table_of(["run", *what, "score>", *facts, "state"], console.width)
    for run in runs:
        cells: dict[str, Text | str] = {
            "task": Text(one_line(run.task, 24)),
            "model": Text(one_line(run.model, 24)),
            "95% interval": "-" if run.ci is None else f"{run.ci[0]:.3f} to {run.ci[1]:.3f}",
            "rows>": "-" if run.n is None else str(run.n),
            "time>": "-" if run.seconds is None else clock(round(run.seconds)),
        }
        table.add_row(
            Text(one_line(run.folder, 400)),
            *(cells[name] for name in what),
            decimal(run.score),
            *(cells[name] for name in facts),
            run.state,
        )
    console.print(table)
    if len({run.metric for run in runs if run.metric}) > 1:
        typer.echo("The scores are of different metrics; --json names each run's.")
