"""``cotune embed``: turn texts into vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cotune.cli.program import ExecutorName, Json, Workers, app, echo_json, tell
from cotune.cli.workers import Meter, choice_of, running, tell_summary
from cotune.errors import counted


@app.command(
    epilog="Examples:\n\n  cotune embed --input texts.txt --out vectors.npy\n\n"
    "  cotune embed --input rows.csv --column question --out vectors.parquet --standard whiten\n\n"
    "  cotune embed --input queries.txt --out queries.npy --fit-on documents.txt"
)
def embed(
    input: Annotated[
        Path,
        typer.Option(
            help="One text per line, JSONL, CSV, TSV or Parquet; - is standard input. A language model reads 1,200 characters "
            "of each."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output file: .npy, .parquet or .jsonl, in the order of the texts.")],
    model: Annotated[
        str,
        typer.Option(help="smollm2-135m (bundled), a folder, a hub id, sentence-transformers:FOLDER or model2vec:FOLDER."),
    ] = "smollm2-135m",
    column: Annotated[
        str | None, typer.Option(help="Column or key that holds the text. (default: text, or the only column)")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="prompt_eol, or static, which runs no model and is much faster.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer whose output is read; negative counts from the last.")] = None,
    standard: Annotated[
        str | None,
        typer.Option(
            help="none, centre, half_whiten or whiten (default: half_whiten from 300 different texts on, else centre; none "
            "for one text and for encoders)."
        ),
    ] = None,
    fit_on: Annotated[
        Path | None,
        typer.Option(help="Texts to fit the standard on; vectors of two files are comparable if both use the same."),
    ] = None,
    on_blank: Annotated[
        str, typer.Option(help="Rows with a blank text: an error (error), or left out and counted (skip).")
    ] = "error",
    executor: ExecutorName = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Turn texts into vectors with the model; vectors are cached."""
    choice = choice_of(executor, workers)
    from cotune.embed.command import EmbedTask, embed_here

    settings = {"pooling": pooling, "layer": layer}
    given: dict[str, Any] = {"standard": standard, "fit_on": fit_on, "on_blank": on_blank}
    task = EmbedTask.read(input, out, model=model, column=column, settings=settings, **given)
    unlike = ""
    if choice is None:
        result = embed_here(task)
    else:
        from cotune.embed.chunks import embed_on

        meter = Meter(len(task.different), "text")
        with running(choice, out) as running_on:
            result, unlike = embed_on(running_on, task, meter.told)
            result |= meter.summary(running_on)
    if as_json:
        echo_json(result)
    else:
        size = f"{counted(result['texts'], 'text')}, {counted(result['width'], 'number')} each"
        tell(f"{size}, {result['from_cache']} from the cache: {out}")
        if choice is not None:
            tell_summary(result, "text", unlike)
        if skipped := result["blank_rows_skipped"]:
            typer.echo(f"{counted(skipped, 'row')} without text {'was' if skipped == 1 else 'were'} left out.", err=True)
        if result["cut"]:
            typer.echo(f"Of {result['cut']} only the first {result['max_chars']} characters were read.", err=True)
