"""``cotune doctor``: check this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from cotune.cli.program import WORKERS_PANEL, Json, StorageUrl, Workers, app, echo_json, option
from cotune.cli.terminal import out_console
from cotune.cli.workers import choice_of


@app.command(
    epilog="Examples:\n\n  cotune doctor\n  cotune doctor --executor ray\n"
    "  cotune doctor --executor ray:auto --storage s3://bucket/runs"
)
def doctor(
    executor: Annotated[
        str | None, option("NAME", "Also check these workers: local, processes, ray or ray:ADDRESS.", panel=WORKERS_PANEL)
    ] = None,
    workers: Workers = None,
    storage: StorageUrl = None,
    as_json: Json = False,
) -> None:
    """Check this machine, and say how to fix what is missing.

    It also checks workers and their storage if they are named.
    """
    choice = choice_of(executor, workers, storage)
    from cotune.model.hardware.doctor import Diagnosis, diagnose, render

    diagnosis = diagnose()
    if choice is not None:
        from cotune.executor.doctor import diagnose_executor

        diagnosis = Diagnosis((*diagnosis.checks, *diagnose_executor(choice)), diagnosis.probe)
    if as_json:
        echo_json(diagnosis.to_json())
    else:
        out_console().print(render(diagnosis))
    if diagnosis.status == "fail":
        raise typer.Exit(1)
