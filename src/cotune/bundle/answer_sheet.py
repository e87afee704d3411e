"""Answers to the rows of a file, as additional columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cotune.bundle.predictor import Prediction, Predictor, ending_error
from cotune.bundle.rows import checked_row
from cotune.errors import RowError
from cotune.task.reading.sheet import Sheet
from cotune.task.reading.table import free_name
from cotune.task.values.output import Output

if TYPE_CHECKING:
    from cotune.endpoint import EndpointError


@dataclass(frozen=True)
class SheetAnswers:
    """Answers to the rows of a file.

    Attributes:
        added: new columns: ``answer``; with ``unsure`` also ``possible``, the possible labels of an undecided row;
            ``probabilities`` or one column per label; ``truncated`` and ``error`` if any row has one. A number is added to a
            name that the file already has.
        answered: number of rows that the model answered, undecided ones included.
        truncated: number of these whose text was too long and was cut.
        errors: errors of the other rows.
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
    batch: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> SheetAnswers:
    """Answer the rows of a file that can be answered.

    A row that an endpoint refuses gets an error like a row with a blank cell. Any other failure of the endpoint ends the
    answers, and the rows left get it as their error.

    Args:
        checked: result of :func:`check_sheet`.
        probabilities: whether to add probabilities.
        unsure: error rate, as for :meth:`Predictor.predict`; None answers every row.
        nested: whether a cell can contain an object. If so, probabilities are one column and JSON answers are values; otherwise
            probabilities are one column per label and JSON answers are texts.
        typed: whether a cell can contain a number or a truth value; otherwise labels are written as in the training rows.
        progress: called with the number of rows done, after each batch.

    Raises:
        EndpointError: the endpoint failed before it answered any row.
        RowError: the error of the first row, if the endpoint answered none.
    """
    checked, asked = list(checked), askable(checked)
    told: list[Prediction | EndpointError] = []
    ended: EndpointError | None = None
    while len(told) < len(asked) and ended is None:
        part = predictor.each(asked[len(told) : len(told) + batch], probabilities=probabilities, unsure=unsure)
        ended = ending_error(part, first=not any(isinstance(one, Prediction) for one in told))
        told += part
        progress(len(told))
    if ended is not None:
        told += [ended] * (len(asked) - len(told))
    places = [place for place, fields in enumerate(checked) if not isinstance(fields, RowError)]
    for place, one in zip(places, told, strict=True):
        if not isinstance(one, Prediction):
            checked[place] = RowError(str(one), where=sheet.where(place))
    found = [one for one in told if isinstance(one, Prediction)]
    if not found:
        raise ended or next(one for one in checked if isinstance(one, RowError))
    options: dict[str, Any] = {"probabilities": probabilities, "unsure": unsure, "nested": nested, "typed": typed}
    return replace(sheet_answers(found, predictor.output, sheet, checked, **options), ended=ended)


def askable(checked: Checked) -> list[dict[str, str]]:
    """The rows that can be answered."""
    return [fields for fields in checked if not isinstance(fields, RowError)]


def sheet_answers(
    found: Iterable[Prediction],
    output: Output,
    sheet: Sheet,
    checked: Checked,
    *,
    probabilities: bool,
    unsure: float | None,
    nested: bool,
    typed: bool,
) -> SheetAnswers:
    """Convert answers to the rows of :func:`askable`, in their order, to columns; arguments as for :func:`answer_sheet`."""
    errors = tuple(one for one in checked if isinstance(one, RowError))
    asked = [index for index, fields in enumerate(checked) if not isinstance(fields, RowError)]
    size = len(checked)
    answers: list[Any] = [None] * size
    cut: list[Any] = [None] * size
    possible: list[Any] = [None] * size
    shares: list[dict[str, float] | None] = [None] * size
    own: Callable[[str], Any] = output.told if nested else output.own if typed else str
    for index, one in zip(asked, found, strict=True):
        answers[index] = None if one.answer is None else own(one.answer)
        possible[index] = [own(label) for label in one.possible] or None
        cut[index] = True if one.truncated else None
        shares[index] = {label: round(share, 6) for label, share in one.probabilities.items()} if probabilities else None
    added: dict[str, list[Any]] = {"answer": answers} | ({} if unsure is None else {"possible": possible})
    if probabilities and nested:
        added["probabilities"] = list(shares)
    elif probabilities:
        added |= {f"p({label})": [None if one is None else one.get(label) for one in shares] for label in output.labels}
    truncated = sum(one is True for one in cut)
    added |= {"truncated": cut} if truncated else {}
    if errors:
        added["error"] = [one.what if isinstance(one, RowError) else None for one in checked]
    named: dict[str, list[Any]] = {}
    for name, values in added.items():
        named[free_name(name, (*sheet.columns, *named))] = values
    return SheetAnswers(named, len(asked), truncated, errors, sum(one is not None for one in possible))
