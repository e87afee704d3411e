"""``cotune embed``: turn texts into vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import ExecutorName, Json, Workers, app, echo_json, option, tell
from cotune.cli.workers import Meter, choice_of, running, tell_summary
from cotune.errors import counted

_VECTORS = "Vectors"


@app.command(
    epilog="Examples:\n\n  cotune embed --input texts.txt --out vectors.npy\n"
    "  cotune embed --input rows.csv --column question --out vectors.parquet --standard whiten\n"
    "  cotune embed --input queries.txt --out queries.npy --fit-on documents.txt"
)
def embed(
    input: Annotated[
        Path,
        option(
            "FILE",
            "Texts: one per line, or JSONL, CSV, TSV or Parquet; - is standard input. A language model reads the first "
            "1,200 characters of each.",
        ),
    ],
    out: Annotated[Path, option("FILE", "Output file: .npy, .parquet or .jsonl, in the order of the texts.")],
    model: Annotated[
        str,
        option(
            "MODEL",
            "smollm2-135m (bundled), a folder, a hub id, sentence-transformers:FOLDER or model2vec:FOLDER.",
            panel=_VECTORS,
        ),
    ] = "smollm2-135m",
    column: Annotated[
        str | None, option("COLUMN", "Column or key that holds the text. (default: text, or the only column)")
    ] = None,
    pooling: Annotated[
        str | None,
        option("NAME", "prompt_eol, or static, which runs no model and is much faster. (default: prompt_eol)", panel=_VECTORS),
    ] = None,
    layer: Annotated[
        int | None, option("N", "Layer whose output is read; negative counts from the last. (default: -2)", panel=_VECTORS)
    ] = None,
    standard: Annotated[
        str | None,
        option(
            "NAME",
            "How vectors are standardised: none, centre, half_whiten or whiten. (default: half_whiten from 300 different "
            "texts on, else centre; none for one text and for encoders)",
            panel=_VECTORS,
        ),
    ] = None,
    fit_on: Annotated[
        Path | None,
        option(
            "FILE",
            "Texts that --standard is fitted on. Vectors of two files are comparable only if both used the same texts.",
            panel=_VECTORS,
        ),
    ] = None,
    on_blank: Annotated[
        str, option("NAME", "Rows with a blank text: stop (error), or leave them out and count them (skip).")
    ] = "error",
    executor: ExecutorName = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Turn texts into vectors with the model; vectors are cached."""
    choice = choice_of(executor, workers)
    from cotune.embed.command import EmbedTask, embed_here

    settings = {"pooling": pooling, "layer": layer}
    task = EmbedTask.read(
        input, out, model=model, column=column, settings=settings, standard=standard, fit_on=fit_on, on_blank=on_blank
    )
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
