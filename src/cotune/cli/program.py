"""The command line program, and what its commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cotune import __version__
from cotune.plain import harmless

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The exception for an invalid command line, which typer does not export."""

_MOST_NAMED = 3
"""Most settings that a hint spells out with a value."""
_PANELS = {
    "Train": ("init", "run", "label"),
    "Use a bundle": ("predict", "evaluate", "serve", "export", "push"),
    "Compare and report": ("try", "report", "view", "list", "compare"),
    "Tools": ("embed", "doctor"),
}
"""The commands in groups, in the order in which the help lists them."""

ENDPOINT_PANEL = "Model behind an endpoint"
WORKERS_PANEL = "Workers"


class _InOrder(TyperGroup):
    """Lists commands in groups, in the order in which users need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        for panel, names in _PANELS.items():
            for name in names:
                self.commands[name].rich_help_panel = panel  # type: ignore[attr-defined]
        return [name for names in _PANELS.values() for name in names]

    def invoke(self, ctx: Any) -> Any:
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            if hint := _hint(error, words):
                error.message = f"{error.message.rstrip('.')}. {hint}"  # type: ignore[attr-defined]
            raise


def _hint(error: Any, words: list[str]) -> str:
    """A hint about an invalid command line; empty if the message is enough."""
    option = str(getattr(error, "option_name", ""))
    if type(error).__name__ == "NoSuchOption" and words[:1] == ["run"] and (named := _settings(option)):
        after = [*words[words.index(option) + 1 :], ""][0] if option in words else ""
        given = next((word.partition("=")[2] for word in words if word.startswith(f"{option}=")), after)
        value = "VALUE" if not given or given.startswith("-") else given
        if len(named) > _MOST_NAMED:
            return f"It may be one of several settings: {', '.join(named)}. Write it as {named[0]}={value}, for example."
        return f"It is a setting; write it as {' or '.join(f'{name}={value}' for name in named)}."
    if "unexpected extra argument" in error.message:
        return 'A name with a space needs quotes, as in --output "Assigned team".'
    return ""


def _settings(option: str) -> list[str]:
    """The settings of a run that an option such as ``--limit.test``, ``--group`` or ``--limit`` may mean."""
    from cotune.config import RunConfig

    name = option.lstrip("-").partition("=")[0].replace("-", "_")
    sections = {
        section: [inner.alias or key for key, inner in getattr(field.annotation, "model_fields", {}).items()]
        for section, field in RunConfig.model_fields.items()
    }
    if name in sections:
        return [f"{name}.{key}" for key in sections[name]] or [name]
    if name.partition(".")[0] in sections:
        return [name]
    return [f"{section}.{name}" for section, keys in sections.items() if name in keys]


app = typer.Typer(
    name="cotune",
    cls=_InOrder,
    help="Tune a prompt and a model together, and report what each of them gained.",
    epilog="Example:\n\n  cotune run --example spam --budget 2m\n\nFor the options of a command: cotune COMMAND --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cotune {__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def tell(text: object, *, err: bool = False) -> None:
    """Print a text that may contain names, labels or paths, without control characters."""
    typer.echo(harmless(text), err=err)


def echo_json(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # The name of a file may be no UTF-8.
        text = json.dumps(value)
    typer.echo(text)


def counting(size: int) -> Callable[[int], None]:
    """A progress counter of rows on standard error, if that is a terminal."""
    return lambda done: count(done, size)


def count(done: int, size: int, what: str = "rows") -> None:
    """Show the number of finished rows on one line of standard error, if that is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done:,} of {size:,} {what}" + ("\n" if done >= size else ""))
        sys.stderr.flush()


def show_page(address: str, line: str, values: Mapping[str, Any], *, as_json: bool, no_open: bool) -> None:
    """Print a line with the address of a page, or JSON with further values; in a terminal the page also opens in a browser."""
    from cotune.report.view import open_browser

    if as_json:
        echo_json({"url": address, **values})
    else:
        typer.echo(line)
    sys.stdout.flush()
    if sys.stdout.isatty() and not no_open and not as_json:
        open_browser(address)


def bundle_argument(name: str) -> Path:
    """The folder of a run or bundle; a bundle on the hub is fetched."""
    if not name.startswith("hf://"):
        return Path(name)
    from cotune.bundle.hub.fetch import fetch_bundle

    return fetch_bundle(name, lambda line: tell(line, err=True))


def option(metavar: str, help: str, *, panel: str | None = None, least: float | None = None, most: float | None = None) -> Any:
    """An option with a value from ``least`` to ``most``, in the group ``panel`` of the help."""
    return typer.Option(metavar=metavar, help=help, rich_help_panel=panel, min=least, max=most)


Bundle = Annotated[
    Path,
    typer.Argument(
        parser=bundle_argument, metavar="BUNDLE", help="Folder of a run or of its bundle, or hf://org/name@revision."
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Base = Annotated[Path | None, option("FOLDER", "Folder of the base model if it moved, or hub to download it.")]

KeyEnv = Annotated[str | None, option("NAME", "Environment variable that holds the endpoint's key.", panel=ENDPOINT_PANEL)]

Endpoint = Annotated[str | None, option("URL", "Allow sending rows to this URL of another machine.", panel=ENDPOINT_PANEL)]

Patience = Annotated[
    float, option("SECONDS", "Maximum time for one question, including retries.", panel=ENDPOINT_PANEL, least=0.1)
]

Batch = Annotated[int, option("N", "Rows per batch.", least=1)]

ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Work in chunks that survive an interrupt: local, processes, ray or ray:ADDRESS.",
        rich_help_panel=WORKERS_PANEL,
    ),
]

StorageUrl = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Where workers store results and adapters, such as s3://bucket/path. (default: the run's folder, which all "
        "nodes must then see)",
        rich_help_panel=WORKERS_PANEL,
    ),
]

Workers = Annotated[
    int | None, option("N", "Number of workers. (default: one per processor, as memory allows)", panel=WORKERS_PANEL)
]
