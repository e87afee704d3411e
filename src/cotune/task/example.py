"""One labelled row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cotune.task.words import text_of

_WHOLE = re.compile(r"\A(-?[0-9]+)\.0+\Z")
UNLABELLED = "unlabelled:"
"""Prefix of the ids of rows that came without a label."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled row of a task.

    Attributes:
        id: unique within the task: role of the file and number of the row, such as ``train:12``.
        fields: input field name to its text, in the task's field order.
        output: right answer of the row in normal form: a label, a text, a number or JSON text.
        group: rows with equal groups are dependent and stay in one split; None without a group.
    """

    id: str
    fields: Mapping[str, str]
    output: str
    group: str | None = None
    # A cache for comparisons of inputs: a row of several megabytes is normalised once, not in each check.
    _key: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def text(self) -> str:
        """All input fields as one text."""
        return text_of(self.fields)

    @property
    def taught(self) -> bool:
        """Whether the output comes from a teacher. Such rows are used for training only, never for evaluation."""
        return self.id.startswith(UNLABELLED)


def group_of(cell: str | None) -> str | None:
    """The group in a cell; None if it is blank.

    ``5.0`` is ``5``: pandas writes whole numbers so if a row of the column is blank, and files of the same groups may differ.
    """
    text = (cell or "").strip()
    return _WHOLE.sub(r"\1", text) if text else None


def groups_of(rows: Sequence[Example]) -> NDArray[np.str_] | None:
    """Group of each row, for statistics of dependent rows; None if no row has a group.

    A row without a group forms its own group.
    """
    if not any(row.group for row in rows):
        return None
    # Ids are unique; the prefixes distinguish ids from groups.
    return np.array([f"-{row.id}" if row.group is None else f"+{row.group}" for row in rows])


def by_group(rows: Sequence[Example], order: Sequence[int]) -> list[int]:
    """Reorder so that the rows of a group are adjacent, at the position of the first; unchanged without groups."""
    groups = groups_of(rows)
    if groups is None:
        return list(order)
    names, place = groups.tolist(), dict[str, int]()
    for row in order:
        place.setdefault(names[row], len(place))
    return sorted(order, key=lambda row: place[names[row]])


def dev_in_order(dev: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """Dev rows in the one random order that all prompts use, as sequential tests require; groups are adjacent."""
    order = np.random.default_rng([seed, 1]).permutation(len(dev)).tolist()
    return tuple(dev[i] for i in by_group(dev, order))
