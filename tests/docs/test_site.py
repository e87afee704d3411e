"""The site's navigation names every page, and the page about Python shows everything that cotune exports."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cotune

ROOT = Path(__file__).resolve().parents[2]
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
MADE = {"docs/cli.md"}
"""Pages that building the site makes; it makes one of each notebook too."""


def named(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for inside in entry.values():
            if isinstance(inside, str):
                yield inside
            else:
                yield from named(inside)


def test_the_navigation_names_every_page_once_and_no_other() -> None:
    pages = list(named(SITE["nav"]))
    notebooks = {path.with_suffix(".md") for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")}
    written = {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/design/*.md"), *ROOT.glob("examples/*/README.md")}
    assert len(pages) == len(set(pages))
    assert set(pages) == {path.relative_to(ROOT).as_posix() for path in written | notebooks} | MADE


def test_links_to_files_outside_docs_lead_to_files_of_the_site() -> None:
    build = runpy.run_path(str(ROOT / "docs" / "site" / "build.py"))
    shown = {path for pattern in build["SHOWN"] for path in ROOT.glob(pattern)}
    for name in named(SITE["nav"]):
        if (ROOT / name).exists():
            text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
            for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
                assert link.startswith("http") or ((ROOT / name).parent / link).resolve() in shown, f"{name}: {link}"


def test_examples_of_commands_are_code() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "site" / "build.py"))["command_page"]()
    assert "Example:\n\n```sh\ncotune report runs/mine\n```\n" in page and "Examples:\n\n```sh\ncotune list\n" in page
    outside = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"^ *cotune ", outside, re.MULTILINE)


def test_the_page_about_python_shows_all_that_is_exported() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: cotune\.(\w+)$", page, re.MULTILINE)
    assert sorted([*shown, "__version__"]) == sorted(cotune.__all__) and "cotune.__version__" in page


def test_the_page_about_python_names_arguments_that_exist() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for line in ast.parse(block).body:
        assert isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)
        call = line.value
        known = inspect.signature(eval(ast.unparse(call.func), {"cotune": cotune})).parameters
        named = [ast.unparse(one) for one in call.args] + [one.arg for one in call.keywords if one.arg]
        assert not set(named) - set(known), ast.unparse(call)
        defaults = {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}
        assert defaults == {name: known[name].default for name in defaults}, ast.unparse(call)
