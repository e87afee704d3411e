"""``cotune push``: put a bundle on the Hugging Face hub."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotune.cli.program import Base, Bundle, Json, app, echo_json, option, tell
from cotune.errors import InputError, counted

if TYPE_CHECKING:
    from cotune.bundle.hub.repository import Repository


@app.command(
    epilog="Examples:\n\n  cotune push runs/mine me/mine --dry-run\n  cotune push runs/mine me/mine --private\n"
    "  cotune push runs/mine me/mine --update"
)
def push(
    bundle: Bundle,
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="Name on the hub: org/name.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write what would be uploaded to --out, and upload nothing.")
    ] = False,
    out: Annotated[Path | None, option("FOLDER", "Folder for --dry-run. (default: NAME-hub)")] = None,
    update: Annotated[bool, typer.Option("--update", help="Add a commit to a repository that was pushed before.")] = False,
    to: Annotated[
        str,
        option(
            "FORMAT",
            "Export to upload beside the bundle: auto (the one that fits), transformers, merged, peft, or bundle (none).",
        ),
    ] = "auto",
    license: Annotated[
        str | None, option("NAME", "Licence of the base model, such as apache-2.0. (default: from the model's card)")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before uploading rows that the prompt shows.")] = False,
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Upload a bundle to the Hugging Face hub.

    Uploads the bundle with its PEFT adapter, the model for transformers, and a model card.
    """
    from cotune.bundle.hub.repository import Repository

    wanted = Repository.of(repository, bundle, to=to, base=base, licence=license)
    for line in wanted.told():
        tell(line, err=True)
    if dry_run:
        folder = out or Path(f"{repository.partition('/')[2]}-hub")
        files = wanted.write(folder)
        if as_json:
            echo_json({"out": str(folder), "repository": repository, "files": files, "rows": wanted.rows})
        else:
            tell(f"Written: {folder}, {len(files)} files for {repository}. Nothing was uploaded.")
        return
    if out is not None:
        raise InputError("it needs --dry-run", where="--out", hint="Add --dry-run, or omit it.")
    from cotune.bundle.hub.push import check_target, upload

    api = check_target(repository, update=update, private=private)
    if wanted.rows and not yes:
        _ask(wanted, private=private)
    with tempfile.TemporaryDirectory(prefix="cotune-push-") as aside:
        folder = Path(aside) / "repository"
        files = wanted.write(folder)
        if not as_json:
            tell(f"Uploading {len(files)} files to {repository}.", err=True)
        done = upload(api, repository, folder, files, private=private, update=update)
    if as_json:
        echo_json({"repository": repository, "url": done.url, "commit": done.commit, "files": files, "rows": wanted.rows})
    else:
        tell(f"Pushed: {done.url}")
        tell(f'Load it anywhere with cotune.load("hf://{repository}@{done.commit}").')


def _ask(wanted: Repository, *, private: bool) -> None:
    """Ask the user for permission to upload rows."""
    readers = "people with access to the private repository" if private else "everyone who can read the repository"
    if not sys.stdin.isatty():
        raise InputError(
            f"the prompt shows {counted(wanted.rows, 'row')} of your data, which {readers} could read",
            where=wanted.name,
            hint="Add --yes to upload them, or run with search.demonstrations=false for a prompt without rows.",
        )
    try:
        agreed = typer.confirm(f"Upload them, so that {readers} can read them?", err=True)
    except typer.Abort:
        typer.echo("\nStopped. Nothing was uploaded.", err=True)
        raise typer.Exit(130) from None
    if not agreed:
        raise typer.Exit(1)
