"""``cotune view``: show a run's report in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Json, app, option, show_page


@app.command(epilog="Example:\n\n  cotune view runs/mine")
def view(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, finished or not.")],
    port: Annotated[int, option("PORT", "Port on 127.0.0.1; 0 picks a free one.", least=0, most=65535)] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the address, open no browser.")] = False,
    as_json: Json = False,
) -> None:
    """Show a run's report in the browser, also during the run.

    Ctrl-C ends it.
    """
    from cotune.report.view import view_run

    def ready(address: str) -> None:
        line = f"Report of {run}: {address}  (Ctrl-C ends it)"
        show_page(address, line, {"run": str(run)}, as_json=as_json, no_open=no_open)

    view_run(run, port=port, ready=ready)
