"""All kinds of outputs by name.

A further kind is one file in this folder, an entry in each of the two lists here, and its name in ``cotune/config/output.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from cotune.task.values.kinds.base import OutputKind
from cotune.task.values.kinds.json_kind import JsonKind
from cotune.task.values.kinds.label import LabelKind
from cotune.task.values.kinds.number import NumberKind
from cotune.task.values.kinds.text import TextKind

OutputType = Literal["label", "text", "number", "json"]
OUTPUT_TYPES: tuple[OutputType, ...] = get_args(OutputType)

# The order in which the outputs of a column are tried: from the strictest kind to the one that everything is.
_KINDS: tuple[OutputKind, ...] = (JsonKind(), NumberKind(), LabelKind(), TextKind())

KINDS: Mapping[str, OutputKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Kinds by name, in the order in which the outputs of a column are tried."""

WRITTEN_TYPES: tuple[OutputType, ...] = tuple(name for name in OUTPUT_TYPES if KINDS[name].written)
"""Names of the kinds whose answers are written."""
