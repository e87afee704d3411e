"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from cotune.errors import CotuneError, InputError, no_run
from cotune.garbage import collection_paused
from cotune.streams import drop_output, repair_streams

app = typer.Typer(
    name="cotune",
    help="Tune a prompt and a model together, and learn what each of the two gained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _tell_version(asked: bool) -> None:
    if asked:
        from cotune.version import __version__

        typer.echo(f"cotune {__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def tell(text: object, *, err: bool = False) -> None:
    """Print words in which names, labels and paths from outside can do nothing to a terminal."""
    from cotune.report.terminal.plain import harmless

    typer.echo(harmless(text), err=err)


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command(
    epilog="Examples:\n\n  cotune run task.yaml --budget 10m --out runs/mine\n\n"
    "  cotune run tickets.csv --input text --output label\n\n  cotune run task.yaml tune.rank=8 limit.train=500\n\n"
    "  cotune run new.csv --from runs/mine/best --replay old.csv"
)
def run(
    task: Annotated[str, typer.Argument(help="A task.yaml, or rows: CSV, TSV, JSONL, Parquet, hf://owner/name[:split].")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings such as tune.rank=8.")] = None,
    input: Annotated[list[str] | None, typer.Option(help="Input column; may be given several times.")] = None,
    output: Annotated[str | None, typer.Option(help="Label column.")] = None,
    budget: Annotated[str | None, typer.Option(help="90s, 10m, 1h, tokens: 300ktok, 2Mtok, or money: 2usd.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; the same one goes on where it stopped.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    model: Annotated[str | None, typer.Option(help="smollm2-135m (comes along), a folder, a hub id, or openai:NAME.")] = None,
    prompt: Annotated[list[Path] | None, typer.Option(help="File with a prompt of yours, a candidate in the race.")] = None,
    start: Annotated[Path | None, typer.Option("--from", help="Bundle of an earlier run to go on from with new rows.")] = None,
    replay: Annotated[str | None, typer.Option(help="Rows of that run, to be learnt from again so they last.")] = None,
    finish: Annotated[bool, typer.Option("--finish", help="End the run's search now and go to the test.")] = False,
    cut_journal: Annotated[
        bool, typer.Option("--cut-journal", help="Cut a damaged journal before the damage, keep a copy, and go on.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict alone.")] = False,
    as_json: Json = False,
) -> None:
    """Go round the cycle until the budget is spent; leaves a bundle, a journal and honest numbers."""
    from cotune.config import config_from_data, load_config

    given = list(overrides or [])
    named = (("budget", budget), ("model", model), ("start", start), ("data.replay", replay))
    given += [f"{name}={value}" for name, value in named if value is not None]
    given += [f"seed={seed}"] if seed is not None else []
    if Path(task).suffix.lower() in (".yaml", ".yml"):
        if input or output:
            raise InputError("--input and --output are for bare data files", where=task, mend="Set data.input there.")
        config = load_config(Path(task), given)
    else:
        if start is None and not (input and output):
            raise InputError(
                "which columns are input and label is not said", where=task, mend="Add --input COLUMN --output COLUMN."
            )
        config = config_from_data(task, input=input or None, output=output, overrides=given)
    from cotune.files import read_text, slug

    folder = out or Path("runs") / slug(config.name)
    texts = [read_text(path, "the prompt file") for path in prompt or []]
    from cotune.report import make_view

    view = None
    try:
        # What is imported here takes seconds, in which an interrupt must find no terminal that is drawn on.
        if sys.stdout.isatty() and not (as_json or quiet):
            typer.echo("Loading ...")
        from cotune.cycle.folder import cut_damaged
        from cotune.cycle.run import run as run_cycle

        if cut_journal and (copy := cut_damaged(folder)) is not None:
            typer.echo(f"The journal was damaged and is cut before the damage; the whole file is kept as {copy}.", err=True)
        view = make_view(json=as_json, quiet=quiet, stream=sys.stdout, is_terminal=sys.stdout.isatty())
        if finish and _told_to_finish(folder):
            return
        result = run_cycle(config, folder, prompts=texts, view=view)
    except KeyboardInterrupt:
        if view is not None:
            view.close()
        kept = (folder / "journal.jsonl").is_file()
        done = f"What was done is kept in {folder}: the same command goes on from there." if kept else "Nothing was done yet."
        typer.echo(f"\nStopped. {done}", err=True)
        raise typer.Exit(130) from None
    finally:
        if view is not None:
            view.close()
    if as_json:
        typer.echo(json.dumps({"out": str(folder), **result.summary}, ensure_ascii=False))
        return
    from rich.console import Console

    from cotune.report import print_verdict

    print_verdict({**result.summary, "out": str(folder)}, Console(highlight=False))


def _told_to_finish(folder: Path) -> bool:
    """Ask a run to end its search; whether another process is at work on it, which then does the rest."""
    from filelock import FileLock, Timeout

    from cotune.cycle.finish import ask_to_finish

    if not (folder / "journal.jsonl").is_file():
        raise no_run(folder)
    ask_to_finish(folder)
    try:
        with FileLock(folder / ".lock").acquire(timeout=0):
            return False
    except Timeout:
        typer.echo(f"The run in {folder} finishes after its present step: it is confirmed and tested there.")
        return True


@app.command(epilog='Example:\n\n  cotune predict runs/mine/best --input "How tall is K2?"')
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, such as runs/mine/best.")],
    input: Annotated[str | None, typer.Option(help="One text; without it, JSONL rows come from standard input.")] = None,
    probabilities: Annotated[bool, typer.Option(help="Add each label's probability.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are answered together.")] = 64,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model, where it moved; hub lets it be fetched.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Variable with the key, where an endpoint answers.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL that the bundle may send rows to, where it is elsewhere.")] = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds that a question to an endpoint may take.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Answer new rows with a bundle."""
    with collection_paused():
        from cotune.bundle import load, predict_stream

        predictor = load(bundle, base=base, key_env=key_env, endpoint=endpoint, patience=patience, once=input is not None)
    if input is not None:
        found = predictor.predict(input, probabilities=True)[0]
        if as_json or probabilities:
            answer = {"answer": found.answer, "probabilities": found.probabilities}
            typer.echo(json.dumps(answer, ensure_ascii=False))
        else:
            tell(found.answer)
        return
    if sys.stdin.isatty():
        raise InputError("there are no rows to answer", where="standard input", mend="Give --input TEXT or pipe JSONL in.")
    predict_stream(predictor, sys.stdin, sys.stdout.write, batch=batch, probabilities=probabilities)


@app.command(
    epilog="Examples:\n\n  cotune serve runs/mine/best\n\n"
    "  cotune serve runs/mine/best runs/other/best --host 0.0.0.0 --token-env MY_TOKEN"
)
def serve(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles' folders; those of one base model share it.")],
    host: Annotated[str, typer.Option(help="Address to listen on; any other demands --token-env.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_env: Annotated[str | None, typer.Option(help="Name of the environment variable that holds the token.")] = None,
    queue: Annotated[int, typer.Option(min=1, help="Rows that may wait; more are refused with 429.")] = 1024,
    batch: Annotated[int, typer.Option(min=1, help="Rows that run together.")] = 64,
    max_body: Annotated[int, typer.Option(min=1024, help="Longest body of a request, in bytes.")] = 2**20,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    base: Annotated[Path | None, typer.Option(help="Folder of the base model, where it moved; hub lets it be fetched.")] = None,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(help="Names that requests may be addressed to, with commas between: example.org,*.example.org,10.0.0.5."),
    ] = None,
    drain: Annotated[float, typer.Option(min=0, help="Seconds to answer what had arrived at the end; then 503.")] = 25.0,
    as_json: Json = False,
) -> None:
    """Serve bundles as OpenAI's API and by their own fields; SIGTERM or Ctrl-C ends it once all are answered."""
    from cotune.bundle.serve import ServeSettings
    from cotune.bundle.serve import serve as serve_bundles

    def ready(address: str, ids: list[str]) -> None:
        if as_json:
            typer.echo(json.dumps({"url": address, "models": ids}, ensure_ascii=False))
        else:
            from cotune.report.terminal.plain import one_line

            shown = ", ".join(one_line(name, 200) for name in ids)
            typer.echo(f"Serving {shown} at {address}  (API: {address}/docs, Ctrl-C ends it)")
        sys.stdout.flush()

    names = tuple(name.strip() for name in allowed_hosts.split(",")) if allowed_hosts is not None else ()
    settings = ServeSettings(host, port, token_env, queue, batch, max_body, device, dtype, drain, names)
    if not serve_bundles(bundles, settings, base=base, ready=ready):
        # The model is still at a batch that nobody waits for; an interpreter that is taken down beneath it may crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@app.command(
    "try",
    epilog="Examples:\n\n  cotune try runs/mine --prompt mine.txt\n\n  cotune try runs/mine --prompt mine.txt --watch\n\n"
    "  cotune try runs/mine",
)
def try_(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    prompt: Annotated[Path | None, typer.Option(help="File with your prompt; - reads it from standard input.")] = None,
    text: Annotated[str | None, typer.Option(help="The prompt itself.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Flipped rows to show.")] = 8,
    watch: Annotated[bool, typer.Option("--watch", help="Try the file again whenever it is saved; Ctrl-C ends.")] = False,
    metric: Annotated[str | None, typer.Option(help="FILE.py:FUNCTION that the run names and may execute.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL that the run may send rows to, where it is elsewhere.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Variable with the key, where an endpoint answers.")] = None,
    judge_endpoint: Annotated[str | None, typer.Option(help="URL that rows and answers may be sent to for grades.")] = None,
    judge_key_env: Annotated[str | None, typer.Option(help="Variable with the key, where a judge grades.")] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model, where it moved; hub lets it be fetched.")] = None,
    as_json: Json = False,
) -> None:
    """Set your own prompt against the winner on dev: difference, interval, flipped rows.

    Without --prompt and --text a terminal takes one prompt after another, and the model stays loaded from one to the next.
    """
    from cotune.files import read_standard_input, read_text

    if not (run / "config.json").is_file():
        raise no_run(run)
    from cotune.cycle.permissions import Permissions

    allowed = Permissions(metric, endpoint, key_env, judge_endpoint, judge_key_env, base)
    if watch:
        if text is not None or prompt is None or str(prompt) == "-":
            raise InputError("--watch needs a file to look at", where="--watch", mend="Name it: --prompt FILE.")
        from cotune.trying import try_saved

        try_saved(run, allowed, prompt, rows=rows, as_json=as_json)
        return
    if text is None and prompt is None and sys.stdin.isatty():
        from cotune.trying import try_typed

        try_typed(run, allowed, rows=rows, as_json=as_json)
        return
    if text is None:
        text = read_standard_input() if prompt is None or str(prompt) == "-" else read_text(prompt, "the prompt file")
    from cotune.trying import open_run, try_one

    try_one(open_run(run, allowed), text, where=str(prompt or "--text"), rows=rows, as_json=as_json)


@app.command(epilog="Example:\n\n  cotune report runs/mine")
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    as_json: Json = False,
) -> None:
    """Write report.html, one page that needs no network, and print the verdict again."""
    if not (run / "journal.jsonl").is_file():
        raise no_run(run)
    from cotune.cycle.kept import read_summary
    from cotune.report.html import write_report

    page = write_report(run)
    found = read_summary(run)
    if as_json:
        typer.echo(json.dumps({"report": str(page), "summary": found}, ensure_ascii=False))
        return
    if found is not None:
        from rich.console import Console

        from cotune.report import print_verdict

        print_verdict({**found, "out": str(run)}, Console(highlight=False))
    typer.echo(f"Report: {page}")


@app.command(epilog="Example:\n\n  cotune view runs/mine")
def view(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address alone, open no browser.")] = False,
    as_json: Json = False,
) -> None:
    """Show a run's report in the browser, renewed while the run goes on; Ctrl-C ends it."""
    from cotune.report.view import open_browser, view_run

    def ready(address: str) -> None:
        if as_json:
            typer.echo(json.dumps({"url": address, "run": str(run)}, ensure_ascii=False))
        else:
            typer.echo(f"Report of {run}: {address}  (Ctrl-C ends it)")
        sys.stdout.flush()
        if sys.stdout.isatty() and not no_open and not as_json:
            open_browser(address)

    view_run(run, port=port, ready=ready)


@app.command(
    epilog="Examples:\n\n  cotune embed --input texts.txt --out vectors.npy\n\n"
    "  cotune embed --input rows.jsonl --column question --out vectors.parquet --standard whiten\n\n"
    "  cotune embed --input queries.txt --out queries.npy --fit-on documents.txt"
)
def embed(
    input: Annotated[
        Path,
        typer.Option(help="One text a line, or JSONL; - is standard input. A language model reads 1,200 characters of each."),
    ],
    out: Annotated[Path, typer.Option(help="Vectors as .npy, .parquet or .jsonl, in the order of the texts.")],
    model: Annotated[
        str,
        typer.Option(help="smollm2-135m (comes along), a folder, a hub id, sentence-transformers:FOLDER or model2vec:FOLDER."),
    ] = "smollm2-135m",
    column: Annotated[str, typer.Option(help="Where a JSON line holds its text.")] = "text",
    pooling: Annotated[str | None, typer.Option(help="prompt_eol, echo, weighted_mean, mean, last or static.")] = None,
    layer: Annotated[int | None, typer.Option(help="Output of this many layers; negative counts from the last.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames that are averaged, for prompt_eol.")] = None,
    standard: Annotated[
        str | None,
        typer.Option(
            help="none, centre, half_whiten or whiten. [default: half_whiten from 300 different texts on, else centre; none "
            "for one text and for encoders]"
        ),
    ] = None,
    fit_on: Annotated[
        Path | None,
        typer.Option(help="Texts that the standard is fitted on instead: vectors of files fitted on the same can be compared."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn texts into vectors with the model itself; what was embedded before comes from the cache."""
    from cotune.embed.command import embed_file

    found = embed_file(
        input,
        out,
        model=model,
        column=column,
        settings={"pooling": pooling, "layer": layer, "frames": frames},
        standard=standard,
        fit_on=fit_on,
    )
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        typer.echo(f"{found['texts']} texts, {found['width']} numbers each, {found['from_cache']} from the cache: {out}")
        if found["cut"]:
            typer.echo(f"Of {found['cut']} only the first {found['max_chars']} characters were read.", err=True)


@app.command(
    epilog="Examples:\n\n  cotune export runs/mine/best --to merged --out mine-merged\n\n"
    "  cotune export runs/mine/best --to transformers --out mine-classifier\n\n"
    "  cotune export runs/mine/best --to gguf --out mine-gguf"
)
def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, such as runs/mine/best.")],
    out: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    to: Annotated[
        str,
        typer.Option(
            help="transformers (a classifier, of bundles that answer by a probe), peft (base model and adapter), merged (one "
            "model), gguf or gguf-merged (the same for llama.cpp)."
        ),
    ] = "merged",
    base: Annotated[Path | None, typer.Option(help="Folder of the base model, where it moved; hub lets it be fetched.")] = None,
    as_json: Json = False,
) -> None:
    """Write a bundle for other programs (transformers, PEFT, vLLM, llama.cpp, Ollama), with the base model it was tuned on."""
    from cotune.bundle.export.command import export_bundle
    from cotune.probe.readout import PROBE

    written = export_bundle(bundle, out, to, base=base)  # type: ignore[arg-type]
    probe = PROBE if (written / PROBE).is_file() else None
    if as_json:
        typer.echo(json.dumps({"out": str(written), "to": to, "probe": probe}))
        return
    if probe and to != "transformers":
        typer.echo(
            f"The bundle answers by a probe ({probe}) on the model's hidden state. Programs that only generate have no place "
            "for it; README.md has the lines that read it.",
            err=True,
        )
    typer.echo(f"Written: {written}. Its README.md says how to run it.")


@app.command(epilog="Example:\n\n  cotune doctor --json")
def doctor(as_json: Json = False) -> None:
    """Say what this machine offers, and how to mend what is missing."""
    from cotune.model.hardware.doctor import diagnose, render

    found = diagnose()
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        from rich.console import Console

        Console(highlight=False).print(render(found))
    if found.status == "fail":
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point; errors that are meant for users go to standard error without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Other libraries' notes to their developers are nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning)
    repair_streams()
    try:
        try:
            app(args=arguments)
        finally:
            # What cannot be written is told below, and not by the interpreter on its way out.
            sys.stdout.flush()
    except CotuneError as error:
        _last_word(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        drop_output()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EIO):
            raise
        drop_output()
        _last_word(f"the output cannot be written ({error.strerror}). Free some space, or send it elsewhere.")
        sys.exit(1)


def _last_word(text: str) -> None:
    # Where standard error is full as well, the exit code has to say it.
    with contextlib.suppress(OSError):
        tell(f"cotune: {text}", err=True)


if __name__ == "__main__":
    main()
