"""``cotune serve``: bundles behind an API."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Base, Json, app, bundle_argument, echo_json, tell

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
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; any but 127.0.0.1 needs --token-env.", rich_help_panel=_ACCESS
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 picks a free one.", rich_help_panel=_ACCESS)
    ] = 8000,
    token_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Environment variable that holds the token which clients must send.", rich_help_panel=_ACCESS
        ),
    ] = None,
    queue: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Maximum number of waiting rows; more are refused with 429.", rich_help_panel=_BOUNDS
        ),
    ] = 1024,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Rows per batch.", rich_help_panel=_BOUNDS)] = 64,
    max_body: Annotated[
        int, typer.Option(min=1024, metavar="BYTES", help="Maximum size of a request body.", rich_help_panel=_BOUNDS)
    ] = 2**20,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(metavar="NAME", help="auto, float32, bfloat16 or float16.")] = "auto",
    base: Base = None,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Host names that requests may be addressed to, such as example.org,*.example.org.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Time at shutdown to answer requests that have arrived; then 503.",
            rich_help_panel=_BOUNDS,
        ),
    ] = 25.0,
    unsure: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.5,
            metavar="SHARE",
            help="Share of rows that /predict may answer wrongly; undecided rows are left open.",
        ),
    ] = None,
    collect: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Store undecided and unusual rows in this folder, for cotune label.")
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
            from cotune.plain import one_line

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
    rows = rows_of_run(run, read_manifest(folder))[0] if run is not None else []
    if not rows:
        tell(f"{bundle}: the training rows are unknown, so rows are not collected for being far from them.", err=True)
    return rows
