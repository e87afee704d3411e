"""What is imported is declared, and nothing older is allowed than what is known to be safe."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = {canonicalize_name(each.name): each for each in map(Requirement, PROJECT["dependencies"])}
HUB = {canonicalize_name(each.name): each for each in map(Requirement, PROJECT["optional-dependencies"]["hub"])}
EXTRAS = {
    canonicalize_name(Requirement(each).name)
    for name, group in PROJECT["optional-dependencies"].items()
    if name not in ("dev", "docs", "benchmarks")
    for each in group
}


@pytest.mark.parametrize(
    ("name", "hole"),
    [
        ("jinja2", "3.1.5"),  # CVE-2025-27516, out of the sandbox of chat templates
        ("h11", "0.15.0"),  # CVE-2025-43859, request smuggling by chunked bodies
        ("datasets", "3.6.0"),  # runs a data set's own code after a question on standard input
    ],
)
def test_no_version_with_a_known_hole_is_allowed(name: str, hole: str) -> None:
    assert not {**CORE, **HUB}[name].specifier.contains(hole)


def test_versions_whose_insides_nobody_has_seen_are_not_allowed() -> None:
    # Each minor version may change what cotune.web overrides; one is let in once the servers' tests passed with it.
    (most,) = (Version(each.version) for each in CORE["uvicorn"].specifier if each.operator == "<")
    tested = Version(version("uvicorn"))
    assert tested < most and (most.major, most.minor - tested.minor <= 1) == (tested.major, True)


def imported() -> dict[str, set[str]]:
    """Top-level names of what is imported from elsewhere, and where."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {each.split(".")[0] for each in names}:
                if name not in sys.stdlib_module_names and name != "cotune":
                    found.setdefault(name, set()).add(path.name)
    return found


# Of a notebook, which is there where it is asked for.
SURROUNDINGS = {"IPython"}


def test_whatever_is_imported_is_declared() -> None:
    distributions = packages_distributions()
    missing = {}
    for name, where in imported().items():
        if name in SURROUNDINGS:
            continue
        candidates = {canonicalize_name(each) for each in distributions.get(name, [name])}
        if not candidates & (CORE.keys() | EXTRAS):
            missing[name] = sorted(where)
    assert missing == {}
