"""``cotune label``: ask a person for the most useful labels."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.program import Base, Endpoint, Json, KeyEnv, app, bundle_argument, count, echo_json, option, show_page, tell
from cotune.errors import InputError, RowError, counted

if TYPE_CHECKING:
    from cotune.bundle.manifest import Manifest
    from cotune.bundle.predictor import Predictor
    from cotune.labelling.picking import Pick
    from cotune.labelling.session import Earlier, Session

_BROWSER = "In the browser"


@app.command(
    epilog="Examples:\n\n  cotune label runs/mine pool.csv --n 30 --out labelled.csv\n"
    "  cotune label runs/mine pool.csv --out labelled.csv --web\n"
    "  cotune label runs/mine pool.csv --n 100 --json > picked.json"
)
def label(
    run: Annotated[
        Path,
        typer.Argument(
            parser=bundle_argument,
            metavar="RUN",
            help="Folder of a run or of its bundle, or hf://org/name@revision; it must answer with labels, or with --json with "
            "JSON that is not generated.",
        ),
    ],
    pool: Annotated[
        Path,
        typer.Argument(metavar="POOL", help="Rows without labels: CSV, TSV, JSONL, Parquet, or a folder from serve --collect."),
    ],
    n: Annotated[int, typer.Option("--n", min=1, metavar="N", help="Number of rows to ask about.")] = 30,
    out: Annotated[
        Path | None, option("FILE", "Output file: .csv, .tsv, .jsonl or .parquet. Labels are appended to an existing one.")
    ] = None,
    by: Annotated[
        str | None,
        option(
            "NAME", "How to pick rows: diverse_margin, margin or random. (default: diverse_margin; margin behind an endpoint)"
        ),
    ] = None,
    look: Annotated[int, option("N", "Of a larger pool, the model reads this many random rows.", least=1)] = 2000,
    seed: Annotated[int, option("N", "Random seed.", least=0)] = 0,
    web: Annotated[
        bool, typer.Option("--web", help="Ask on a page in the browser instead of the terminal.", rich_help_panel=_BROWSER)
    ] = False,
    port: Annotated[
        int, option("PORT", "Port of the page on 127.0.0.1; 0 picks a free one.", panel=_BROWSER, least=0, most=65535)
    ] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Only print the page's address, open no browser.", rich_help_panel=_BROWSER)
    ] = False,
    base: Base = None,
    key_env: KeyEnv = None,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Pick the rows whose labels would help most, and ask for them.

    You can quit at any time; the same command resumes.
    """
    from cotune.bundle.load import OpenedBundle
    from cotune.labelling.acquisition import ACQUISITIONS
    from cotune.labelling.known import bundle_of
    from cotune.labelling.picking import DEFAULT
    from cotune.labelling.pool import identity_of

    bundle, folder = bundle_of(run)
    opened = OpenedBundle.read(bundle)
    manifest = opened.manifest
    if not manifest.labels:
        _check_only_picked(manifest, bundle, only_picked=as_json and not web)
    # Without hidden states, only methods by probabilities alone are left.
    way = by or ("margin" if opened.has_endpoint else DEFAULT)
    if way not in ACQUISITIONS:
        raise InputError(f"unknown method {way!r}", where="--by", hint=f"Give one of {', '.join(ACQUISITIONS)}.")
    asks = {"bundle": manifest.id, "n": n, "way": way, "seed": seed, "look": look, "pool": identity_of(pool)}

    def load() -> Predictor:
        from cotune.bundle import load as load_bundle

        return load_bundle(bundle, base=base, key_env=key_env, endpoint=endpoint)

    def picked() -> tuple[list[Pick], Earlier]:
        return _picked(load, folder, manifest, pool, asks, out)

    if as_json and not web:
        picks, _ = picked()
        echo_json({"way": way, "labels": list(manifest.labels), "rows": [_shown(pick, manifest) for pick in picks]})
        return
    if out is None:
        raise InputError("the output file is missing", where="--out", hint="Add --out labelled.csv or --json.")
    from cotune.files import check_place, locked
    from cotune.task.reading.sheet import check_suffix

    check_suffix(out)
    check_place(out)
    if not web and not sys.stdin.isatty():
        raise InputError(
            "cannot ask, since standard input is not a terminal",
            where="cotune label",
            hint="--web asks in a browser, --json prints the picked rows.",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with locked(lock, f"{out}: another cotune label is adding to this file. Wait for it, or choose another --out."):
        try:
            session = _session(picked, manifest, asks, out)
            _ask(session, web=web, port=port, no_open=no_open, as_json=as_json)
            session.close()
        finally:
            # Nobody waits for it.
            lock.unlink(missing_ok=True)
    _last_words(session, bundle, folder, as_json=as_json)


def _check_only_picked(manifest: Manifest, bundle: Path, *, only_picked: bool) -> None:
    """Refuse a bundle without labels, whose rows can only be picked, and only if the model says how sure it is of them."""
    sure = manifest.fields is not None and manifest.output.kind.nested_cells
    if not sure or not only_picked:
        hint = "--json prints the picked rows, for labelling elsewhere." if sure else "Name one that answers with labels."
        raise InputError("the bundle does not answer with labels, so it cannot ask for one", where=str(bundle), hint=hint)


def _shown(pick: Pick, manifest: Manifest) -> dict[str, Any]:
    """A picked row for ``--json``."""
    row = {"number": pick.number, "row": pick.row}
    if manifest.labels:
        return {**row, "guess": pick.guess, "probabilities": pick.shares}
    return {**row, "guess": manifest.output.told(pick.guess), "confidence": pick.shares[pick.guess]}


def _picked(
    load: Callable[[], Predictor], folder: Path | None, manifest: Manifest, pool: Path, asks: dict[str, Any], out: Path | None
) -> tuple[list[Pick], Earlier]:
    """The rows to ask about, and the existing content of the label file."""
    from cotune.bundle.answer_sheet import check_sheet
    from cotune.bundle.rows import said
    from cotune.bundle.seen import seen_inputs
    from cotune.labelling.known import rows_of_run
    from cotune.labelling.picking import pick_rows
    from cotune.labelling.pool import read_pool
    from cotune.labelling.session import Earlier

    # Check the files before loading a model.
    sheet = read_pool(pool, manifest.input_fields)
    checked = check_sheet(sheet, manifest.input_fields)
    earlier = Earlier.read(out, manifest.input_fields, manifest.output_field) if out is not None else Earlier()
    _, words, all_read = ([], set[str](), True) if folder is None else rows_of_run(folder, manifest)
    readable = (row for row in checked if not isinstance(row, RowError))
    seen = None if folder is None else seen_inputs(folder, readable)
    words |= {said(row) for row in seen or ()}
    # The hashes know the rows of a task that was made in Python too.
    if not all_read and seen is None:
        tell("The run's training rows cannot be read; rows of the pool that are among them may be asked again.", err=True)
    options = {name: asks[name] for name in ("way", "look", "seed")} | {"known": words | earlier.known}
    progress = partial(count, what="rows looked at")
    return pick_rows(load(), sheet, checked, asks["n"], **options, progress=progress), earlier


def _session(picked: Callable[[], tuple[list[Pick], Earlier]], manifest: Manifest, asks: dict[str, Any], out: Path) -> Session:
    from cotune.labelling.session import Session, read_session

    resumed = read_session(out, asks, manifest.input_fields, manifest.label_type)
    if resumed is not None:
        tell(f"Resuming at row {resumed.at + 1} of {len(resumed.picks)}.", err=True)
        return resumed
    picks, earlier = picked()
    label_type = manifest.label_type
    session = Session(out, manifest.output_field, manifest.labels, picks, earlier, asks, label_type=label_type)
    session.save()
    return session


def _ask(session: Session, *, web: bool, port: int, no_open: bool, as_json: bool) -> None:
    if not web:
        from cotune.labelling.terminal import ask_in_terminal

        def write(text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        ask_in_terminal(session, sys.stdin.fileno(), write)
        return
    from cotune.labelling.page import label_on_page

    def ready(address: str) -> None:
        line = f"Label at {address}  (the page's Quit or Ctrl-C ends it)"
        show_page(address, line, {"out": str(session.out)}, as_json=as_json, no_open=no_open)

    label_on_page(session, port=port, ready=ready)


def _last_words(session: Session, bundle: Path, folder: Path | None, *, as_json: bool) -> None:
    left = len(session.picks) - session.at
    if as_json:
        counts = {"labelled": session.labelled, "skipped": session.skipped, "left": left, "agreed": session.agreed}
        echo_json({"out": str(session.out), **counts})
        return
    picked = session.identity["way"] != "random"
    unlike = ", which says little about other rows, since these were not picked at random" if picked else ""
    labelled = counted(session.labelled, "row")
    tell(f"{labelled} labelled: {session.out}. The model's guess was right on {session.agreed} of them{unlike}.")
    if left:
        tell(f"{counted(left, 'row')} {'is' if left == 1 else 'are'} left; the same command resumes.")
    elif session.labelled:
        from cotune.labelling.known import replay_options, replayed_by

        written = session.sheet(session.actions)
        replayed = replay_options(folder, () if written is None else written.columns)
        parts = ("cotune", "run", str(session.out), "--from", str(bundle), *replayed, "data.test=TEST.csv")
        tell("Train on them, and test on rows that were not picked: " + shlex.join(parts))
        if (older := replayed_by(folder)) is not None:
            tell(f"That run replayed {older} as well: for --replay put the rows of both into one file, or they are forgotten.")
