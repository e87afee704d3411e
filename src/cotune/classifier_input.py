"""Validation of the input of :class:`cotune.CotuneClassifier`: texts in scikit-learn's formats, and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

ONE_TEXT = ("text",)
"""Name of the field of rows that are one text each."""


@dataclass(frozen=True)
class TextRows:
    """Rows of text.

    Attributes:
        rows: fields of each row.
        fields: names of the fields; ``x0``, ``x1`` and so on, as in scikit-learn, if the columns have none.
        named: whether the names come from a frame or from the rows.
        flat: whether each row was a single text, rather than a table of one column.
    """

    rows: list[dict[str, str]]
    fields: tuple[str, ...]
    named: bool
    flat: bool

    @classmethod
    def of(cls, X: Any) -> TextRows:
        """Read texts, a table of texts, a frame of text columns, or mappings of fields.

        Raises:
            ValueError: there are no rows or columns, or a cell is not a text; the message names it.
            TypeError: a sparse matrix, or a frame in which some columns have names and some numbers.
        """
        if issparse(X):
            raise TypeError("Sparse data was passed for X, and rows of text are needed")
        names = _column_names(X)
        values = np.asarray(X, dtype=object)
        if values.ndim == 0:
            raise ValueError("X must be a list of texts or a frame of text columns, not a single value")
        if values.ndim > 2:
            raise ValueError(f"X must be one text a row, or a table of texts; it has the shape {values.shape}")
        if values.ndim == 2 and not values.shape[1]:
            raise ValueError(f"Found array with 0 feature(s) (shape={values.shape}) while a minimum of 1 is required.")
        if not len(values):
            raise ValueError("X has no rows")
        if values.ndim == 1 and isinstance(values[0], Mapping):
            return cls._of_mappings(values.tolist())
        table = values.reshape(len(values), -1)
        fields = names or (ONE_TEXT if table.shape[1] == 1 else tuple(f"x{place}" for place in range(table.shape[1])))
        rows = [dict(zip(fields, row, strict=True)) for row in table.tolist()]
        return cls(_checked(rows), fields, bool(names), values.ndim == 1)

    @classmethod
    def _of_mappings(cls, listed: Sequence[Any]) -> TextRows:
        fields = tuple(map(str, listed[0]))
        for number, row in enumerate(listed):
            if not isinstance(row, Mapping):
                raise ValueError(f"X, row {number}: the first row has named fields, and this is a {type(row).__name__}")
            if missing := [field for field in fields if field not in row]:
                raise ValueError(f"X, row {number} has no field {missing[0]!r}, which the first row has")
        return cls(_checked([{field: row[field] for field in row} for row in listed]), fields, True, False)

    def fitted_to(self, fields: Sequence[str], estimator: str) -> list[dict[str, str]]:
        """Rows with the fields that an estimator was fitted on, matched by name if there are names, otherwise by position.

        Raises:
            ValueError: a column is missing, or the number of unnamed columns differs.
        """
        if self.named and (missing := [field for field in fields if field not in self.fields]):
            raise ValueError(f"rows have no column {missing[0]!r}, which fit had")
        if self.named:
            return [{field: row[field] for field in fields} for row in self.rows]
        if self.flat and len(fields) != 1:
            raise ValueError(f"X has one text a row, and fit had {len(fields)} columns. Reshape your data to as many.")
        if len(self.fields) != len(fields):
            raise ValueError(
                f"X has {len(self.fields)} features, but {estimator} is expecting {len(fields)} features as input."
            )
        return [dict(zip(fields, row.values(), strict=True)) for row in self.rows]


def classes_of(y: Any, rows: int, estimator: str) -> NDArray[Any]:
    """The class of each row, ``[rows]``, as an array that can be sorted.

    Raises:
        ValueError: there is not one class per row, or they are not classes; with scikit-learn's messages.
        TypeError: texts and other values are mixed.
    """
    if y is None:
        raise ValueError(f"This {estimator} estimator requires y to be passed, but the target y is None.")
    # numpy would convert everything in a list that contains a text to text.
    listed = not hasattr(y, "__array__")
    classes: NDArray[Any] = column_or_1d(np.array(y, dtype=object) if listed else np.asarray(y), warn=True)
    if len(classes) != rows:
        raise ValueError(f"{rows} rows need one class each, and y has the shape {classes.shape}")
    if classes.dtype == object:
        texts = [isinstance(value, str) for value in classes]
        if any(texts) and not all(texts):
            kinds = sorted({type(value).__name__ for value in classes})
            raise TypeError(f"y must hold texts or numbers, and it mixes {' and '.join(kinds)}")
        if listed or not any(texts):
            classes = np.array(classes.tolist())
    assert_all_finite(classes, input_name="y")
    check_classification_targets(classes)
    return classes


def _column_names(X: Any) -> tuple[str, ...] | None:
    """Names of a frame's columns; None if it is not a frame, or its columns are numbered."""
    columns = list(getattr(X, "columns", ()))
    names = tuple(name for name in columns if isinstance(name, str))
    if names and len(names) < len(columns):
        raise TypeError("Feature names are only supported if all input features have string names; use X.columns.astype(str)")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"X has two columns called {doubled[0]!r}")
    return names or None


def _checked(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    for number, row in enumerate(rows):
        for field, value in row.items():
            if not isinstance(value, str):
                raise ValueError(f"X, row {number}, {field}: a text is needed, not {_kind(value)}")
        if not any(value.strip() for value in row.values()):
            raise ValueError(f"X, row {number}: the text is empty. Fill it, or leave the row out of X and y.")
    return rows


def _kind(value: Any) -> str:
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN, a missing value" if np.isnan(value) else str(value)
    return type(value).__name__
