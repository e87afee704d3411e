"""Which columns of a table are probably the input and the right answers, where nobody has said so."""

from __future__ import annotations

from cotune.task.reading.table import Table
from cotune.task.values.typing_of import guess_type

_USUAL = ("label", "labels", "category", "class", "intent", "target", "output", "answer", "topic", "queue")


def guess_columns(table: Table) -> tuple[str | None, str | None]:
    """The input column and the column of the right answers that a table probably has; None where no column is left for it.

    The answers are in a column with a usual name such as ``label``, else in the one with the fewest different values that
    :func:`guess_type` takes for labels, else in the last one. The input is what holds the longest texts of the rest.
    """
    filled = {column: table.filled(column) for column in table.columns}
    # A column with one value throughout tells rows of nothing apart.
    different = {column: len(set(cells)) for column, cells in filled.items()}
    candidates = [column for column in table.columns if different[column] > 1]
    labels = [column for column in candidates if guess_type(filled[column])[0] == "label"]
    usual = next((column for name in _USUAL for column in candidates if column.lower() == name), None)
    output = usual or min(labels, key=different.__getitem__, default=None) or next(reversed(candidates), None)
    rest = [column for column in candidates if column != output]
    return max(rest, key=lambda column: sum(map(len, filled[column])), default=None), output
