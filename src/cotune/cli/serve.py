"""``cotune serve``: bundles behind an API."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Base, Json, app, bundle_argument, echo_json, option, tell
from cotune.errors import counted
from cotune.plain import one_line

_ACCESS, _BOUNDS = "Address and access", "Bounds"


@app.command(
    epilog="Examples:\n\n  cotune serve runs/mine\n  cotune serve runs/mine runs/other --host 0.0.0.0 --token-env MY_TOKEN"
)
def serve(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            parser=bundle_argument,
            metavar="BUNDLES",
            help="Folders of runs or of their bundles, or hf://org/name@revision; those with the same base model share it.",
        ),
    ],
    host: Annotated[
        str, option("ADDRESS", "Address to listen on; any but 127.0.0.1 needs --token-env.", panel=_ACCESS)
    ] = "127.0.0.1",
    port: Annotated[int, option("PORT", "Port; 0 picks a free one.", panel=_ACCESS, least=0, most=65535)] = 8000,
    token_env: Annotated[
        str | None, option("NAME", "Environment variable that holds the token which clients must send.", panel=_ACCESS)
    ] = None,
    queue: Annotated[
        int, option("N", "Maximum number of waiting rows; more are refused with 429.", panel=_BOUNDS, least=1)
    ] = 1024,
    batch: Annotated[int, option("N", "Rows per batch.", panel=_BOUNDS, least=1)] = 64,
    max_body: Annotated[int, option("BYTES", "Maximum size of a request body.", panel=_BOUNDS, least=1024)] = 2**20,
    device: Annotated[str, option("NAME", "auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, option("NAME", "auto, float32, bfloat16 or float16.")] = "auto",
    base: Base = None,
    allowed_hosts: Annotated[
        str | None,
        option("NAMES", "Host names that requests may be addressed to, such as example.org,*.example.org.", panel=_ACCESS),
    ] = None,
    drain: Annotated[
        float, option("SECONDS", "Time at shutdown to answer requests that have arrived; then 503.", panel=_BOUNDS, least=0)
    ] = 25.0,
    unsure: Annotated[
        float | None,
        option("SHARE", "Share of rows that /predict may answer wrongly; undecided rows are left open.", least=0.001, most=0.5),
    ] = None,
    collect: Annotated[
        Path | None, option("FOLDER", "Store undecided and unusual rows in this folder, for cotune label.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve bundles over HTTP, with OpenAI's API.

    Another path, /predict, takes the fields of the task. SIGTERM or Ctrl-C ends it once all requests so far are answered.
    """
    from cotune.bundle.serve import ServeSettings
    from cotune.bundle.serve import serve as serve_bundles

    def ready(address: str, ids: list[str]) -> None:
        if as_json:
            echo_json({"url": address, "models": ids})
        else:
            shown = ", ".join(one_line(name, 200) for name in ids)
            typer.echo(f"Serving {shown} at {address}  (API: {address}/docs, Ctrl-C ends it)")
        sys.stdout.flush()

    names = tuple(name.strip() for name in allowed_hosts.split(",")) if allowed_hosts is not None else ()
    settings = ServeSettings(host, port, token_env, queue, batch, max_body, device, dtype, drain, names, unsure, collect)
    like = [_learnt_from(bundle) for bundle in bundles] if collect is not None else []
    if not serve_bundles(bundles, settings, base=base, like=like, ready=ready):
        # The model may still be processing a batch that nobody waits for, and a regular exit could then crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _learnt_from(bundle: Path) -> list[dict[str, str]]:
    """The bundle's training rows, if they can be found through its run."""
    from cotune.bundle.manifest import read_manifest
    from cotune.labelling.known import bundle_of, rows_of_run

    folder, run = bundle_of(bundle)
    rows, _, all_read = rows_of_run(run, read_manifest(folder)) if run is not None else ([], set(), False)
    if not rows:
        tell(f"{bundle}: the training rows are unknown, so rows are not collected for being far from them.", err=True)
    elif not all_read:
        known = f"only {counted(len(rows), 'training row')} {'is' if len(rows) == 1 else 'are'} known"
        tell(f"{bundle}: {known}, from which rows are collected for being far.", err=True)
    return rows
