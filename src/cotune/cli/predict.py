"""``cotune predict``: answer new rows with a bundle."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.program import (
    Base,
    Batch,
    Bundle,
    Endpoint,
    ExecutorName,
    Json,
    KeyEnv,
    Patience,
    Workers,
    app,
    counting,
    echo_json,
    option,
    tell,
)
from cotune.cli.workers import Meter, choice_of, running, tell_summary
from cotune.errors import InputError, counted, shortened, shown_names
from cotune.files import check_not_input, check_place
from cotune.garbage import collection_paused
from cotune.streams import utf8_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cotune.bundle import Predictor
    from cotune.bundle.manifest import Manifest
    from cotune.executor import Choice


@app.command(
    epilog='Examples:\n\n  cotune predict runs/mine --input "How tall is K2?"\n'
    "  cotune predict runs/mine rows.csv --out answers.csv\n  cotune predict runs/mine < rows.jsonl > answers.jsonl\n"
    "  cotune predict runs/mine many.parquet --out answers.parquet --executor processes --workers 4"
)
def predict(
    bundle: Bundle,
    rows: Annotated[
        Path | None,
        typer.Argument(metavar="ROWS", help="File of rows: CSV, TSV, JSONL or Parquet. (default: JSONL from standard input)"),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "FILE",
            "Output file for the rows with their answers: .csv, .tsv, .jsonl or .parquet. An existing file is replaced. "
            "(default: the screen)",
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="TEXT",
            help="One text to answer instead of a file. If the task has several input fields: --input FIELD=TEXT for each.",
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add the probability of each label, or of each part of a JSON answer.")
    ] = False,
    unsure: Annotated[
        float | None,
        option("SHARE", "Share of rows that may be answered wrongly; undecided rows are left open.", least=0.001, most=0.5),
    ] = None,
    batch: Batch = 64,
    base: Base = None,
    key_env: KeyEnv = None,
    endpoint: Endpoint = None,
    patience: Patience = 600.0,
    executor: ExecutorName = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Answer new rows with a bundle."""
    choice, from_file = choice_of(executor, workers), rows is not None and str(rows) != "-"
    if choice is not None and (not from_file or out is None or input):
        raise InputError(
            "an executor needs a file of rows and an output file",
            where="--executor",
            hint=f"Write: cotune predict {shlex.quote(str(bundle))} rows.csv --out answers.csv --executor {executor}",
        )

    def load() -> Predictor:
        with collection_paused():
            from cotune.bundle import load as load_bundle

            predictor = load_bundle(bundle, base=base, key_env=key_env, endpoint=endpoint, patience=patience, once=bool(input))
            if unsure is not None:
                # Raise errors about the options before reading any row.
                predictor.doubt(unsure)
            return predictor

    options: dict[str, Any] = {"probabilities": probabilities, "unsure": unsure}
    if input:
        if rows is not None or out is not None:
            raise InputError(
                "it cannot be combined with a file of rows or --out", where="--input", hint="Leave one of them out."
            )
        for text in input:
            _check_no_file(text, bundle)
        if probabilities:
            from cotune.bundle.manifest import bundle_folder, read_manifest

            _note_probabilities(read_manifest(bundle_folder(bundle)))
        _answer_texts(load(), input, **options, as_json=as_json)
        return
    if rows is not None and from_file:
        _answer_file(load, bundle, rows, out, choice=choice, base=base, batch=batch, options=options, as_json=as_json)
        return
    if out is not None:
        raise InputError("it needs a file of rows", where="--out", hint="Give the file, or redirect the answers with > FILE.")
    if sys.stdin.isatty():
        raise InputError(
            "there are no rows to answer",
            where="standard input",
            hint="Give --input TEXT, name a file of rows, or pipe JSONL in.",
        )
    _answer_stream(load(), batch, options)


def _answer_stream(predictor: Predictor, batch: int, options: dict[str, Any]) -> None:
    """Answer JSONL from standard input on standard output."""
    from cotune.bundle import predict_stream

    lines, out = utf8_streams()
    # A program that waits for the answers to a batch before it sends the next one gets them.
    count = predict_stream(predictor, lines, out.write, flush=out.flush, batch=batch, **options)
    if count.errors:
        typer.echo(f"{counted(count.errors, 'row')} could not be answered; their errors are under the key error.", err=True)
    if options["unsure"] is not None:
        tell(_left_open(count.open, count.rows + count.errors), err=True)


def _left_open(count: int, size: int) -> str:
    if not count:
        return f"None of {counted(size, 'row')} left open."
    answers, they = ("its answer is", "it") if count == 1 else ("their answers are", "each")
    return f"{count:,} of {counted(size, 'row')} left open: {answers} empty, and possible holds the labels that {they} may be."


def _note_probabilities(manifest: Manifest) -> None:
    """Say why the answers have no probabilities, if they have none."""
    if not manifest.shown:
        tell("The bundle generates its answers, so there are no probabilities to add.", err=True)


def _check_no_file(text: str, bundle: Path) -> None:
    """Refuse a text that is the name of a file of rows."""
    from cotune.task.reading.read import SUFFIXES

    try:
        if not Path(text).is_file():
            return
    except (OSError, ValueError):
        return
    if Path(text).suffix.lower() in (*SUFFIXES, ".json"):
        raise InputError(
            f"it needs a text to answer, but {text!r} is a file",
            where="--input",
            hint=f"To answer its rows: cotune predict {shlex.quote(str(bundle))} {shlex.quote(text)} --out answers.csv",
        )
    tell(f"{text!r} is also the name of a file; the name is answered, not the file's content.", err=True)


def _row_of(texts: list[str], input_fields: Sequence[str]) -> dict[str, str]:
    """The row of the texts after ``--input``: one text, or ``FIELD=TEXT`` for each of several fields."""
    from cotune.bundle.rows import checked_row
    from cotune.task.reading.cells import column_of

    if len(input_fields) == len(texts) == 1:
        return checked_row(texts[0], input_fields, "row 1")
    hint = "Write: " + " ".join(f'--input {shlex.quote(name)}="..."' for name in input_fields) + "."
    if len(input_fields) == 1:
        what = f"the task has one input field, but {len(texts)} texts are given"
        raise InputError(what, where="--input", hint="Give one text.")
    row: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        field = next((field for field in input_fields if column_of(field, [name]) is not None), None)
        if not equals or field is None:
            known = f"{counted(len(input_fields), 'input field')} ({', '.join(input_fields)})"
            what = f"the task has {known}, and {shortened(text)!r} names none of them"
            raise InputError(what, where="--input", hint=hint)
        if field in row:
            raise InputError(f"the field {field!r} is given twice", where="--input", hint=hint)
        row[field] = value
    if missing := [name for name in input_fields if name not in row]:
        raise InputError(f"the field {missing[0]!r} is missing", where="--input", hint=hint)
    return checked_row(row, input_fields, "row 1")


def _answer_texts(predictor: Predictor, texts: list[str], *, probabilities: bool, unsure: float | None, as_json: bool) -> None:
    # The terminal shows labels as texts; JSON has them in their original type.
    rows = [_row_of(texts, predictor.input_fields)]
    answered = next(iter(predictor.answers(rows, probabilities=True, unsure=unsure)))
    if as_json or probabilities:
        own = predictor.output.told
        answer: dict[str, Any] = {"answer": None if answered.answer is None else own(answered.answer)}
        answer |= {} if answered.confidence is None else {"confidence": round(answered.confidence, 6)}
        answer |= {} if unsure is None else {"possible": [own(label) for label in answered.possible]}
        echo_json({**answer, "probabilities": answered.probabilities})
    elif answered.possible:
        shares = answered.probabilities if answered.confidence is None else {answered.possible[0]: answered.confidence}
        tell("open: " + ", ".join(f"{label} ({shares[label]:.2f})" for label in answered.possible))
    else:
        tell(answered.answer)
    if answered.truncated:
        typer.echo("The text was too long and was truncated.", err=True)


def _answer_file(
    load: Callable[[], Predictor],
    bundle: Path,
    rows: Path,
    out: Path | None,
    *,
    choice: Choice | None,
    base: Path | None,
    batch: int,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Answer the rows of a file, into a file or to the screen. Both files are checked before a model is loaded."""
    from cotune.bundle.answer_sheet import answer_sheet, askable, check_sheet, sheet_answers
    from cotune.bundle.manifest import bundle_folder, read_manifest
    from cotune.bundle.unfinished import stored_answers
    from cotune.task.reading.read import JSON_LINES, SEPARATED, read_sheet
    from cotune.task.reading.sheet import check_suffix, sheet_text, write_sheet

    if out is not None:
        check_suffix(out)
        check_not_input(out, rows, "answers")
        check_place(out)
    sheet = read_sheet(rows)
    manifest = read_manifest(bundle_folder(bundle))
    checked = check_sheet(sheet, manifest.input_fields)
    if options["probabilities"]:
        _note_probabilities(manifest)
    kind = (rows if out is None else out).suffix.lower()
    if out is None and (as_json or kind in (".parquet", ".pq", ".json")):
        # On the screen, rows appear one by one.
        kind = ".jsonl"
    form: dict[str, Any] = {"nested": kind in JSON_LINES, "typed": kind not in SEPARATED, "columns": manifest.output_columns}
    asked = askable(checked)
    workers: dict[str, Any] = {}
    unlike = ""
    if choice is not None and out is not None:
        from cotune.bundle.chunks import answer_on, open_for_workers

        opened = open_for_workers(bundle, base, here=choice.kind != "ray")
        meter = Meter(len(asked))
        with running(choice, out) as executor:
            found, unlike = answer_on(executor, opened, asked, base=base, batch=batch, told=meter.told, **options)
            answers = sheet_answers(found, opened.manifest.output, sheet, checked, **options, **form)
            write_sheet(sheet, answers.added, out)
            workers = meter.summary(executor)
    else:
        predictor = load()
        # Until the answers are written: what was paid for outlives Ctrl-C.
        with stored_answers(predictor, asked):
            answers = answer_sheet(predictor, sheet, checked, **options, **form, batch=batch, progress=counting(len(asked)))
            if out is None:
                sys.stdout.write(sheet_text(sheet, answers.added, kind))
            else:
                write_sheet(sheet, answers.added, out)
            if answers.ended is not None:
                from cotune.endpoint import EndpointError

                done = (
                    f"{answers.answered:,} of {counted(len(checked), 'row')} are answered{'' if out is None else f' in {out}'}"
                )
                text = f"{answers.ended}. {done}, and the others have the reason as their error."
                raise EndpointError(text, status=answers.ended.status)
    record: dict[str, Any] = {
        "out": None if out is None else str(out),
        "rows": len(checked),
        "answered": answers.answered,
        "truncated": answers.truncated,
        **({} if options["unsure"] is None else {"open": answers.open}),
        "errors": [{"where": error.where, "error": error.what} for error in answers.errors],
        **workers,
    }
    if as_json and out is not None:
        echo_json(record)
        return
    note = f"{counted(answers.answered, 'row')} answered" + ("" if out is None else f": {out}")
    tell(note, err=out is None)
    names = manifest.output_columns if manifest.output_columns and not form["nested"] else ("answer",)
    if renamed := {name: column for name, column in zip(names, answers.added, strict=False) if column != name}:
        kind = "a column" if len(renamed) == 1 else "columns"
        there = f"The rows have {kind} {shown_names(renamed)} already"
        tell(f"{there}, so the answers are in {shown_names(renamed.values())}.", err=True)
    if workers:
        tell_summary(workers, unlike=unlike)
    if options["unsure"] is not None:
        tell(_left_open(answers.open, len(checked)), err=True)
    if answers.truncated:
        tell(f"Of {counted(answers.truncated, 'row')} the text was too long and was truncated.", err=True)
    if answers.errors:
        first = answers.errors[0]
        tell(f"{counted(len(answers.errors), 'row')} could not be answered; the first: {first.where}: {first.what}.", err=True)
