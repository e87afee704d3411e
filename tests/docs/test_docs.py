from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import cotune
from cotune.cli import app
from cotune.config import RunConfig, load_config
from cotune.cycle.journal import DIVERGED

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "cotune"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.name for path in PAGES]
DOOR = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
DESIGN = sorted((ROOT / "docs" / "design").glob("*.md"))
ALL = [*PAGES, *DOOR, *DESIGN]
ALL_NAMES = [path.name for path in ALL]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| `([a-z_.]+)` \| ([^|]*) \|", re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in _FENCE.findall(text_of(page)) if kind == language]


def keys_of(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys_of(kind, f"{above}{name}.")
        else:
            yield above + (field.alias or name), "required" if field.is_required() else field.get_default()


def shown(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def calls(page: Path) -> Iterator[list[str]]:
    """Every ``cotune ...`` call in shell blocks and in inline code, as words."""
    code = "\n".join([*blocks(page, "sh"), *re.findall(r"`(cotune [^`\n]+)`", _FENCE.sub("", text_of(page)))])
    for line in code.splitlines():
        if line.startswith("cotune "):
            yield line.split("#")[0].split()[1:]


def test_every_config_key_is_documented_with_its_default_and_no_other() -> None:
    rows = dict(_ROW.findall(text_of(ROOT / "docs" / "configuration.md")))
    known = dict(keys_of(RunConfig))
    assert set(rows) == set(known)
    # A task's name comes from its file, so its default is said in words.
    assert {key: value.strip() for key, value in rows.items() if key != "name"} == {
        key: shown(default) for key, default in known.items() if key != "name"
    }


@pytest.mark.parametrize("page", ALL, ids=ALL_NAMES)
def test_commands_and_their_options_exist(page: Path) -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in calls(page):
        assert words[0] in commands, f"cotune {' '.join(words)}"
        options = {name for parameter in commands[words[0]].params for name in parameter.opts}
        unknown = [word for word in words if word.startswith("--") and word not in options]
        assert not unknown, f"cotune {' '.join(words)}: {unknown}"


def test_the_pages_show_every_command() -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {words[0] for page in PAGES for words in calls(page)} == set(commands)


def test_settings_on_shown_command_lines_are_config_keys() -> None:
    known = {key for key, _ in keys_of(RunConfig)}
    words = [word for page in PAGES for line in calls(page) for word in line]
    settings = [word.partition("=")[0] for word in words if re.fullmatch(r"[a-z_.]+=\S+", word)]
    assert settings and set(settings) <= known
    inline = {key for page in PAGES for key in re.findall(r"`([a-z]+\.[a-z_]+)(?:=[^`]*)?`", text_of(page))}
    sections = {key.partition(".")[0] for key in known if "." in key}
    assert {key for key in inline if key.partition(".")[0] in sections} <= known


@pytest.mark.parametrize("page", ALL, ids=ALL_NAMES)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = "\n".join([*blocks(page, "sh"), *re.findall(r"`(make [^`\n]+)`", text_of(page))])
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", ALL, ids=ALL_NAMES)
def test_links_into_the_project_resolve(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", text_of(page))):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in _LINK.findall(text_of(ROOT / "README.md"))}
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= linked


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_yaml_blocks_are_valid_task_files(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"task{number}.yaml"
        path.write_text(block, encoding="utf-8")
        assert load_config(path).data.input


def test_there_are_task_files_and_python_to_check() -> None:
    assert sum(len(blocks(page, "yaml")) for page in PAGES) >= 2
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 3


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_blocks_compile_and_name_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cotune":
                assert node.attr in cotune.__all__, node.attr
    for name in re.findall(r"`cotune\.(\w+)", text_of(page)):
        assert name in cotune.__all__ or (SOURCE / name).exists(), name


def test_every_kind_of_journal_line_is_documented_and_no_other() -> None:
    section = text_of(ROOT / "docs" / "files.md").split("## Journal")[1].split("\n## ")[0]
    written = {
        node.args[0].value
        for path in (SOURCE / "cycle").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step"
        if node.args and isinstance(node.args[0], ast.Constant)
    }
    # The journal itself records a step that diverged.
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == written | {DIVERGED}


def test_every_key_of_the_summary_is_documented_and_no_other() -> None:
    section = text_of(ROOT / "docs" / "files.md").split("## Summary")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    tree = ast.parse((SOURCE / "cycle" / "summary.py").read_text(encoding="utf-8"))
    build = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "build_summary")
    summary = next(n.value for n in ast.walk(build) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "summary")
    value = next(n.value for n in ast.walk(build) if isinstance(n, ast.Return))
    assert isinstance(summary, ast.Dict) and isinstance(value, ast.Dict)
    written = {key.value for key in (*summary.keys, *value.keys) if isinstance(key, ast.Constant)}
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == written


def test_environment_variables_are_documented() -> None:
    used = {
        name for path in SOURCE.rglob("*.py") for name in re.findall(r'"(COTUNE_[A-Z0-9_]+)"', path.read_text(encoding="utf-8"))
    }
    told = set(re.findall(r"`(COTUNE_[A-Z0-9_]+)", text_of(ROOT / "docs" / "configuration.md")))
    assert used == told


def test_marked_places_of_the_readme_open_and_close() -> None:
    readme = text_of(ROOT / "README.md")
    for place in re.findall(r"<!-- (\w+:\w+) -->", readme):
        assert readme.count(f"<!-- {place} -->") == 1
        assert readme.index(f"<!-- {place} -->") < readme.index(f"<!-- /{place} -->")


def test_every_design_note_is_linked_from_the_contributors_page() -> None:
    linked = {link.partition("#")[0] for link in _LINK.findall(text_of(ROOT / "CONTRIBUTING.md"))}
    assert len(DESIGN) == 6 and {f"docs/design/{page.name}" for page in DESIGN} <= linked


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", *DESIGN], ids=lambda page: page.name)
def test_files_and_names_that_are_told_are_there(page: Path) -> None:
    told = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text_of(page)))
    for path in (one for one in told if re.fullmatch(r"(?:src|tests|docs|\.ci)/[\w./-]*", one)):
        assert (ROOT / path).exists(), path
    for name in (one for one in told if re.fullmatch(r"cotune(?:\.\w+){2,}", one)):
        place = SOURCE.parent.joinpath(*name.split("."))
        above = place.parent.with_suffix(".py")
        assert place.is_dir() or place.with_suffix(".py").is_file() or f"def {place.name}(" in text_of(above), name


def test_names_in_the_contributors_table_stand_in_the_files_beside_them() -> None:
    named = {
        "src/cotune/refine/edits.py": ("_lengthen", "_MEANING", "FORMATS"),
        "src/cotune/task/metrics/text.py": ("token_f1",),
        "src/cotune/task/metrics/metric.py": ("METRICS", "Aggregate"),
        "src/cotune/report/html/page.py": ("render_report", "sections"),
        "src/cotune/tune/trainable.py": ("Trainable",),
        "src/cotune/tune/tuners.py": ("Tuner", "LoraTuner", "TUNERS"),
        "src/cotune/cycle/backends/base.py": ("Backend",),
        "src/cotune/tune/settings.py": ("Method",),
        "src/cotune/model/base.py": ("Scorer", "Model", "ModelBackend", "AskedModel"),
        "src/cotune/task/values/kinds/base.py": ("OutputKind",),
        "tests/refine/test_edits.py": ("test_operators_change_the_part_they_are_named_after",),
    }
    text = text_of(ROOT / "CONTRIBUTING.md")
    for path, names in named.items():
        held = text_of(ROOT / path)
        for name in names:
            assert path in text and f"`{name}`" in text and re.search(rf"\b{name}\b", held), f"{path}: {name}"


def test_the_workflow_runs_the_checks_on_the_oldest_python_and_a_new_one() -> None:
    import yaml

    workflow = yaml.safe_load(text_of(ROOT / ".github" / "workflows" / "test.yml"))
    (job,) = workflow["jobs"].values()
    assert any(step.get("run") == ".ci/run" for step in job["steps"])
    needed = re.search(r'requires-python = ">=([\d.]+)"', text_of(ROOT / "pyproject.toml"))
    assert needed is not None and job["strategy"]["matrix"]["python"] == [needed[1], "3.13"]
    hooks = yaml.safe_load(text_of(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "mypy"]
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
    assert forms and all(yaml.safe_load(text_of(form))["body"] for form in forms)


@pytest.mark.parametrize("name", ["cycle", "house", "journal", "layers", "serving", "shared-prefix"])
def test_the_picture_is_well_formed_and_says_what_it_shows(name: str) -> None:
    from xml.etree import ElementTree

    root = ElementTree.parse(ROOT / "docs" / "img" / f"{name}.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title") is not None and root.find(f"{space}desc") is not None
    assert "prefers-color-scheme: dark" in (root.findtext(f"{space}style") or "")


def test_the_readme_is_short_and_its_table_names_every_command() -> None:
    text = text_of(ROOT / "README.md")
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    rows = [line for line in text.splitlines() if line.startswith("| `cotune ")]
    assert {name for row in rows for name in re.findall(r"`cotune (\w+)`", row)} == set(commands)
    assert len(text.splitlines()) <= 120


_ITEM = re.compile(r"    (?:(\*{0,2}\w+):|[A-Z]\w+(?:, [A-Z]\w+)*:)(?= |$)")


def items(docstring: str, section: str) -> Iterator[str]:
    """Lines of a section; a continuation is indented deeper than the item that it belongs to."""
    within = False
    for line in docstring.splitlines():
        if not line.startswith(" ") and line:
            within = line == section
        elif within and line and not line.startswith(" " * 8):
            yield line


def parameters(node: ast.AST) -> set[str] | None:
    """Names of what a function or a class is called with; None if another file says so."""
    if isinstance(node, ast.ClassDef):
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        return parameters(made[0]) if made else None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    given = node.args
    several = [part for part in (given.vararg, given.kwarg) if part is not None]
    return {part.arg for part in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several)}


def test_items_of_docstrings_name_parameters_and_errors() -> None:
    wrong, seen = [], 0
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            told, known = ast.get_docstring(node) or "", parameters(node)
            for section in ("Args:", "Attributes:", "Raises:"):
                for line in items(told, section):
                    found, seen = _ITEM.match(line), seen + 1
                    named = found[1].lstrip("*") if found and found[1] else ""
                    if found is None or (section == "Args:" and known is not None and named not in known):
                        wrong.append(f"{path.relative_to(ROOT)}, {node.name}: {line.strip()}")
    assert not wrong and seen > 2000
