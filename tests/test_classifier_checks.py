"""scikit-learn's own estimator checks, on text.

The checks bring tables of numbers. A subclass writes every number out, so that each check meets the classifier itself with a
table of texts; what a check says about inputs, classes, attributes and errors then holds for text. The run is replaced by one
that ships the seed prompt on untuned weights: none of the checks is about how good a fit is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import issparse
from sklearn.utils.estimator_checks import estimator_checks_generator

import cotune.api
from cotune import CotuneClassifier
from cotune.bundle import save_bundle
from cotune.cycle.run import Result
from cotune.evaluate.decision import RAW
from cotune.model.local import LocalModel
from cotune.prompt.bank import seed_prompt
from cotune.task.task import Task
from tiny import save_tiny

DO_NOT_APPLY = {
    "check_fit1d": "one text a row is a one-dimensional X, and the most usual one",
    "check_complex_data": "no text is a complex number",
    "check_array_api_input": "texts lie in no array that could be on a GPU",
    "check_methods_sample_order_invariance": "asks for agreement to 1e-7, and batches are computed in float32; see below",
    "check_methods_subset_invariance": "asks for agreement to 1e-7, and batches are computed in float32; see below",
}
"""Checks that do not apply to text input, and why."""

LEAST_ROWS, MARKS = 24, ("", " again", " once more")
"""Rows from which a run can cut its dev and test; checks bring as few as 10."""


def write(value: Any, mark: str) -> Any:
    """A number as text; what is no finite number stays, for the classifier to refuse."""
    if isinstance(value, (float, np.floating)) and not math.isfinite(value):
        return float(value)
    return (f"{value:.3g}" if isinstance(value, (int, float, np.number)) else str(value)) + mark


def in_words(X: Any, copies: int = 1) -> Any:
    """A table of numbers as texts, several times over where wanted, marked."""
    if issparse(X):
        return X
    texts = np.concatenate(
        [np.frompyfunc(lambda value, mark=mark: write(value, mark), 1, 1)(np.asarray(X)) for mark in MARKS[:copies]]
    )
    return pd.DataFrame(texts, columns=X.columns) if isinstance(X, pd.DataFrame) else texts


class WritingNumbers(CotuneClassifier):
    """The classifier, given numbers in words; rows come thrice, marked, where there are too few for a run."""

    def fit(self, X: Any, y: Any) -> WritingNumbers:
        rows = 0 if issparse(X) or y is None else len(np.asarray(X))
        few = 1 < rows < LEAST_ROWS and len(np.asarray(y)) == rows
        super().fit(in_words(X, 3), np.concatenate([np.asarray(y)] * 3)) if few else super().fit(in_words(X), y)
        return self

    def predict(self, X: Any) -> Any:
        return super().predict(in_words(X))

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(in_words(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Else the checks bring a single column, and nothing is seen of tables.
        tags.input_tags.one_d_array = False
        # The weights are random.
        tags.classifier_tags.poor_score = True
        return tags


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny model, in place of the bundled one that a classifier made without arguments names."""
    folder = save_tiny(tmp_path_factory.mktemp("models") / "model", "llama", num_hidden_layers=1)
    local = LocalModel.load(folder)

    def untuned(task: Task, *, out: Path, **_: Any) -> Result:
        save_bundle(
            out / "best",
            task_name=task.name,
            input_fields=task.input_fields,
            output_field=task.output_field,
            output=task.output,
            metric=task.metric,
            prompt=seed_prompt(task),
            decision=RAW,
            adapter_folder=None,
            model=local,
            metrics={},
            model_name=str(folder),
        )
        return Result(out, {"arms": {}})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cotune.api, "run", untuned)
        yield str(folder)


def estimator() -> WritingNumbers:
    return WritingNumbers(settings={"engine": {"device": "cpu", "dtype": "float32", "threads": 1}})


def name_of(check: Any) -> str:
    inner = check.func
    return name_of(inner) if hasattr(inner, "func") else str(inner.__name__)


CHECKS = [check for _, check in estimator_checks_generator(estimator())]
APPLYING = [pytest.param(check, id=name_of(check)) for check in CHECKS if name_of(check) not in DO_NOT_APPLY]


@pytest.mark.parametrize("check", APPLYING)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scikit_learns_own_checks(model: str, check: Any) -> None:
    check(estimator())


def test_what_does_not_apply_is_still_among_the_checks() -> None:
    assert set(DO_NOT_APPLY) <= {name_of(check) for check in CHECKS}
    assert len(CHECKS) > 45
