"""Build the documentation site: ``make docs``.

The site's pages are the project's own Markdown files. They are copied to ``build/site/pages`` in the folders in which they lie
in the repository, so that a link such as ``../SECURITY.md`` or ``../docker/Dockerfile`` leads to the same file on the site.
Beside them come pages that are made here: one for each notebook, and one with all commands. Zensical then builds
``build/site/html``, and ends with an error where a link, an anchor or a name of the API is missing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "build" / "site" / "pages"
SHOWN = (
    *("*.md", "LICENSE", "docker/*", "examples/*/README.md"),
    *("docs/*.md", "docs/design/*", "docs/img/*", "docs/notebooks/*.ipynb", "docs/site/*.css"),
)
"""Files that are pages of the site, or that its pages show or link to."""


def main() -> int:
    """Copy the pages, make the others, build; the exit status of the last."""
    shutil.rmtree(PAGES.parent, ignore_errors=True)
    for pattern in SHOWN:
        for path in ROOT.glob(pattern):
            _copy(path, PAGES / path.relative_to(ROOT))
    for notebook in PAGES.glob("docs/notebooks/*.ipynb"):
        notebook.with_suffix(".md").write_text(notebook_page(notebook), encoding="utf-8")
    (PAGES / "docs" / "cli.md").write_text(command_page(), encoding="utf-8")
    return subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT, check=False).returncode


def notebook_page(path: Path) -> str:
    """A notebook and what its cells gave, as Markdown."""
    from nbconvert import MarkdownExporter

    title, _, rest = MarkdownExporter().from_filename(str(path))[0].lstrip().partition("\n")
    return f"{title}\n\n[Download this notebook]({path.name}).\n{rest}"


def command_page() -> str:
    """All commands and their options, as Typer tells them."""
    words = ["typer", "cotune.cli", "utils", "docs", "--name", "cotune", "--title", "Commands"]
    told = subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, text=True).stdout
    # A list of commands with the first words of what they do; the table has whole sentences.
    told = re.sub(r"^\*\*Commands\*\*:\n\n(?:\* .*\n)+\n", "", told, count=1, flags=re.MULTILINE)
    told = told.replace("**Usage**:", f"{_command_table()}\n\n**Usage**:", 1)
    return re.sub(r"^(Examples?):\n\n((?:  cotune .*\n)+)", _example_block, told, flags=re.MULTILINE)


def _command_table() -> str:
    from typer.main import get_command

    from cotune.cli import app

    commands: Any = get_command(app)
    rows = (
        f"| [`cotune {name}`](#cotune-{name}) | {commands.commands[name].help.partition(chr(10))[0]} |"
        for name in commands.list_commands(None)
    )
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def _example_block(found: re.Match[str]) -> str:
    lines = "\n".join(line.strip() for line in found[2].splitlines())
    return f"{found[1]}:\n\n```sh\n{lines}\n```\n"


def _copy(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".md":
        # In the repository a link to a notebook shows it; on the site its page does.
        text = re.sub(r"(\]\([^)\s]+)\.ipynb\)", r"\1.md)", path.read_text(encoding="utf-8"))
        place.write_text(text, encoding="utf-8")
    elif path.is_file():
        shutil.copyfile(path, place)


if __name__ == "__main__":
    sys.exit(main())
