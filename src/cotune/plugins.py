"""What installed packages add to cotune: entry points, found by group and name, loaded when they are asked for.

A package says in its metadata what it adds, and needs nothing else::

    [project.entry-points."cotune.metrics"]
    brevity = "my_package:BREVITY"

The metadata is read without running anything. A package's code runs only because the user installed it, and only once something
of it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

from cotune.errors import InputError

METRICS_GROUP = "cotune.metrics"
"""Entry points to a :class:`cotune.task.metrics.metric.Metric`."""
EDITS_GROUP = "cotune.prompt_edits"
"""Entry points to a :class:`cotune.refine.edits.Operator`, or to a function that is the edit of one."""


@dataclass(frozen=True)
class Plugin:
    """One thing that an installed package adds.

    Attributes:
        group: the entry point group, such as ``cotune.metrics``.
        name: what it is called there.
        package: name and version of the package.
        point: the entry point.
    """

    group: str
    name: str
    package: str
    point: metadata.EntryPoint

    @property
    def where(self) -> str:
        """The place, for errors."""
        return f"the package {self.package}, entry point {self.name!r} of {self.group}"

    def load(self) -> Any:
        """What the entry point names; runs the package's code.

        Raises:
            InputError: the package does not run, or holds nothing of that name.
        """
        try:
            return self.point.load()
        except Exception as error:
            raise InputError(
                f"{self.point.value} cannot be loaded ({type(error).__name__}: {error})",
                where=self.where,
                hint="Install the package again, or uninstall it.",
            ) from error

    def load_as(self, fits: Callable[[Any], bool], expected: str) -> Any:
        """What the entry point names, where it fits.

        Args:
            fits: whether it does.
            expected: ends the sentence of what it is, such as ``and no Metric``.

        Raises:
            InputError: the package does not run, or holds nothing of that name, or something else.
        """
        found = self.load()
        if not fits(found):
            raise InputError(
                f"{self.point.value} is a {type(found).__name__}, {expected}",
                where=self.where,
                hint="Ask the package's author to correct it.",
            )
        return found


def plugins(group: str, built_in: Collection[str] = ()) -> Mapping[str, Plugin]:
    """What installed packages add to a group, by name in alphabetical order; nothing is loaded.

    Args:
        group: such as ``cotune.metrics``.
        built_in: names of cotune's own, which no package may take.

    Raises:
        InputError: a name is one of cotune's own, or two packages add it; names the packages.
    """
    found: dict[str, Plugin] = {}
    for plugin in _scan(group, tuple(sys.path)):
        other = "cotune itself" if plugin.name in built_in else found[plugin.name].package if plugin.name in found else ""
        if other:
            raise InputError(
                f"the name {plugin.name!r} is taken twice in {group}: by {other} and by the package {plugin.package}",
                where=plugin.where,
                hint="Uninstall one of the two, or ask its author for another name.",
            )
        found[plugin.name] = plugin
    return found


@lru_cache(maxsize=16)
def _scan(group: str, path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """The group's entry points on an import path, which is a key because reading all metadata takes tens of milliseconds."""
    found = []
    for point in metadata.entry_points(group=group):
        about = point.dist
        package = "unknown" if about is None else f"{about.name} {about.version}"
        found.append(Plugin(group, point.name, package, point))
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.package)))
