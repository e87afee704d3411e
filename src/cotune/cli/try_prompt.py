"""``cotune try``: compare a prompt with a run's winner."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.program import ENDPOINT_PANEL, Base, Endpoint, Json, KeyEnv, app, echo_json, option, tell
from cotune.errors import InputError, no_run
from cotune.files import read_standard_input, read_text
from cotune.garbage import collection_paused
from cotune.run_files import CONFIG, run_folder

if TYPE_CHECKING:
    from cotune.cycle.compare import Tryout, Tryouts
    from cotune.cycle.permissions import Permissions

_LOOK_SECONDS = 0.2


@app.command(
    "try",
    epilog="Examples:\n\n  cotune try runs/mine --prompt mine.txt\n  cotune try runs/mine --prompt mine.txt --watch\n"
    "  cotune try runs/mine",
)
def try_(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    prompt: Annotated[Path | None, option("FILE", "File with your prompt; - reads it from standard input.")] = None,
    text: Annotated[str | None, option("PROMPT", "The prompt itself.")] = None,
    rows: Annotated[int, option("N", "Number of changed rows to show.", least=0)] = 8,
    watch: Annotated[bool, typer.Option("--watch", help="Try the file again whenever it is saved, until Ctrl-C.")] = False,
    metric: Annotated[str | None, option("FILE.py:FUNCTION", "Allow executing this metric, which the run names.")] = None,
    endpoint: Endpoint = None,
    key_env: KeyEnv = None,
    judge_endpoint: Annotated[
        str | None, option("URL", "Allow sending rows and answers to this URL for grades.", panel=ENDPOINT_PANEL)
    ] = None,
    judge_key_env: Annotated[
        str | None, option("NAME", "Environment variable that holds the judge's key.", panel=ENDPOINT_PANEL)
    ] = None,
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Compare your own prompt with the winner of a run.

    Shows the difference on dev rows, its interval and changed rows. Without --prompt and --text it asks for prompts.
    """
    if prompt is not None and text is not None:
        raise InputError("a text and a file are two prompts", where="--text, --prompt", hint="Give one of them.")
    run = run_folder(run)
    if not (run / CONFIG).is_file():
        raise no_run(run)
    from cotune.cycle.permissions import Permissions

    allowed = Permissions(metric, endpoint, key_env, judge_endpoint, judge_key_env, base)
    file = None if prompt is None or str(prompt) == "-" else prompt
    if watch:
        if file is None:
            raise InputError("there is no file to watch", where="--watch", hint="Add --prompt FILE.")
        try_saved(run, allowed, file, rows=rows, as_json=as_json)
        return
    if text is None and prompt is None and sys.stdin.isatty():
        try_typed(run, allowed, rows=rows, as_json=as_json)
        return
    where = "--text" if text is not None else "standard input" if file is None else str(file)
    if text is None:
        text = read_standard_input() if file is None else read_text(file, "the prompt file")
    try_one(open_run(run, allowed), text, where=where, rows=rows, as_json=as_json)


def open_run(run: Path, permissions: Permissions) -> Tryouts:
    """Load the run for comparisons; the imports take longer than the rest."""
    with collection_paused():
        from cotune.cycle.compare import Tryouts

        return Tryouts(run, permissions=permissions)


def try_one(tryouts: Tryouts, text: str, *, where: str, rows: int, as_json: bool) -> None:
    """Compare one prompt and print the results, first under the tuned weights, then under the base weights.

    Raises:
        InputError: if the prompt has no input field; ``where`` names its source.
    """
    from cotune.report.terminal.tryout import TRYOUT_CLOSING, comparison_text, tryout_heading

    def show(result: Tryout) -> None:
        if len(result.comparisons) == 1:
            typer.echo(tryout_heading(result) + "\n")
        typer.echo(comparison_text(result.comparisons[-1], rows) + "\n")

    found = tryouts.compare(text, where=where, heard=None if as_json else show)
    if as_json:
        echo_json(found.to_json())
    else:
        typer.echo(TRYOUT_CLOSING)


def try_typed(run: Path, permissions: Permissions, *, rows: int, as_json: bool) -> None:
    """Read prompts interactively; the run loads meanwhile."""
    from cotune.endpoint import EndpointError

    # Imported here before the other thread imports the same modules.
    shown = " and ".join(f"{{{name}}}" for name in _fields(run))
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_run, run, permissions)
        tell(f"Type a prompt with {shown} where the row's text belongs, then press Ctrl-D on an empty line.", err=True)
        while text := read_standard_input().strip():
            tryouts = opening.result()
            try:
                try_one(tryouts, text, where="prompt", rows=rows, as_json=as_json)
            except (InputError, EndpointError) as error:
                tell(error, err=True)
            typer.echo("\nType the next prompt, then Ctrl-D; Ctrl-D alone ends.", err=True)
        # Report a run that cannot be opened even if nothing was typed.
        opening.result()


def _fields(run: Path) -> tuple[str, ...]:
    """The input fields of a run, from its config."""
    from cotune.cycle.kept import read_config
    from cotune.task.reading.field_names import fields_for

    try:
        names = read_config(run / CONFIG)[0].data.input
    except (OSError, ValueError):
        # Errors in it are reported when the run is opened.
        names = ("input",)
    return fields_for(names, names)


def try_saved(run: Path, permissions: Permissions, file: Path, *, rows: int, as_json: bool) -> None:
    """Try a file's prompt, and try it again whenever the file is saved with changes, until Ctrl-C."""
    from cotune.endpoint import EndpointError

    text: str | None = read_text(file, "the prompt file")
    tryouts = open_run(run, permissions)
    tried: str | None = None
    while True:
        if text is not None and text != tried:
            tried = text
            try:
                try_one(tryouts, text, where=str(file), rows=rows, as_json=as_json)
            except (InputError, EndpointError) as error:
                tell(error, err=True)
            tell(f"\nWaiting for {file} to be saved again; Ctrl-C ends.", err=True)
        time.sleep(_LOOK_SECONDS)
        # While an editor replaces the file, it may be missing or empty for a moment.
        text = None
        with suppress(OSError):
            text = file.read_text(encoding="utf-8-sig", errors="replace")
        text = text if text and text.strip() else None
