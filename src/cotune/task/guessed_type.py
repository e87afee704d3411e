"""The type of an output column by its cells, and why it may be another."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.errors import InputError, counted, shortened
from cotune.task.checks import Finding
from cotune.task.reading.table import Table
from cotune.task.values.kinds.registry import KINDS, OutputType, guess_type
from cotune.task.values.number import parse_number
from cotune.task.values.number_style import has_decimal_comma

_MANY_COMMAS = 0.1
"""Share of outputs with a decimal comma above which a warning says that they are not read as numbers."""
_NEARLY_ALL = 0.9
"""Share of outputs of one kind above which the first of another kind is named, in a warning or an error."""


def guessed_type(table: Table, column: str) -> tuple[OutputType, tuple[Finding, ...]]:
    """The type of a column's outputs by :func:`guess_type`, and findings on why it may be another.

    Raises:
        InputError: some outputs are broken JSON, and nearly all others are JSON.
    """
    cells = table.filled(column)
    if not cells:
        return "label", ()
    kind, why = guess_type(cells)
    _refuse_broken(table, column, kind, cells)
    doubts = (*_decimal_commas(column, kind, cells), *_exceptions(table, column, kind, cells))
    if not KINDS[kind].guess_told:
        return kind, (*_numbers_as_labels(column, kind, cells), *doubts)
    if KINDS[kind].may_name_rows(cells):
        message = (
            f"the output {column!r} is taken for {kind}: every value differs, so it is not a label column; name "
            f"another with --output, or set output.type={kind} to confirm it"
        )
        return kind, (Finding("output_type", "warning", message, len(cells)), *doubts)
    message = f"the output {column!r} is taken for {kind}: {why}; output.type says otherwise"
    return kind, (Finding("output_type", "info", message, len(cells)), *doubts)


def _numbers_as_labels(column: str, kind: OutputType, cells: Sequence[str]) -> tuple[Finding, ...]:
    """A finding where more than two labels are all numbers, such as ratings, whose order labels do not have."""
    different = {cell.strip() for cell in cells}
    if len(different) <= 2 or any(parse_number(cell) is None for cell in different):
        return ()
    message = (
        f"the output {column!r} holds {len(different)} different numbers, which are taken for labels without an order; "
        f"output.type=number takes them for numbers, and output.type={kind} confirms that they are labels"
    )
    return (Finding("number_labels", "info", message, len(cells)),)


def _decimal_commas(column: str, kind: OutputType, cells: Sequence[str]) -> tuple[Finding, ...]:
    """A warning where many outputs look like numbers with decimal commas and are taken for something else."""
    matching = [cell.strip() for cell in cells if has_decimal_comma(cell)]
    if KINDS[kind].styled or len(matching) < _MANY_COMMAS * len(cells):
        return ()
    message = (
        f"{len(matching):,} of {len(cells):,} values of the output {column!r} look like numbers with decimal commas, such as "
        f"{shortened(matching[0])!r}, and are taken for {kind}; output.type=number reads them as numbers if all are written "
        f"alike, and output.type={kind} confirms that they are not numbers"
    )
    return (Finding("decimal_commas", "warning", message, len(matching)),)


def _exceptions(table: Table, column: str, kind: OutputType, cells: Sequence[str]) -> tuple[Finding, ...]:
    """A warning where a few cells alone keep the outputs from being taken for JSON or numbers."""
    for name, stricter in KINDS.items():
        if name == kind:
            continue
        alike = [cell for cell in cells if stricter.alike(cell)]
        if len(alike) < _NEARLY_ALL * len(cells) or not stricter.recognise(alike):
            continue
        other = next(cell for cell in cells if not stricter.alike(cell))
        place = table.where(_row_of(table, column, other))
        message = (
            f"{len(alike):,} of {len(cells):,} values of the output {column!r} are of type {name}, the others are not, so all "
            f"are taken for {kind}; the first of the others, in {place}, is {shortened(other.strip())!r}. "
            f"Correct them, or empty these cells and set data.on_blank=skip; output.type={kind} confirms that they are right"
        )
        return (Finding("output_exceptions", "warning", message, len(cells) - len(alike)),)
    return ()


def _refuse_broken(table: Table, column: str, guessed: OutputType, cells: Sequence[str]) -> None:
    """Refuse outputs that were clearly meant to be of a kind and are not, if nearly all others are; they would become text."""
    for name, kind in KINDS.items():
        # Of the guessed kind none is broken.
        if name == guessed or not (broken := [cell for cell in cells if kind.broken(cell)]):
            continue
        alike = sum(map(kind.alike, cells))
        # Where as many are broken, it may be a way of writing labels, such as [A] beside [1].
        if len(broken) >= alike or alike < _NEARLY_ALL * (len(cells) - len(broken)):
            continue
        where = table.where(_row_of(table, column, broken[0]), column)
        try:
            kind.cell_reader()(broken[0], where)
        except InputError as error:
            others = f", and {counted(len(broken) - 1, 'more cell')} like it" if len(broken) > 1 else ""
            raise InputError(
                f"{error.what}; {alike:,} of {len(cells):,} outputs are {kind.about}",
                where=where,
                hint=f"Correct it{others}, or set output.type=text if they are texts (output.type=label: labels).",
            ) from error


def _row_of(table: Table, column: str, cell: str) -> int:
    """The first row with a cell, which the column has."""
    return next(index for index, row in enumerate(table.rows) if row.get(column) == cell)
