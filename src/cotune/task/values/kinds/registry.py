"""All kinds of outputs by name.

To add a kind, add a file to this folder, an entry to both lists here, and its name to ``cotune/config/output.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, cast, get_args

from cotune.task.values.kinds.base import OutputKind
from cotune.task.values.kinds.json_kind import JsonKind
from cotune.task.values.kinds.label import LabelKind
from cotune.task.values.kinds.number import NumberKind
from cotune.task.values.kinds.text import TextKind

OutputType = Literal["label", "text", "number", "json"]
OUTPUT_TYPES: tuple[OutputType, ...] = get_args(OutputType)

# Order in which a column's outputs are tested: from the strictest kind to the one that accepts everything.
_KINDS: tuple[OutputKind, ...] = (JsonKind(), NumberKind(), LabelKind(), TextKind())

KINDS: Mapping[str, OutputKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Kinds by name, in the order in which a column's outputs are tested."""

WRITTEN_TYPES: tuple[OutputType, ...] = tuple(name for name in OUTPUT_TYPES if KINDS[name].written)
"""Names of the kinds with generated answers."""


def guess_type(cells: Sequence[str]) -> tuple[OutputType, str]:
    """Guess the type of outputs from filled cells, at least one; returns it with the reason in a few words.

    JSON if all are JSON objects or lists; numbers if all are numbers, more than twenty differ, and they are not row numbers
    from 0 or 1; else labels if there are at most half as many different values as rows; else text.
    """
    return next((cast(OutputType, name), why) for name, kind in KINDS.items() if (why := kind.recognise(cells)))
