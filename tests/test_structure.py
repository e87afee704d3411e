"""The imports of the source form no circle, run one way between rooms, and no folder is crowded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cotune

ROOT = Path(cotune.__file__).parent
ROOMS = (
    # From the bottom up: a room imports from itself and from those before it.
    ("errors", "version", "files", "cache", "streams", "garbage", "plugins", "run_files"),
    ("web", "endpoint"),
    ("task",),
    ("prompt",),
    ("probe",),
    ("model",),
    ("embed", "tune"),
    ("evaluate", "refine"),
    ("bundle",),
    ("config",),
    ("report",),
    ("cycle",),
    ("labelling",),
    ("classifier_input", "api"),
    ("classifier",),
    ("",),
    ("trying", "cli", "testing"),
)
UPWARD = {
    # A task may be made from a config or from the bundle that its run starts from; both need to know what a task is.
    ("cotune.task.task", "cotune.bundle.load"),
    ("cotune.task.task", "cotune.bundle.manifest"),
    ("cotune.task.task", "cotune.config"),
}
MOST_MODULES = 22


def modules() -> dict[str, Path]:
    """Dotted name to file."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ("cotune", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def graph() -> dict[str, frozenset[str]]:
    """Module to the modules that it imports, wherever in it the import stands."""
    known = modules()
    return {name: frozenset(imported(path, known)) - {name} for name, path in known.items()}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module


def circles(graph: dict[str, frozenset[str]]) -> list[list[str]]:
    """Groups of modules that import each other, by removing those that import nothing of what is left."""
    left = dict(graph)
    while True:
        ends = [name for name, targets in left.items() if not targets & left.keys()]
        starts = [name for name in left if not any(name in targets for other, targets in left.items() if other != name)]
        if not ends and not starts:
            return [sorted(left)] if left else []
        for name in {*ends, *starts}:
            left.pop(name, None)


def level(module: str) -> int:
    room = [*module.split("."), ""][1]
    return next(number for number, rooms in enumerate(ROOMS) if room in rooms)


def upward() -> set[tuple[str, str]]:
    return {(name, target) for name, targets in graph().items() for target in targets if level(target) > level(name)}


def test_no_circle_of_imports() -> None:
    left = {name: frozenset(target for target in targets if (name, target) not in UPWARD) for name, targets in graph().items()}
    assert circles(left) == []


def test_a_circle_would_be_found() -> None:
    loop = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("a")}
    assert circles(loop) == [["b", "c"]]


def test_rooms_import_one_way() -> None:
    assert upward() == UPWARD


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in modules().values()}
    crowded = {
        str(folder.relative_to(ROOT)): count for folder in folders if (count := len([*folder.glob("*.py")])) > MOST_MODULES
    }
    assert not crowded
