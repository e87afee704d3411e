"""Guessing the input column and the column of right answers."""

from __future__ import annotations

import re

from cotune.task.reading.table import Table
from cotune.task.values.kinds.registry import guess_type

_ROW_ID = re.compile(r"(^|[\W_])(id|uuid|index)$", re.IGNORECASE)
_USUAL = ("label", "labels", "category", "class", "intent", "sentiment", "target", "output", "answer", "topic", "queue")


def guess_columns(table: Table) -> tuple[str | None, str | None]:
    """Guess the input column and the column of right answers; None if no column is left.

    The answers are in a column with a usual name such as ``label``, else in one of labels (:func:`guess_type`): one with a
    usual word in its name, such as ``Ticket category``, else the table's last column, else the one with the fewest blanks, and
    of these with the fewest different values; else in the last one. The input is the remaining column with the longest texts.
    """
    filled = {column: table.filled(column) for column in table.columns}
    # A constant column cannot be the answers, and neither can one that numbers the rows.
    different = {column: len(set(cells)) for column, cells in filled.items()}
    candidates = [
        column
        for column in table.columns
        if different[column] > 1 and not (_ROW_ID.search(column) and different[column] == len(table))
    ]
    labels = [column for column in candidates if guess_type(filled[column])[0] == "label"]
    usual = next((column for name in _USUAL for column in candidates if column.lower() == name), None)
    worded = next((column for name in _USUAL for column in labels if name in re.findall(r"[a-z]+", column.lower())), None)
    last = next((column for column in labels if column == table.columns[-1]), None)
    fewest = min(labels, key=lambda column: (len(table) - len(filled[column]), different[column]), default=None)
    output = usual or worded or last or fewest or next(reversed(candidates), None)
    rest = [column for column in candidates if column != output]
    return max(rest, key=lambda column: sum(map(len, filled[column])), default=None), output
