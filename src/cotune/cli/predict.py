"""``cotune predict``: answer new rows with a bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Base, Json, app, tell
from cotune.errors import InputError
from cotune.garbage import collection_paused


@app.command(epilog='Example:\n\n  cotune predict runs/mine/best --input "How tall is K2?"')
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, such as runs/mine/best.")],
    input: Annotated[str | None, typer.Option(help="One text; without it, JSONL rows come from standard input.")] = None,
    probabilities: Annotated[bool, typer.Option(help="Add each label's probability.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are answered together.")] = 64,
    base: Base = None,
    key_env: Annotated[str | None, typer.Option(help="Variable with the key, where an endpoint answers.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL that the bundle may send rows to, where it is elsewhere.")] = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds that a question to an endpoint may take.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Answer new rows with a bundle."""
    with collection_paused():
        from cotune.bundle import load, predict_stream

        predictor = load(bundle, base=base, key_env=key_env, endpoint=endpoint, patience=patience, once=input is not None)
    if input is not None:
        found = predictor.predict(input, probabilities=True)[0]
        if as_json or probabilities:
            answer = {"answer": found.answer, "probabilities": found.probabilities}
            typer.echo(json.dumps(answer, ensure_ascii=False))
        else:
            tell(found.answer)
        return
    if sys.stdin.isatty():
        raise InputError("there are no rows to answer", where="standard input", mend="Give --input TEXT or pipe JSONL in.")
    predict_stream(predictor, sys.stdin, sys.stdout.write, batch=batch, probabilities=probabilities)
