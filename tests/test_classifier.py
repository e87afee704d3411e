from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import cotune.api
import cotune.bundle
from cotune import CotuneClassifier
from cotune.cycle.run import Result
from cotune.task.task import Task
from tiny import save_tiny

TEXTS = [f"{word} number {i}" for i in range(30) for word in ("card", "tower")]
CLASSES = np.array([0, 1] * 30)
SETTINGS = {
    "search": {"max_cycles": 1, "pool": 4},
    "tune": {"max_epochs": 1},
    "evaluate": {"robustness": False, "slices": False},
    "engine": {"device": "cpu", "dtype": "float32", "threads": 1},
}


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


def test_a_row_is_answered_alike_in_any_order_and_company(fitted: CotuneClassifier) -> None:
    texts = np.array(TEXTS[:20], dtype=object)
    wanted, order = fitted.predict_proba(texts), np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(fitted.predict_proba(texts[order]), wanted[order], atol=1e-5)
    alone = np.concatenate([fitted.predict_proba(texts[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, wanted[:5], atol=1e-5)


def test_another_fit_on_the_same_rows_gives_the_same(model: str, fitted: CotuneClassifier) -> None:
    again = clone(fitted).fit(TEXTS, CLASSES)
    np.testing.assert_array_equal(again.predict_proba(TEXTS[:9]), fitted.predict_proba(TEXTS[:9]))


def test_a_pickle_holds_places_and_no_weights(fitted: CotuneClassifier) -> None:
    data = pickle.dumps(fitted)
    assert len(data) < 200_000
    np.testing.assert_array_equal(pickle.loads(data).predict(TEXTS[:5]), fitted.predict(TEXTS[:5]))


def test_a_pickle_whose_bundle_was_temporary_says_how_to_keep_it(fitted: CotuneClassifier, tmp_path: Path) -> None:
    later = pickle.loads(pickle.dumps(fitted))
    later.bundle_ = tmp_path / "gone" / "best"
    with pytest.raises(ValueError, match="Set out before fit"):
        later.predict(TEXTS[:1])


def test_clone_and_parameters(model: str) -> None:
    one = small(model)
    other = clone(one)
    assert other.get_params() == one.get_params() and other is not one
    with pytest.raises(NotFittedError):
        other.predict(TEXTS)
    assert other.set_params(budget="1h").budget == "1h"


def test_a_bundle_to_go_on_from_is_one_of_the_settings(model: str, fitted: CotuneClassifier) -> None:
    settings = {**SETTINGS, "start": str(fitted.bundle_)}
    again = small(model, budget="60ktok", settings=settings).fit(TEXTS, CLASSES)
    assert "previous" in again.summary_["arms"] and "start" in settings


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


class Answering:
    """Says for each text how many letters it has: in place of a bundle, to see what comes of its answers."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def predict(self, rows: Sequence[Mapping[str, str]], *, probabilities: bool = False) -> list[Any]:
        chosen = [self.names[len("".join(row.values())) % len(self.names)] for row in rows]
        if not probabilities:
            return chosen
        other = 0.4 / (len(self.names) - 1)
        shares = [{name: 0.6 if name == one else other for name in reversed(self.names)} for one in chosen]
        return [SimpleNamespace(probabilities=share) for share in shares]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Runs end at once; the tasks that they were given."""
    tasks: list[Task] = []

    def run(task: Task, *, out: Path, **_: Any) -> Result:
        tasks.append(task)
        return Result(out, {"arms": {}})

    monkeypatch.setattr(cotune.api, "run", run)
    monkeypatch.setattr(cotune.bundle, "load", lambda *_, **__: Answering(tasks[-1].labels))
    return tasks


@pytest.mark.parametrize(
    "y",
    [
        np.array([3, -1, 2] * 8),
        np.array([True, False] * 12),
        ["yes", "no"] * 12,
        [2.0, 1.0] * 12,
        pd.Series(["b", "a", "c"] * 8),
        pd.Series([1, 2] * 12, dtype="category"),
        pd.Series([True, False] * 12, dtype=object),
        pd.Series([3, 1] * 12, dtype="Int64"),
    ],
    ids=["ints", "bools", "texts", "floats", "series", "category", "objects", "Int64"],
)
def test_classes_of_every_type_come_back_as_they_were(at_once: list[Task], y: Any) -> None:
    one = CotuneClassifier(test_rows=4).fit(TEXTS[:24], y)
    wanted = np.unique(np.array(list(y)))
    assert one.classes_.tolist() == wanted.tolist()
    assert one.classes_.dtype.kind in (wanted.dtype.kind, *("O" if wanted.dtype.kind == "U" else ()))
    assert at_once[-1].labels == tuple(map(str, wanted.tolist()))
    shares = one.predict_proba(TEXTS)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_array_equal(one.classes_[shares.argmax(1)], one.predict(TEXTS))
    assert set(one.predict(TEXTS).tolist()) == set(wanted.tolist())


def test_a_column_of_classes_is_taken_with_a_warning(at_once: list[Task]) -> None:
    with pytest.warns(DataConversionWarning):
        CotuneClassifier(test_rows=4).fit(TEXTS[:24], CLASSES[:24, None])


@pytest.mark.parametrize("y", [["a", 1] * 30, [None, "a"] * 30])
def test_mixed_classes_are_a_type_error(at_once: list[Task], y: Any) -> None:
    with pytest.raises(TypeError, match="y must hold texts or numbers, and it mixes"):
        CotuneClassifier().fit(TEXTS, y)


def test_columns_without_names_are_numbered_and_mean_their_place(at_once: list[Task]) -> None:
    table = np.array([[text, text[::-1]] for text in TEXTS], dtype=object)
    one = CotuneClassifier(test_rows=4).fit(table, CLASSES)
    assert at_once[-1].input_fields == ("x0", "x1")
    assert one.n_features_in_ == 2 and not hasattr(one, "feature_names_in_")
    wanted = one.predict(table)
    for form in (table.tolist(), pd.DataFrame(table), [dict(zip(("x0", "x1"), row, strict=True)) for row in table.tolist()]):
        np.testing.assert_array_equal(one.predict(form), wanted)
    with pytest.raises(ValueError, match="X has 3 features, but CotuneClassifier is expecting 2 features as input"):
        one.predict(np.c_[table, table[:, :1]])
    with pytest.raises(ValueError, match="Reshape your data"):
        one.predict(TEXTS)


def test_named_columns_are_found_by_name(at_once: list[Task]) -> None:
    frame = pd.DataFrame({"title": TEXTS, "label": TEXTS, "label_": TEXTS})
    one = CotuneClassifier(test_rows=4).fit(frame, CLASSES)
    assert one.feature_names_in_.tolist() == ["title", "label", "label_"] and at_once[-1].output_field == "label__"
    np.testing.assert_array_equal(one.predict(frame[["label_", "title", "label"]].assign(more="x")), one.predict(frame))
    assert not hasattr(one.fit(TEXTS, CLASSES), "feature_names_in_")
    with pytest.raises(TypeError, match="string names"):
        one.fit(pd.DataFrame({"title": TEXTS, 1: TEXTS}), CLASSES)
    with pytest.raises(TypeError, match="Sparse"):
        one.fit(csr_array(np.eye(60)), CLASSES)


def test_a_failed_fit_leaves_an_estimator_as_it_was(at_once: list[Task]) -> None:
    one = CotuneClassifier(test_rows=4).fit(TEXTS, CLASSES)
    before = dict(vars(one))
    with pytest.raises(ValueError, match="there are only 6 labelled rows"):
        one.fit(TEXTS[:6], ["a", "b"] * 3)
    assert vars(one) == before
    with pytest.raises(NotFittedError):
        CotuneClassifier().predict(TEXTS)


def test_a_grid_is_searched(at_once: list[Task]) -> None:
    search = GridSearchCV(CotuneClassifier(test_rows=4), {"prompt": ["{text}?", "{text}!"]}, cv=2).fit(TEXTS, CLASSES)
    assert search.best_params_ == {"prompt": "{text}?"} and len(at_once) == 5
    assert search.predict(TEXTS[:3]).shape == (3,)


def test_seeds_are_numbers_or_generators(at_once: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    run = cotune.api.run
    monkeypatch.setattr(cotune.api, "run", lambda task, *, seed, **more: (seeds.append(seed), run(task, **more))[1])
    for state in (7, np.int64(7), np.random.RandomState(0), np.random.RandomState(0), None):
        CotuneClassifier(test_rows=4, random_state=state).fit(TEXTS, CLASSES)
    assert seeds[:2] == [7, 7] and seeds[2] == seeds[3] and 0 <= seeds[4] < 2**31


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        ([], [], "X has no rows"),
        ("one text", [0], "not a single value"),
        ([1, 2], [0, 1], "row 0, text: a text is needed, not int"),
        (["a", None], [0, 1], "row 1, text: a text is needed, not NoneType"),
        ([*TEXTS[:-1], " "], CLASSES, "X, row 59: the text is empty. Fill it, or leave the row out of X and y."),
        ([*zip(TEXTS[:-1], TEXTS[:-1], strict=True), ("", "")], CLASSES, "X, row 59: the text is empty"),
        (TEXTS, CLASSES[:-1], "60 rows need one class each"),
        (["a", float("nan")], [0, 1], "row 1, text: a text is needed, not NaN"),
        ([["a", "b"], ["c", 3]], [0, 1], "row 1, x1: a text is needed, not int"),
        (np.array([[["a"]]]), [0], "has the shape"),
        ([{"a": "x", "b": "y"}, {"a": "x"}], [0, 1], "row 1 has no field 'b'"),
        (TEXTS, None, "requires y to be passed, but the target y is None"),
        (TEXTS, np.linspace(0, 1, 60), "Unknown label type: continuous"),
        (TEXTS, [float("nan"), *CLASSES[1:]], "Input y contains NaN"),
        (TEXTS, np.zeros((60, 2), dtype=int), "y should be a 1d array"),
        (TEXTS, np.zeros(60, dtype=int), "y holds one class, 0, and"),
        (TEXTS, ["a"] * 60, "y holds one class, 'a', and"),
        (TEXTS, np.array([0, 2] * 30), "label_names has 1"),
        (["a", "b"], [0, 1], "few"),
        (TEXTS, ["a", "a "] * 30, "two classes have one name"),
        (TEXTS, ["a", " "] * 30, "the class ' ' has no name"),
    ],
)
def test_wrong_rows_are_value_errors_that_say_where(model: str, X: Any, y: Any, said: str) -> None:
    more = {"label_names": None} if "name" in said and "label_names" not in said else {}
    with pytest.raises(ValueError, match=said):
        small(model, **more).fit(X, y)


def test_settings_may_limit_rows_and_are_left_as_they_are(at_once: list[Task], tmp_path: Path) -> None:
    settings = {"limit": {"train": 20, "test": 9}}
    CotuneClassifier(test_rows=10, settings=settings).fit(TEXTS, CLASSES)
    assert at_once[-1].test.n == 10 and len(at_once[-1].train) + len(at_once[-1].dev) == 20
    CotuneClassifier(settings=settings).fit(TEXTS, CLASSES)
    assert at_once[-1].test.n == 9 and settings == {"limit": {"train": 20, "test": 9}}


@pytest.mark.parametrize(("key", "parameter"), [("seed", "random_state"), ("budget", "budget"), ("metric", "metric")])
def test_settings_that_are_arguments_are_refused_by_name(at_once: list[Task], key: str, parameter: str) -> None:
    with pytest.raises(ValueError, match=f"settings has '{key}': give it to CotuneClassifier as {parameter}"):
        CotuneClassifier(settings={key: 1}).fit(TEXTS, CLASSES)


def test_the_bundles_folder_does_not_depend_on_where_the_program_is(
    at_once: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CotuneClassifier(test_rows=10, out="mine").fit(TEXTS, CLASSES).bundle_ == tmp_path / "mine" / "best"
