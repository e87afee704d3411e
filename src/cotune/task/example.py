"""One labelled row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UNLABELLED = "unlabelled:"
"""How ids of rows begin that came without a label."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled row of a task.

    Attributes:
        id: unique within the task: the split file's role and the row's number there, such as ``train:12``.
        fields: input field name to its text, in the task's field order.
        output: what is right for this row: a label, a text, a number or JSON text, written the one way.
        group: rows with equal groups are dependent and never torn apart by a split; None where there is none.
    """

    id: str
    fields: Mapping[str, str]
    output: str
    group: str | None = None
    # Of whoever compares inputs: a row of several megabytes is read through for it once, not in each check.
    _key: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def text(self) -> str:
        """All input fields in a line, for whatever looks at the input as one text."""
        return " ".join(self.fields.values())

    @property
    def taught(self) -> bool:
        """Whether the row came without a label, so that its output is a teacher's: it is learnt from and judges nothing."""
        return self.id.startswith(UNLABELLED)


def groups_of(rows: Sequence[Example]) -> NDArray[np.str_] | None:
    """Group of each row, for statistics that count dependent rows for less; None where no row has one.

    A row without a group is a group of its own.
    """
    if not any(row.group for row in rows):
        return None
    # No two rows have one id; the signs in front keep ids and groups apart.
    return np.array([f"-{row.id}" if row.group is None else f"+{row.group}" for row in rows])


def by_group(rows: Sequence[Example], order: Sequence[int]) -> list[int]:
    """The order with the rows of a group side by side, where the first of them stands; as it is where there are no groups."""
    groups = groups_of(rows)
    if groups is None:
        return list(order)
    names, place = groups.tolist(), dict[str, int]()
    for row in order:
        place.setdefault(names[row], len(place))
    return sorted(order, key=lambda row: place[names[row]])


def dev_in_order(dev: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """Rows of dev in the one random order in which all meet them, as sequential tests need it; a group's side by side."""
    order = np.random.default_rng([seed, 1]).permutation(len(dev)).tolist()
    return tuple(dev[i] for i in by_group(dev, order))
