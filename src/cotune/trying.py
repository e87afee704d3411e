"""What ``cotune try`` does in a terminal: each comparison is printed as it is known, and prompts follow one another."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cotune.errors import InputError
from cotune.files import read_text
from cotune.garbage import collection_paused

if TYPE_CHECKING:
    from cotune.cycle.compare import Tryout, Tryouts
    from cotune.cycle.permissions import Permissions


_LOOK_SECONDS = 0.2


def open_run(run: Path, permissions: Permissions) -> Tryouts:
    """Load what a prompt is compared with; the imports take longer than the rest."""
    with collection_paused():
        from cotune.cycle.compare import Tryouts

        return Tryouts(run, permissions=permissions)


def try_one(tryouts: Tryouts, text: str, *, where: str, rows: int, as_json: bool) -> None:
    """Compare one prompt and print what came out: under the tuned weights as soon as that is known, then under the base's.

    Args:
        tryouts: the opened run.
        text: the prompt.
        where: where it came from, for errors.
        rows: flipped rows to show for each set of weights.
        as_json: print one JSON object at the end instead.

    Raises:
        InputError: a prompt without an input field.
    """
    from cotune.report import TRYOUT_CLOSING, comparison_text, tryout_heading

    def show(found: Tryout) -> None:
        if len(found.comparisons) == 1:
            typer.echo(tryout_heading(found) + "\n")
        typer.echo(comparison_text(found.comparisons[-1], rows) + "\n")

    found = tryouts.compare(text, where=where, heard=None if as_json else show)
    typer.echo(json.dumps(found.to_json(), ensure_ascii=False) if as_json else TRYOUT_CLOSING)


def try_typed(run: Path, permissions: Permissions, *, rows: int, as_json: bool) -> None:
    """Take prompts that are typed, one after another; the run is opened while the first one is being typed.

    Args:
        run: a run's folder.
        permissions: what the folder may do.
        rows: flipped rows to show for each set of weights.
        as_json: print one JSON object a prompt.

    Raises:
        InputError: the run cannot be opened.
    """
    from cotune.report.terminal.plain import harmless

    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_run, run, permissions)
        typer.echo("Type a prompt with its input fields in braces, then press Ctrl-D on an empty line.", err=True)
        while text := sys.stdin.read().strip():
            tryouts = opening.result()
            try:
                try_one(tryouts, text, where="prompt", rows=rows, as_json=as_json)
            except InputError as error:
                typer.echo(harmless(error), err=True)
            typer.echo("\nType the next prompt, then Ctrl-D; Ctrl-D alone ends.", err=True)
        # A run that cannot be opened is an error also where nothing was typed.
        opening.result()


def try_saved(run: Path, permissions: Permissions, file: Path, *, rows: int, as_json: bool) -> None:
    """Try a file's prompt, and again whenever the file is saved with other words, until Ctrl-C.

    Args:
        run: a run's folder.
        permissions: what the folder may do.
        file: holds the prompt.
        rows: flipped rows to show for each set of weights.
        as_json: print one JSON object a prompt.

    Raises:
        InputError: the run cannot be opened, or the file cannot be read at first.
        KeyboardInterrupt: by the user, to end it.
    """
    from cotune.report.terminal.plain import harmless

    text: str | None = read_text(file, "the prompt file")
    tryouts = open_run(run, permissions)
    tried: str | None = None
    while True:
        if text is not None and text != tried:
            tried = text
            try:
                try_one(tryouts, text, where=str(file), rows=rows, as_json=as_json)
            except InputError as error:
                typer.echo(harmless(error), err=True)
            typer.echo(f"\nWaiting for {file} to be saved again; Ctrl-C ends.", err=True)
        time.sleep(_LOOK_SECONDS)
        # An editor that replaces the file leaves none for a moment, or an empty one.
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None
        text = text if text and text.strip() else None
