"""Answers to the rows of a file, as additional columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cotune.bundle.predictor import Prediction, Predictor, ending_error
from cotune.bundle.rows import checked_row
from cotune.errors import RowError
from cotune.task.output_columns import cells_of
from cotune.task.reading.read import Sheet
from cotune.task.reading.table import free_name
from cotune.task.values.output import Output

if TYPE_CHECKING:
    from cotune.endpoint import EndpointError


@dataclass(frozen=True)
class SheetAnswers:
    """Answers to the rows of a file.

    Attributes:
        added: new columns: ``answer``, or one for each of several output columns; with ``unsure`` also ``possible``, the labels
            that an undecided row may have; ``confidence`` of JSON answers; ``probabilities`` or one column per name;
            ``truncated`` and ``error`` if any row has one. A number is added to a name that the file already has.
        answered: number of rows that the model answered, undecided ones included.
        truncated: number of these whose text was too long and was cut.
        open: number of undecided rows.
        ended: the failure of an endpoint after which no further row was asked; None if all were.
    """

    added: dict[str, list[Any]]
    answered: int
    truncated: int
    errors: tuple[RowError, ...]
    open: int = 0
    ended: EndpointError | None = None


Checked = list[dict[str, str] | RowError]


def check_sheet(sheet: Sheet, input_fields: Sequence[str]) -> Checked:
    """The input fields of each row, or the error if it cannot be answered. Needs no model.

    Raises:
        InputError: a column is missing.
        RowError: the error of the first row, if no row can be answered.
    """
    checked: Checked = []
    for index, row in enumerate(sheet.rows):
        try:
            # In JSON a row may lack a key; in a table every row has every column.
            checked.append(checked_row(dict.fromkeys(sheet.columns) | dict(row), input_fields, sheet.where(index)))
        except RowError as error:
            checked.append(error)
    errors = [one for one in checked if isinstance(one, RowError)]
    if len(errors) == len(checked):
        raise errors[0]
    return checked


def answer_sheet(
    predictor: Predictor,
    sheet: Sheet,
    checked: Checked,
    *,
    probabilities: bool = False,
    unsure: float | None = None,
    nested: bool = False,
    typed: bool = True,
    columns: Sequence[str] = (),
    batch: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> SheetAnswers:
    """Answer the rows of a file that can be answered.

    A row that an endpoint refuses gets an error like a row with a blank cell. Any other failure of the endpoint ends the
    answers, and the rows left get it as their error.

    Args:
        unsure: error rate, as for :meth:`Predictor.predict`; None answers every row.
        nested: whether a cell can contain an object. If so, probabilities are one column and JSON answers are values; otherwise
            probabilities are one column per name and JSON answers are texts.
        typed: whether a cell can contain a number or a truth value; otherwise labels are written as in the training rows.
        columns: the output columns, if there are several; unless ``nested``, each gets its part of the answer.
        progress: called with the number of rows done, after each batch.

    Raises:
        EndpointError: the endpoint failed before it answered any row.
        RowError: the error of the first row, if the endpoint answered none.
    """
    asked = askable(checked)
    told: list[Prediction | EndpointError] = []
    ended: EndpointError | None = None
    while len(told) < len(asked) and ended is None:
        part = predictor.each(asked[len(told) : len(told) + batch], probabilities=probabilities, unsure=unsure)
        ended = ending_error(part, first=not any(isinstance(one, Prediction) for one in told))
        told += part
        progress(len(told))
    if ended is not None:
        told += [ended] * (len(asked) - len(told))
    options: dict[str, Any] = {"probabilities": probabilities, "unsure": unsure, "nested": nested, "typed": typed}
    options["columns"] = columns
    answers = sheet_answers(told, predictor.output, sheet, checked, **options)
    if not answers.answered:
        raise ended or answers.errors[0]
    return replace(answers, ended=ended)


def askable(checked: Checked) -> list[dict[str, str]]:
    """The rows that can be answered."""
    return [fields for fields in checked if not isinstance(fields, RowError)]


def sheet_answers(
    found: Iterable[Prediction | EndpointError],
    output: Output,
    sheet: Sheet,
    checked: Checked,
    *,
    probabilities: bool,
    unsure: float | None,
    nested: bool,
    typed: bool,
    columns: Sequence[str] = (),
) -> SheetAnswers:
    """Convert answers to the rows of :func:`askable`, in their order, to columns; arguments as for :func:`answer_sheet`."""
    rows: list[Prediction | RowError] = []
    following = iter(found)
    for index, fields in enumerate(checked):
        one = fields if isinstance(fields, RowError) else next(following)
        rows.append(one if isinstance(one, (Prediction, RowError)) else RowError(str(one), where=sheet.where(index)))

    def column(value: Callable[[Prediction], Any]) -> list[Any]:
        return [value(one) if isinstance(one, Prediction) else None for one in rows]

    own: Callable[[str], Any] = output.told if nested else output.own if typed else str
    # Pairs, because a column of answers may have the name of another one, such as "error".
    added = [("answer", column(lambda one: None if one.answer is None else own(one.answer)))]
    if columns and not nested:
        parts = column(lambda one: None if one.answer is None else cells_of(output.value(one.answer), columns))
        added = [(name, [None if cells is None else cells[name] for cells in parts]) for name in columns]
    possible = column(lambda one: [own(label) for label in one.possible] or None)
    if unsure is not None:
        added.append(("possible", possible))
    confidence = column(lambda one: None if one.confidence is None else round(one.confidence, 6))
    if any(one is not None for one in confidence):
        added.append(("confidence", confidence))
    shares = column(lambda one: {label: round(share, 6) for label, share in one.probabilities.items()})
    if probabilities and nested:
        added.append(("probabilities", shares))
    elif probabilities:
        # JSON has probabilities by the names of its parts or their values instead.
        names = output.labels or tuple(next(filter(None, shares), ()))
        added += [(f"p({name})", [None if one is None else one.get(name) for one in shares]) for name in names]
    cut = column(lambda one: one.truncated or None)
    if truncated := cut.count(True):
        added.append(("truncated", cut))
    errors = tuple(one for one in rows if isinstance(one, RowError))
    if errors:
        added.append(("error", [one.what if isinstance(one, RowError) else None for one in rows]))
    named: dict[str, list[Any]] = {}
    for name, values in added:
        named[free_name(name, (*sheet.columns, *named))] = values
    return SheetAnswers(named, len(rows) - len(errors), truncated, errors, sum(one is not None for one in possible))
