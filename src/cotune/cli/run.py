"""``cotune run``: tune prompt and model for a task."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.program import WORKERS_PANEL, StorageUrl, Workers, app, bundle_argument, echo_json, option, tell
from cotune.cli.terminal import interrupted_by_sigterm, interrupts_unseen, out_console
from cotune.cli.workers import choice_of
from cotune.errors import InputError, no_run, shown_names
from cotune.files import read_text, slug
from cotune.run_files import CONFIG, JOURNAL, run_folder

if TYPE_CHECKING:
    from cotune.config import RunConfig

_ROWS = "Rows instead of a task.yaml"
_EARLIER = "Start from an earlier run"
_RUNNING = "A run in progress or damaged"
_QUOTED = '--input "Customer message"'


@app.command(
    epilog="Examples:\n\n  cotune run --example spam --budget 2m\n"
    "  cotune run tickets.csv --input text --output label --budget 5m\n"
    "  cotune run train.csv --test test.csv --input text --output label\n"
    "  cotune run calls.csv --input text --output name --output date\n  cotune run task.yaml --budget 10m --out runs/mine\n"
    "  cotune run task.yaml tune.rank=8 limit.train=500 tracking=mlflow\n"
    "  cotune run new.csv --from runs/mine --replay old.csv\n  cotune run task.yaml --executor processes --workers 4\n"
    "  cotune run task.yaml --executor ray:auto --storage s3://bucket/runs"
)
@interrupted_by_sigterm()
def run(
    context: typer.Context,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK", help="A task.yaml, or labelled rows: CSV, TSV, JSONL, Parquet, hf://owner/name[:split]."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of the task file, such as tune.rank=8.")
    ] = None,
    input: Annotated[list[str] | None, option("COLUMN", "Input column; may be given several times.", panel=_ROWS)] = None,
    output: Annotated[
        list[str] | None,
        option("COLUMN", "Column of the right answers; several become the properties of JSON answers.", panel=_ROWS),
    ] = None,
    budget: Annotated[
        str | None, option("BUDGET", "Time: 90s, 10m, 1h; tokens: 300ktok, 2Mtok; or money: 2usd. (default: 10m)")
    ] = None,
    out: Annotated[
        Path | None, option("FOLDER", "Folder of the run; an interrupted run in it resumes. (default: runs/NAME)")
    ] = None,
    seed: Annotated[int | None, option("N", "Random seed. (default: 0)")] = None,
    model: Annotated[
        str | None, option("MODEL", "smollm2-135m, a folder, a hub id, or openai:NAME. (default: smollm2-135m, bundled)")
    ] = None,
    prompt: Annotated[
        list[Path] | None,
        option("FILE", "File with a prompt of yours, which competes in the race; may be given several times."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            parser=bundle_argument,
            metavar="BUNDLE",
            help="Earlier run, its bundle, or hf://org/name@revision, to start from with new rows.",
            rich_help_panel=_EARLIER,
        ),
    ] = None,
    test: Annotated[
        str | None,
        option("ROWS", "Rows that only score the result, once at the end. (default: a fifth of the rows, set aside)"),
    ] = None,
    replay: Annotated[str | None, option("ROWS", "Rows of that run, to train on them again.", panel=_EARLIER)] = None,
    example: Annotated[
        str | None, option("NAME", "Copy an example into this folder and run it: spam, routing, support or courier.")
    ] = None,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="Ask the run in progress to end its search and score the test.", rich_help_panel=_RUNNING
        ),
    ] = False,
    cut_journal: Annotated[
        bool,
        typer.Option(
            "--cut-journal", help="Cut a damaged journal before the damage, keep a copy, and resume.", rich_help_panel=_RUNNING
        ),
    ] = False,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            metavar="NAME",
            help="Spread a search for labels over processes, ray or ray:ADDRESS.",
            rich_help_panel=WORKERS_PANEL,
        ),
    ] = None,
    workers: Workers = None,
    storage: StorageUrl = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only score and folder.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per line: the steps, and the summary as the last line.")
    ] = False,
) -> None:
    """Tune a prompt and a model within a budget.

    Writes a bundle, a journal and a report into the run's folder. After an interrupt the same command resumes.
    """
    started, choice = time.monotonic(), choice_of(executor, workers, storage)
    settings = list(overrides or [])
    if example is not None:
        if task is not None and "=" not in task:
            raise InputError(
                f"--example {example} and {task!r} name two tasks", where="command line", hint="Leave one of them out."
            )
        # The first word is a setting instead of a task.
        settings = settings if task is None else [task, *settings]
        task = _copied(example, quiet=quiet or as_json)
    elif task is None:
        raise InputError("Missing argument TASK", hint="Name a task.yaml or a file of rows, or add --example spam.")
    files = (("start", start), ("data.test", test), ("data.replay", replay))
    named = (("budget", budget), ("model", model), *files, ("seed", seed))
    config = _config_of(task, settings, dict(named), input or [], output or [])
    typed = shlex.join(["cotune", *context.obj]) if context.obj else None
    folder = out or Path("runs") / slug(config.name)
    from cotune.cycle.runs.next_folder import folder_for

    place, note = folder_for(config, folder)
    # These two are about a run that exists, whatever budget was typed.
    if not (finish or cut_journal) or (place / JOURNAL).is_file():
        folder = place
        if note:
            tell(note, err=True)
    texts = [read_text(path, "the prompt file") for path in prompt or []]
    if not (folder / CONFIG).is_file():
        from cotune.cycle.budget.budget import parse_budget
        from cotune.cycle.budget.reserve import check_time

        # Checked before imports and loading, which take seconds; whether the rows fit is checked when they are read.
        check_time(parse_budget(config.budget))
    try:
        # These imports take seconds; an interrupt during them must not find a live display.
        if sys.stdout.isatty() and not (as_json or quiet):
            typer.echo("Starting ...")
        if cut_journal:
            from cotune.cycle.folder import cut_damaged

            if (copy := cut_damaged(folder)) is not None:
                done = "The journal was damaged and was cut before the damage; a copy of the whole file is in"
                typer.echo(f"{done} {copy}.", err=True)
        if finish and _ask_to_finish(folder, as_json=as_json):
            return
        options = {"prompts": texts, "command": typed, "executor": choice, "started": started}
        summary = _searched(config, folder, quiet=quiet, as_json=as_json, **options)
    except InputError:
        if finish:
            from cotune.cycle.folder import withdraw_finish

            # Refused, for example because the folder holds another run, which was not meant.
            withdraw_finish(folder)
        raise
    except KeyboardInterrupt:
        kept = (folder / JOURNAL).is_file()
        done = f"Progress is saved in {folder}; run the same command to continue." if kept else "Nothing was done yet."
        typer.echo(f"\nStopped. {done}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        echo_json({"out": str(folder), **summary})
        return
    from cotune.report.terminal.verdict import print_verdict, quiet_text

    if quiet:
        tell(quiet_text({**summary, "out": str(folder)}))
    else:
        print_verdict({**summary, "out": str(folder), "command": typed}, out_console())


def _config_of(task: str, settings: list[str], options: dict[str, Any], inputs: list[str], outputs: list[str]) -> RunConfig:
    """The config of a task file or of bare rows; ``options`` are settings with an option, None if it is not given."""
    from cotune.config import config_from_data, load_config
    from cotune.task.output_columns import joined_name

    if same := next((name for name in outputs if name in inputs), None):
        raise InputError(
            f"--input and --output name the same column, {same!r}",
            where="command line",
            hint="Name the column of the right answers with --output.",
        )
    _check_quotes(task, settings, {"--input": inputs, "--output": outputs})
    settings = [*settings, *(f"{name}={value}" for name, value in options.items() if value is not None)]
    if Path(task).suffix.lower() in (".yaml", ".yml"):
        if inputs or outputs:
            raise InputError(
                "--input and --output are for a file of rows, not for a task file",
                where=task,
                hint="Set data.input and data.output there.",
            )
        return load_config(Path(task), settings)
    if options["start"] is None and not (inputs and outputs):
        raise _columns_unsaid(task, inputs, outputs)
    return config_from_data(task, input=inputs or None, output=joined_name(outputs) if outputs else None, overrides=settings)


def _searched(config: RunConfig, folder: Path, *, quiet: bool, as_json: bool, **options: Any) -> dict[str, Any]:
    """Run the search, show it on the terminal and log it to a tracker; returns the summary."""
    from cotune.cycle.run import run as run_cycle
    from cotune.report.terminal.console import make_view
    from cotune.tracking import tracked, tracker_of

    tracker = tracker_of(config.tracking)
    view = make_view(json=as_json, quiet=quiet, stream=sys.stdout, is_terminal=sys.stdout.isatty())
    with interrupts_unseen(), contextlib.closing(view):
        # An interrupt may arrive during the first drawing.
        view.start()
        with tracked(tracker, config, folder, view) as watched:
            return dict(run_cycle(config, folder, view=watched, **options).summary)


def _check_quotes(source: str, settings: list[str], named: dict[str, list[str]]) -> None:
    """Refuse words that are left over from a column name without quotes."""
    words = [word for word in settings if "=" not in word]
    if not words or not any(named.values()):
        return
    from cotune.config import RunConfig
    from cotune.task.reading.read import read_table

    columns: tuple[str, ...] = ()
    with contextlib.suppress(InputError):
        columns = read_table(source).columns

    def quoted(name: str) -> str:
        """The column name that starts with a word and continues with the left-over words."""
        begun = (column for column in columns if column.startswith(f"{name} ") and set(column.split()[1:]) <= set(words))
        return f'"{max(begun, key=len, default=name)}"'

    cut = [f"{option} {quoted(name)}" for option, names in named.items() for name in names if quoted(name) != f'"{name}"']
    if not cut and words[0].partition(".")[0] in RunConfig.model_fields:
        # A setting without a value is reported below.
        return
    raise InputError(
        f"{words[0]!r} is neither a setting (key=value) nor an option",
        where="command line",
        hint=f"A name with a space needs quotes: {' '.join(cut) or _QUOTED}.",
    )


def _copied(example: str, *, quiet: bool) -> str:
    """The task file of an example, copied if it is not there yet."""
    from cotune.cli.example import copy_example

    task, new = copy_example(example)
    if not quiet:
        done = f"Copied the example to {task.parent}; its README.md describes it." if new else f"Using {task}."
        tell(f"{done} Once changed, run it with: cotune run {task}", err=True)
    return str(task)


def _columns_unsaid(source: str, inputs: list[str], outputs: list[str]) -> InputError:
    """The error for rows without given columns; it lists the columns and suggests a command."""
    from cotune.task.columns import guess_columns
    from cotune.task.reading.read import read_table

    table = read_table(source)
    guessed_input, guessed_output = guess_columns(table)
    named = [("--input", name) for name in inputs or [guessed_input or "COLUMN"]]
    named += [("--output", name) for name in outputs or [guessed_output or "COLUMN"]]
    command = " ".join(["cotune run", shlex.quote(source), *(f"{option} {shlex.quote(name)}" for option, name in named)])
    return InputError(
        "the columns to use are not given",
        where=source,
        hint=f"This file has {shown_names(table.columns)}. For example: {command}",
    )


def _ask_to_finish(folder: Path, *, as_json: bool) -> bool:
    """Ask a run to end its search; returns whether another process is running it, which then finishes the run."""
    from cotune.cycle.folder import ask_to_finish
    from cotune.cycle.runs.listing import is_locked

    folder = run_folder(folder)
    if not (folder / JOURNAL).is_file():
        raise no_run(folder)
    ask_to_finish(folder)
    if not is_locked(folder):
        return False
    if as_json:
        echo_json({"out": str(folder), "finishing": True})
    else:
        tell(f"The run in {folder} finishes after its current step, then confirms and tests.")
    return True
