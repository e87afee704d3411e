"""``cotune doctor``: what this machine offers."""

from __future__ import annotations

import json

import typer

from cotune.cli.program import Json, app


@app.command(epilog="Example:\n\n  cotune doctor --json")
def doctor(as_json: Json = False) -> None:
    """Check this machine and say how to fix what is missing."""
    from cotune.model.hardware.doctor import diagnose, render

    found = diagnose()
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        from rich.console import Console

        Console(highlight=False).print(render(found))
    if found.status == "fail":
        raise typer.Exit(1)
