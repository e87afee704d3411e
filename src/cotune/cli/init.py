"""``cotune init``: write a task file for a table of rows."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.program import Json, app, echo_json, option, tell
from cotune.errors import InputError, counted, shown_names

if TYPE_CHECKING:
    from cotune.task.reading.table import Table

_METRIC = "metric to report, by default the accuracy of labels; label tasks on a local model are searched by log-loss"


@app.command(
    epilog="Examples:\n\n  cotune init tickets.csv\n  cotune init tickets.csv --yes\n"
    "  cotune init tickets.csv --input subject --input text --output queue --budget 10m --out queue.yaml"
)
def init(
    data: Annotated[Path, typer.Argument(metavar="ROWS", help="Labelled rows: CSV, TSV, JSONL or Parquet.")],
    input: Annotated[list[str] | None, option("COLUMN", "Input column; may be given several times.")] = None,
    output: Annotated[
        list[str] | None, option("COLUMN", "Column of the right answers; several become the properties of JSON answers.")
    ] = None,
    budget: Annotated[str | None, option("BUDGET", "Time: 90s, 10m, 1h; tokens: 300ktok, 2Mtok; or money: 2usd.")] = None,
    out: Annotated[Path, option("FILE", "The task file to write.")] = Path("task.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing and accept all guesses.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented task.yaml for a file of labelled rows.

    Asks for the input column, the output column and the budget.
    """
    from cotune.config.read import config_from_text
    from cotune.config.run import RunConfig
    from cotune.cycle.budget.budget import parse_budget
    from cotune.files import check_ending, check_place, write_text
    from cotune.task.columns import guess_columns
    from cotune.task.guessed_type import guessed_type
    from cotune.task.output_columns import joined_name, joins, types_in, with_joined
    from cotune.task.reading.read import read_table

    check_ending(out, (".yaml", ".yml"), "task files")
    check_place(out)
    if out.exists() and not force:
        raise InputError("the file already exists", where=str(out), hint="Add --force to overwrite it, or give --out FILE.")
    table = read_table(data)
    asks = not yes and not (input and output and budget)
    if asks and not sys.stdin.isatty():
        raise InputError(
            "cannot ask, since standard input is not a terminal",
            where="cotune init",
            hint="Add --yes to accept the guesses, or give --input, --output and --budget.",
        )
    guessed_input, guessed_output = guess_columns(table)
    if asks:
        tell(f"{data}: {len(table):,} rows with the columns {shown_names(table.columns)}", err=True)

    def check_columns(text: str) -> None:
        for name in _columns(text, table):
            table.need(name, nested=True)

    for name in input or ():
        table.need(name, nested=True, several=True)
    question = "input column, or several separated by commas"
    inputs = input or _columns(_answer(question, None, guessed_input, check_columns, asks=asks), table)

    given = joined_name(output) if output else None
    answers = _answer("output column, or several separated by commas", given, guessed_output, check_columns, asks=asks)
    outputs = _columns(answers, table)
    if same := next((name for name in outputs if name in inputs), None):
        raise InputError(f"{same!r} is both input and answer", where=str(data), hint="Name another column with --output.")
    if joins(table, answers):
        table = with_joined(table, answers, types_in(table, answers), empty=True)
    spent = _answer("budget", budget, str(RunConfig.model_fields["budget"].default), parse_budget, asks=asks)
    doubts = guessed_type(table, answers)[1] if len(outputs) == 1 else ()
    text = task_file(data, table, inputs, outputs, spent, out)
    # A run must accept the file, which may replace a good one.
    config = config_from_text(text, out)
    write_text(out, text)
    if as_json:
        answered = answers if len(outputs) == 1 else outputs
        echo_json({"out": str(out), "name": config.name, "input": inputs, "output": answered, "budget": spent})
        return
    guesses = [option for option, value in (("--input", input), ("--output", output)) if not value]
    if guesses and not asks:
        name = f"{' and '.join(guesses)} name{'s another' if len(guesses) == 1 else ' others'}"
        unused = [column for column in table.columns if column not in (*inputs, *outputs, answers)]
        others = f" Not used: {shown_names(unused)}." if unused else ""
        tell(f"Reads {shown_names(inputs)}, answers {answers!r} (guessed; {name}).{others}")
    # The file names the guessed type, so a run no longer reports doubts about it.
    for finding in doubts:
        tell(f"Check output.type: {finding.message}.")
    tell(f"Written: {out}. Start with: cotune run {shlex.quote(str(out))}")


def _answer(question: str, value: str | None, guess: str | None, check: Callable[[str], object], *, asks: bool) -> str:
    """The given value, else the user's answer, else the guess; asks again if an answer is invalid."""
    if value is None and asks:
        while True:
            try:
                answer = str(typer.prompt(question.capitalize(), default=guess, err=True)).strip()
            except typer.Abort:
                # Ctrl-C ends the command; nothing was written.
                typer.echo("\nStopped. Nothing was written.", err=True)
                raise typer.Exit(130) from None
            try:
                check(answer)
            except InputError as error:
                tell(error, err=True)
            else:
                return answer
    answer = value if value is not None else guess or ""
    if not answer:
        what = f"no column looks like the {question.partition(',')[0]}"
        option = "--input" if question.startswith("input") else "--output"
        raise InputError(what, where="cotune init", hint=f"Name it with {option}.")
    check(answer)
    return answer


def _columns(text: str, table: Table) -> list[str]:
    """The columns that an answer names, separated by commas."""
    return [text] if text in table.columns else [name.strip() for name in text.split(",")]


def task_file(data: Path, table: Table, inputs: Sequence[str], outputs: Sequence[str], budget: str, out: Path) -> str:
    """The text of a task file, with comments on the most frequently changed settings.

    Raises:
        InputError: every row lacks an input or the output.
    """
    from cotune.config.read import task_name
    from cotune.task.output_columns import joined_name
    from cotune.task.reading.field_names import fields_for
    from cotune.task.reading.yaml_names import yaml_list, yaml_name
    from cotune.task.values.kinds.registry import guess_type

    output = joined_name(outputs)
    # Paths in the file are relative to its folder.
    place, folder = data.absolute(), out.absolute().parent
    train = place.relative_to(folder) if place.is_relative_to(folder) else place
    whole = [
        cell
        for index, row in enumerate(table.rows)
        if (cell := (row.get(output) or "").strip()) and any((table.shown(index, name) or "").strip() for name in inputs)
    ]
    if not whole:
        raise InputError(
            f"no row has both an input and a value of {output!r}",
            where=str(data),
            hint="Fill that column, or name another with --output or --input.",
        )
    kind, why = guess_type(whole)
    blank = len(table) - len(whole)
    first = fields_for(inputs, table.columns)[0]
    read, answered = (yaml_name(names[0]) if len(names) == 1 else yaml_list(names) for names in (inputs, outputs))
    lines = [
        ("# A task for cotune. All keys: docs/configuration.md", ""),
        (f"name: {yaml_name(task_name(str(data)))}", ""),
        ("data:", ""),
        (f"  train: {yaml_name(str(train))}", f"{len(whole):,} labelled rows; some are held out for dev and for the test"),
        ("  # test: test.csv", "test rows with the same columns, if you have some"),
        (f"  input: {read}", "input column, or a list of several: [subject, text]"),
        (f"  output: {answered}", "the right answers; of several columns a list: [name, date]"),
        *([("  on_blank: skip", f"leaves out {counted(blank, 'further row')} without input or answer")] if blank else []),
        (f"output: {{type: {kind}}}", f"label, text, number or json; guessed: {why}"),
        (f"budget: {yaml_name(budget)}", "90s, 10m, 1h, tokens: 300ktok, 2Mtok, or money: 2usd"),
        ("# metric: macro_f1", _METRIC),
        ("# model: smollm2-135m", "the bundled model; or a folder, or a hub id such as org/name"),
        (f'# prompt: "Which is it? {{{first}}}"', "your own prompt to start with, or a .txt file that contains it"),
        ("# limit: {train: 500}", "a random subset of the rows"),
        ("# seed: 0", ""),
        ("# tracking: mlflow", "log the run to mlflow, wandb or tensorboard"),
    ]
    width = max(len(text) for text, comment in lines if comment)
    return "".join(f"{text:<{width}}  # {comment}\n" if comment else f"{text}\n" for text, comment in lines)
