"""cotune as a scikit-learn classifier, for pipelines, cross-validation and everything else that speaks that interface."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from cotune.errors import InputError
from cotune.task import Task

if TYPE_CHECKING:
    from cotune.bundle import Predictor

_TEXT = "text"


class CotuneClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A text classifier whose prompt and model are tuned together; one :func:`cotune.run` for each ``fit``.

    ``fit`` cuts a dev set, to choose on, and a test set, to be opened once at the end, from the rows that it is given, so
    :attr:`summary_` holds honest numbers without further data. In cross-validation, where the folds are the test,
    ``test_rows`` may be small.

    Args:
        model: ``smollm2-135m``, a folder or a hub id.
        budget: of each fit, such as ``90s``, ``10m`` or ``2Mtok``.
        prompt: text of a prompt of yours, with each input field as ``{field}``; rows that are plain texts have the field
            ``text``. None drafts one.
        label_names: what the model is to say for each class, where ``str(class)`` is no good answer, as ``{0: "negative",
            1: "positive"}``.
        metric: what dev chooses by.
        test_rows: rows that are kept for the test; None takes a fifth, from 20 to 500.
        out: the run's folder, which lets a fit that was stopped go on; None takes a temporary one that lives as long as the
            estimator.
        random_state: of everything random.
        settings: further keys of the config, as ``{"tune": {"rank": 8}}``.

    Attributes:
        classes_: ``[classes]``, sorted.
        bundle_: the folder of prompt, adapter and decision rule.
        summary_: what ``summary.json`` of the run holds: arms, gains, intervals, cost.
    """

    def __init__(
        self,
        *,
        model: str = "smollm2-135m",
        budget: str = "10m",
        prompt: str | None = None,
        label_names: Mapping[Any, str] | None = None,
        metric: str = "accuracy",
        test_rows: int | None = None,
        out: str | Path | None = None,
        random_state: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.budget = budget
        self.prompt = prompt
        self.label_names = label_names
        self.metric = metric
        self.test_rows = test_rows
        self.out = out
        self.random_state = random_state
        self.settings = settings

    def fit(self, X: Any, y: Any) -> CotuneClassifier:
        """Tune prompt and model on labelled texts.

        Args:
            X: texts, or a frame of text columns.
            y: a class for each.

        Raises:
            ValueError: rows or classes are wrong, or too few.
        """
        from cotune.api import run

        rows = _rows(X)
        classes = np.asarray(y)
        if classes.ndim != 1 or len(classes) != len(rows):
            raise ValueError(f"{len(rows)} rows need one class each, and y has the shape {classes.shape}")
        self.classes_ = np.unique(classes)
        names = self._names()
        said = dict(zip(self.classes_.tolist(), names, strict=True))
        target = "label" if "label" not in rows[0] else "label_"
        labelled = [{**row, target: said[value]} for row, value in zip(rows, classes.tolist(), strict=True)]
        folder, kept = self._folder()
        try:
            task = Task.from_rows(
                labelled,
                input=list(rows[0]),
                output=target,
                labels=names,
                metric=self.metric,
                name="classifier",
                seed=self.random_state,
                limit=None if self.test_rows is None else {"test": self.test_rows},
            )
            more = {**(self.settings or {}), **({} if self.prompt is None else {"prompt": self.prompt})}
            result = run(task, out=folder, budget=self.budget, model=self.model, seed=self.random_state, **more)
        except InputError as error:
            raise ValueError(str(error)) from error
        self.fields_ = tuple(rows[0])
        self.names_ = names
        self.summary_ = result.summary
        self.bundle_ = folder / "best"
        self._kept = kept
        self._predictor: Predictor | None = None
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """``[rows]`` classes.

        Raises:
            ValueError: a row is empty or lacks a field.
        """
        answers = self._answers(X, probabilities=False)
        place = {name: i for i, name in enumerate(self.names_)}
        found: NDArray[Any] = self.classes_[[place[answer] for answer in answers]]
        return found

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """``[rows, classes]`` probabilities, in the order of :attr:`classes_`, the decision rule applied."""
        answers = self._answers(X, probabilities=True)
        shares: NDArray[np.float64] = np.array([[one.probabilities[name] for name in self.names_] for one in answers])
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def _answers(self, X: Any, *, probabilities: bool) -> list[Any]:
        check_is_fitted(self, "bundle_")
        if self._predictor is None:
            from cotune.bundle import load

            self._predictor = load(self.bundle_)
        rows = _rows(X)
        if missing := [field for field in self.fields_ if field not in rows[0]]:
            raise ValueError(f"rows have no column {missing[0]!r}, which fit had")
        try:
            return list(self._predictor.predict(rows, probabilities=True) if probabilities else self._predictor.predict(rows))
        except InputError as error:
            raise ValueError(str(error)) from error

    def _names(self) -> list[str]:
        given = self.label_names or {}
        if unknown := [key for key in given if key not in self.classes_]:
            raise ValueError(f"label_names has {unknown[0]!r}, which is not among the classes {self.classes_.tolist()}")
        names = [str(given.get(value, value)) for value in self.classes_.tolist()]
        if len(set(names)) < len(names):
            raise ValueError(f"two classes have one name: {sorted(names)}")
        return names

    def _folder(self) -> tuple[Path, Any]:
        if self.out is not None:
            return Path(self.out).expanduser(), None
        folder = tempfile.TemporaryDirectory(prefix="cotune-", ignore_cleanup_errors=True)
        return Path(folder.name), folder

    def __getstate__(self) -> dict[str, Any]:
        """Settings and places of files: models are saved as bundles, never pickled."""
        state = dict(super().__getstate__())
        if "_predictor" in state:
            state |= {"_predictor": None, "_kept": None}
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags


def _rows(X: Any) -> list[dict[str, str]]:
    """Rows of text fields from texts or a frame.

    Raises:
        ValueError: there are none, or something in them is no text; says where.
    """
    if hasattr(X, "columns"):
        names = [str(name) for name in X.columns]
        columns = [list(X[name]) for name in X.columns]
        listed: Sequence[Any] = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    elif isinstance(X, (str, bytes)) or not hasattr(X, "__iter__"):
        raise ValueError("X must be a list of texts or a frame of text columns, not a single value")
    else:
        values = np.asarray(X, dtype=object)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1:
            raise ValueError(f"X must be one text a row, or a frame with named columns; it has the shape {values.shape}")
        listed = [value if isinstance(value, Mapping) else {_TEXT: value} for value in values.tolist()]
    if not listed:
        raise ValueError("X has no rows")
    for number, row in enumerate(listed):
        for field, value in row.items():
            if not isinstance(value, str):
                raise ValueError(f"X, row {number}, {field}: a text is needed, not {type(value).__name__}")
    return [dict(row) for row in listed]
