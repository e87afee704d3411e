"""The imports of the source form no circle and run one way between rooms; no folder is crowded, and no module is patched."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cotune
from cotune.garbage import collection_paused

ROOT = Path(cotune.__file__).parent
ROOMS = (
    # From the bottom up: a room imports from itself and from those before it.
    ("errors", "plain", "version", "files", "cache", "streams", "garbage", "plugins", "run_files"),
    ("web", "endpoint"),
    ("task",),
    ("prompt",),
    ("probe",),
    ("model",),
    ("executor",),
    ("embed", "tune"),
    ("evaluate", "refine"),
    ("bundle",),
    ("config",),
    ("report",),
    ("cycle",),
    ("tracking",),
    ("labelling",),
    ("classifier_input", "api"),
    ("classifier",),
    ("",),
    ("cli", "testing"),
)
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
    """Module to the modules that it imports, wherever in it the import stands and for whatever it is used.

    An import runs the packages on its way too. Those that a module lies in itself are there before it and do not count.
    """
    known = modules()
    return {name: on_the_way(name, sources()[name].imports) & known.keys() for name in known}


def on_the_way(name: str, targets: Iterable[str]) -> frozenset[str]:
    """The targets, and the packages around them that are not around ``name`` as well."""
    found = {part for target in targets for part in (target, *around(target))}
    return frozenset(found - {name, *around(name)} | set(targets) - {name})


def around(name: str) -> list[str]:
    """Packages that a module lies in."""
    return [name[:end] for end, letter in enumerate(name) if letter == "."]


class Source(NamedTuple):
    """What is looked at of a module; its syntax tree is not kept, since those of all modules are a million objects."""

    imports: tuple[str, ...]
    patches: list[int]
    hooks: list[int]


@cache
def sources() -> dict[str, Source]:
    known, found = modules(), {}
    # Else Python would search for garbage among the objects while they are made.
    with collection_paused():
        for name, path in known.items():
            nodes = parsed(path.read_text(encoding="utf-8"))
            found[name] = Source((*imported(nodes, known),), patches(nodes), loose_hooks(nodes))
    return found


def imported(nodes: list[ast.AST], known: dict[str, Path]) -> Iterator[str]:
    for node in nodes:
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
        wanted = frozenset[str]().union(*left.values())
        starts = [name for name in left if name not in wanted]
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
    assert circles(graph()) == []


def test_a_circle_would_be_found() -> None:
    loop = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("a")}
    assert circles(loop) == [["b", "c"]]


def test_packages_on_the_way_are_imported_too() -> None:
    assert on_the_way("a.b.c", ["a.b.d", "a.e.f.g", "a.b"]) == {"a.b.d", "a.e.f.g", "a.e.f", "a.e", "a.b"}


def test_rooms_import_one_way() -> None:
    assert upward() == set()


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in modules().values()}
    crowded = {
        str(folder.relative_to(ROOT)): count for folder in folders if (count := len([*folder.glob("*.py")])) > MOST_MODULES
    }
    assert not crowded


def patches(nodes: list[ast.AST]) -> list[int]:
    """Lines on which a ``forward`` is replaced or taken away."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Attribute):
            patch = node.attr == "forward" and not isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.Subscript):
            patch = is_forward(node.slice) and not isinstance(node.ctx, ast.Load)
        else:
            patch = isinstance(node, ast.Call) and any(map(is_forward, node.args)) and "setattr" in ast.unparse(node.func)
        if patch:
            found.append(node.lineno)  # type: ignore[attr-defined]
    return found


def is_forward(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == "forward"


def loose_hooks(nodes: list[ast.AST]) -> list[int]:
    """Lines on which a hook is registered without a with-block, or an exit stack, that removes it."""
    held: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.withitem):
            held.add(node.context_expr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "enter_context":
            held.update(node.args)
    return [
        node.lineno
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr.startswith("register_")
        and node.func.attr.endswith("_hook")
        and node not in held
    ]


def test_layers_are_swapped_and_not_patched() -> None:
    assert {name: source.patches for name, source in sources().items() if source.patches} == {}


def test_hooks_are_removed_where_they_are_registered() -> None:
    assert {name: source.hooks for name, source in sources().items() if source.hooks} == {}


def test_a_patch_and_a_loose_hook_would_be_found() -> None:
    wrong = (
        "layer.forward = other",
        "del layer.forward",
        "setattr(layer, 'forward', other)",
        "object.__setattr__(layer, 'forward', other)",
        "vars(layer)['forward'] = other",
        "layer.forward, layer.x = other, 1",
    )
    assert [len(patches(parsed(line))) for line in wrong] == [1] * len(wrong)
    assert patches(parsed("def forward(self): ...\nself.forward(x)\nvars(layer)['forward']")) == []
    assert loose_hooks(parsed("h = layer.register_forward_hook(tap)")) == [1]
    held = "with layer.register_forward_hook(tap):\n    taps.enter_context(b.register_forward_pre_hook(c))"
    assert loose_hooks(parsed(held)) == []


def parsed(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))
