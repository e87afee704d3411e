"""The original type of labels, in which answers are returned."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Literal, get_args

LabelType = Literal["text", "int", "float", "bool"]
LABEL_TYPES: tuple[LabelType, ...] = get_args(LabelType)
Label = str | int | float | bool

_INT = re.compile(r"0|-?[1-9]\d{0,17}")
_FLOAT = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")


def label_type(labels: Collection[str]) -> LabelType:
    """The common type of labels, by their spelling.

    Booleans are ``true`` and ``false`` in any case; integers have no leading zeros or plus sign; other numbers are spelled
    as by Python, and integers may be among them, as in ``1``, ``2.5``, but not ``1`` beside ``1.0``. Anything that would be
    spelled differently, such as ``007`` or ``1.50``, is a text.
    """
    lower = {label.lower() for label in labels}
    if labels and lower <= {"true", "false"} and len(lower) == len(labels):
        return "bool"
    if labels and all(_INT.fullmatch(label) for label in labels):
        return "int"
    if labels and all(map(_is_plain_number, labels)) and len({*map(float, labels)}) == len({*labels}):
        return "float"
    return "text"


def _is_plain_number(label: str) -> bool:
    """Whether a label is an integer, or spelled as Python spells a float."""
    if _INT.fullmatch(label):
        return int(float(label)) == int(label)
    return _FLOAT.fullmatch(label) is not None and repr(float(label)) == label


def one_spelling(cells: Collection[str]) -> set[str]:
    """The shortest spelling of each number, if all cells are numbers and some are spelled in two ways, as ``1`` and ``1.0``."""
    different = {cell.strip() for cell in cells} - {""}
    if not all(map(_is_plain_number, different)):
        return set()
    # The shortest comes last and stays.
    by_value = {float(cell): cell for cell in sorted(different, key=len, reverse=True)}
    return set(by_value.values()) if len(by_value) < len(different) else set()


def label_value(label: str, own: LabelType) -> Label:
    """A label in its type; the text itself if it is not of that type."""
    kind = label_type([label])
    if own == "text" or (kind != own and (kind, own) != ("int", "float")):
        return label
    if own == "bool":
        return label.lower() == "true"
    return int(label) if own == "int" else float(label)


def spelled_as(labels: Collection[str]) -> Callable[[str], str]:
    """A function from a cell to the label of equal value, if all labels are numbers or all are truth values.

    pandas writes whole numbers as ``1.0`` where a row of the column is blank, and truth values as ``True``. A cell that is one
    of the labels, or has the value of none, is returned unchanged.
    """
    own = label_type(labels)
    if own == "text":
        return lambda cell: cell
    read: tuple[LabelType, ...] = ("bool",) if own == "bool" else ("int", "float")
    by_value = {label_value(label, own): label for label in labels}
    known = frozenset(labels)

    def spelled(cell: str) -> str:
        values = [value for one in read if not isinstance(value := label_value(cell.strip(), one), str)]
        return cell if cell.strip() in known or not values else by_value.get(values[0], cell)

    return spelled
