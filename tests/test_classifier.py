from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from cotune import CotuneClassifier
from tiny import save_tiny

TEXTS = [f"{word} number {i}" for i in range(30) for word in ("card", "tower")]
CLASSES = np.array([0, 1] * 30)
SETTINGS = {"search": {"max_cycles": 1}, "engine": {"device": "cpu", "dtype": "float32", "threads": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("models") / "model", "llama"))


def small(model: str, **changes: Any) -> CotuneClassifier:
    given = {"budget": "40ktok", "test_rows": 20, "label_names": {0: "card", 1: "tower"}, "settings": SETTINGS}
    return CotuneClassifier(model=model, **{**given, **changes})


@pytest.fixture(scope="module")
def fitted(model: str) -> CotuneClassifier:
    return small(model).fit(TEXTS, CLASSES)


def test_it_fits_and_answers_as_scikit_learn_expects(fitted: CotuneClassifier) -> None:
    assert fitted.classes_.tolist() == [0, 1]
    answers = fitted.predict(TEXTS[:7])
    shares = fitted.predict_proba(TEXTS[:7])
    assert answers.dtype == CLASSES.dtype and shares.shape == (7, 2)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_array_equal(fitted.classes_[shares.argmax(1)], answers)
    assert 0 <= fitted.score(TEXTS, CLASSES) <= 1
    assert set(fitted.summary_["arms"]) >= {"seed_tuned", "best_tuned"}
    assert fitted.summary_["labels"] == ["card", "tower"]


def test_the_same_rows_in_every_form_get_the_same_answers(fitted: CotuneClassifier) -> None:
    wanted = fitted.predict(TEXTS[:5])
    for form in (
        np.array(TEXTS[:5]),
        pd.Series(TEXTS[:5]),
        pd.DataFrame({"text": TEXTS[:5], "n": "x"}),
        [[t] for t in TEXTS[:5]],
    ):
        np.testing.assert_array_equal(fitted.predict(form), wanted)


def test_a_pickle_holds_places_and_no_weights(fitted: CotuneClassifier) -> None:
    data = pickle.dumps(fitted)
    assert len(data) < 200_000
    np.testing.assert_array_equal(pickle.loads(data).predict(TEXTS[:5]), fitted.predict(TEXTS[:5]))


def test_clone_and_parameters(model: str) -> None:
    one = small(model)
    other = clone(one)
    assert other.get_params() == one.get_params() and other is not one
    with pytest.raises(NotFittedError):
        other.predict(TEXTS)
    assert other.set_params(budget="1h").budget == "1h"


def test_cross_validation_and_pipelines(model: str) -> None:
    pipeline = make_pipeline(FunctionTransformer(lambda texts: [t.upper() for t in texts]), small(model))
    scores = cross_val_score(pipeline, np.array(TEXTS, dtype=object), CLASSES, cv=2)
    assert scores.shape == (2,) and np.isfinite(scores).all()


def test_several_text_columns_and_a_folder_that_stays(model: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"title": TEXTS, "label": ["a", "b"] * 30})
    one = small(model, out=tmp_path / "run", label_names=None, prompt="{title} is {label}?").fit(
        frame, np.array(["x", "y"] * 30)
    )
    assert (tmp_path / "run" / "report.html").is_file()
    assert set(one.predict(frame)) <= {"x", "y"}
    with pytest.raises(ValueError, match="no column 'label'"):
        one.predict(frame[["title"]])


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        ([], [], "X has no rows"),
        ("one text", [0], "not a single value"),
        ([1, 2], [0, 1], "row 0, text: a text is needed, not int"),
        (["a", None], [0, 1], "row 1, text: a text is needed, not NoneType"),
        (TEXTS, CLASSES[:-1], "60 rows need one class each"),
        (np.array([["a", "b"]]), [0], "has the shape"),
        (TEXTS, np.zeros(60), "label_names has 1"),
        (["a", "b"], [0, 1], "few"),
    ],
)
def test_wrong_rows_are_value_errors_that_say_where(model: str, X: Any, y: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(model).fit(X, y)


@parametrize_with_checks([CotuneClassifier()])
def test_scikit_learns_own_checks_for_text_input(estimator: Any, check: Any) -> None:
    check(estimator)
