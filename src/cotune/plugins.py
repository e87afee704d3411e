"""Extensions from installed packages: entry points, found by group and name and loaded on first use.

A package declares an extension in its metadata::

    [project.entry-points."cotune.metrics"]
    brevity = "my_package:BREVITY"

Reading the metadata runs no code. A package's code runs only once one of its extensions is used.
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
"""Entry point group of metrics; each refers to a :class:`cotune.task.metrics.metric.Metric`."""
EDITS_GROUP = "cotune.prompt_edits"
"""Entry point group of operators; each refers to a :class:`cotune.refine.edits.Operator` or to an edit function."""


@dataclass(frozen=True)
class Plugin:
    """One extension from an installed package.

    Attributes:
        group: entry point group, such as ``cotune.metrics``.
        name: name in that group.
        package: name and version of the package.
    """

    group: str
    name: str
    package: str
    point: metadata.EntryPoint

    @property
    def where(self) -> str:
        """Group, name and package, for error messages."""
        return f"the package {self.package}, entry point {self.name!r} of {self.group}"

    def load(self) -> Any:
        """Load the object that the entry point refers to; this runs the package's code.

        Raises:
            InputError: if importing the package fails, or it has no object of that name.
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
        """Load the object that the entry point refers to, and check it.

        Args:
            fits: function that tells whether an object is valid.
            expected: end of the error message, such as ``and no Metric``.

        Raises:
            InputError: if the object cannot be loaded or is not valid.
        """
        loaded = self.load()
        if not fits(loaded):
            raise InputError(
                f"{self.point.value} is a {type(loaded).__name__}, {expected}",
                where=self.where,
                hint="Ask the package's author to correct it.",
            )
        return loaded


def plugins(group: str, built_in: Collection[str] = ()) -> Mapping[str, Plugin]:
    """The extensions of a group, by name in alphabetical order. Nothing is loaded.

    Args:
        group: entry point group, such as ``cotune.metrics``.
        built_in: names that cotune itself uses, which no package may use.

    Raises:
        InputError: if a name is one of ``built_in`` or two packages use the same one; the message names the packages.
    """
    by_name: dict[str, Plugin] = {}
    for plugin in _scan(group, tuple(sys.path)):
        other = "cotune itself" if plugin.name in built_in else by_name[plugin.name].package if plugin.name in by_name else ""
        if other:
            raise InputError(
                f"the name {plugin.name!r} is taken twice in {group}: by {other} and by the package {plugin.package}",
                where=plugin.where,
                hint="Uninstall one of the two, or ask its author for another name.",
            )
        by_name[plugin.name] = plugin
    return by_name


@lru_cache(maxsize=16)
def _scan(group: str, path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """The entry points of a group on an import path. Cached by path, since reading all metadata takes tens of milliseconds."""
    points = []
    for point in metadata.entry_points(group=group):
        about = point.dist
        package = "unknown" if about is None else f"{about.name} {about.version}"
        points.append(Plugin(group, point.name, package, point))
    return tuple(sorted(points, key=lambda plugin: (plugin.name, plugin.package)))
