"""A scikit-learn classifier that runs cotune in ``fit``, for pipelines, cross-validation and grid search."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from cotune.classifier_input import TextRows, classes_of
from cotune.config.task import Task
from cotune.errors import InputError
from cotune.files import absolute

if TYPE_CHECKING:
    from cotune.bundle import Predictor


class _Held:
    """Resources of a fitted estimator that are never pickled: its temporary folder, and the loaded bundle."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self.folder = folder
        self.predictor: Predictor | None = None

    def __reduce__(self) -> tuple[type[_Held], tuple[()]]:
        return _Held, ()


class CotuneClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A text classifier whose prompt and model are tuned together; each ``fit`` is one :func:`cotune.run`.

    ``fit`` splits a dev set and a test set from the rows that it is given and scores the test once at the end, so the scores in
    :attr:`summary_` need no further data. In cross-validation, where the folds are the test, ``test_rows`` may be small.

    Models are saved as bundles, never pickled: a pickle only names the bundle's folder. Set ``out`` if the model has to outlive
    the estimator.

    Args:
        model: ``smollm2-135m``, a folder or a hub id.
        budget: budget of each fit, such as ``90s``, ``10m`` or ``2Mtok``.
        prompt: your own seed prompt, with each input field as ``{field}``; rows that are plain texts have the field ``text``.
            None drafts a prompt.
        label_names: label words for classes whose ``str(class)`` means nothing to the model, such as ``{0: "negative", 1:
            "positive"}``.
        metric: the reported metric, see the docs on outputs and metrics.
        test_rows: number of rows for the test; None takes a fifth, between 20 and 500.
        out: the run's folder, so that an interrupted fit can resume; None takes a temporary one that is deleted with the
            estimator.
        random_state: an integer, a ``RandomState`` instance, or None for a different seed in each fit.
        settings: further keys of the config, such as ``{"tune": {"rank": 8}, "limit": {"train": 500}}``.

    Attributes:
        classes_: array ``[classes]``, sorted.
        n_features_in_: number of text columns seen in ``fit``.
        feature_names_in_: names of these columns, if they had any.
        bundle_: folder of the bundle.
        summary_: content of the run's ``summary.json``: arms, gains, intervals, cost.
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
        random_state: int | np.random.RandomState | None = 0,
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
            X: one text per row, a frame or a table of text columns, or mappings of fields.
            y: one class per row.

        Raises:
            ValueError: rows or classes are invalid, or too few.
            TypeError: ``X`` is sparse, or classes mix texts with other values.
        """
        from cotune.api import run
        from cotune.cycle.progress import Quiet

        rows = TextRows.of(X)
        chosen = classes_of(y, len(rows.rows), type(self).__name__)
        classes = np.unique(chosen)
        if len(classes) < 2:
            raise ValueError(f"y holds one class, {classes.tolist()[0]!r}, and at least two classes are needed")
        names = self._names(classes)
        said = dict(zip(classes.tolist(), names, strict=True))
        target = "label"
        while target in rows.fields:
            target += "_"
        labelled = [{**row, target: said[value]} for row, value in zip(rows.rows, chosen.tolist(), strict=True)]
        folder, held = self._folder()
        seed = self._seed()
        try:
            settings = self._settings()
            limit = settings.pop("limit", None) or {}
            task = Task.from_rows(
                labelled,
                input=list(rows.fields),
                output=target,
                labels=names,
                metric=self.metric,
                name="classifier",
                seed=seed,
                limit=limit if self.test_rows is None else {**limit, "test": self.test_rows},
                start=settings.pop("start", None),
            )
            more = {**settings, **({} if self.prompt is None else {"prompt": self.prompt})}
            result = run(task, out=folder, budget=self.budget, model=self.model, seed=seed, view=Quiet(), **more)
        except InputError as error:
            raise ValueError(str(error)) from error
        self.classes_ = classes
        self.names_ = names
        self.fields_ = rows.fields
        self.n_features_in_ = len(rows.fields)
        if rows.named:
            self.feature_names_in_ = np.array(rows.fields, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.summary_ = result.summary
        self.bundle_ = folder / "best"
        self._held = held
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict the classes of rows, ``[rows]``.

        Raises:
            ValueError: a row is empty or lacks a field, or the bundle is gone.
        """
        answers = self._answers(X, probabilities=False)
        place = {name: i for i, name in enumerate(self.names_)}
        predicted: NDArray[Any] = self.classes_[[place[answer] for answer in answers]]
        return predicted

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict probabilities ``[rows, classes]``, in the order of :attr:`classes_`."""
        answers = self._answers(X, probabilities=True)
        shares: NDArray[np.float64] = np.array([[one.probabilities[name] for name in self.names_] for one in answers])
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def _answers(self, X: Any, *, probabilities: bool) -> list[Any]:
        check_is_fitted(self, "bundle_")
        rows = TextRows.of(X).fitted_to(self.fields_, type(self).__name__)
        try:
            if self._held.predictor is None:
                from cotune.bundle import load

                self._held.predictor = load(self.bundle_, **self._engine())
            predict = self._held.predictor.predict
            return list(predict(rows, probabilities=True) if probabilities else predict(rows))
        except InputError as error:
            if self._held.predictor is None and self.out is None and not Path(self.bundle_).exists():
                # As after unpickling in another process.
                raise ValueError(
                    f"the bundle {self.bundle_} is gone: without out, fit writes to a temporary folder, which is deleted "
                    "with the fitted estimator. Set out before fit to keep the bundle."
                ) from error
            raise ValueError(str(error)) from error

    def _settings(self) -> dict[str, Any]:
        """A copy of ``settings``, without keys that are arguments of their own."""
        settings = dict(self.settings or {})
        own = {name: name for name in ("model", "budget", "prompt", "metric", "out")} | {"seed": "random_state"}
        if doubled := [key for key in settings if key in own]:
            raise ValueError(f"settings has {doubled[0]!r}: give it to {type(self).__name__} as {own[doubled[0]]}")
        return settings

    def _engine(self) -> dict[str, Any]:
        """The engine settings of the run, which prediction uses as well."""
        engine = (self.settings or {}).get("engine") or {}
        return {key: engine[key] for key in ("device", "dtype", "threads") if engine.get(key) is not None}

    def _names(self, classes: NDArray[Any]) -> list[str]:
        words, values = self.label_names or {}, classes.tolist()
        if unknown := [key for key in words if key not in values]:
            raise ValueError(f"label_names has {unknown[0]!r}, which is not among the classes {values}")
        # Labels are read without surrounding white space.
        names = [str(words.get(value, value)).strip() for value in values]
        if "" in names:
            raise ValueError(f"the class {values[names.index('')]!r} has no name: give it one in label_names")
        if len(set(names)) < len(names):
            raise ValueError(f"two classes have one name: {sorted(names)}")
        return names

    def _folder(self) -> tuple[Path, _Held]:
        if self.out is not None:
            return Path(absolute(self.out)), _Held()
        folder = tempfile.TemporaryDirectory(prefix="cotune-", ignore_cleanup_errors=True)
        return Path(folder.name), _Held(folder)

    def _seed(self) -> int:
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        return tags
