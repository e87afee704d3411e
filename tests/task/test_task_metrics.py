"""The metrics agree with scikit-learn's, and count what they say."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from sklearn.metrics import accuracy_score, f1_score

from cotune.errors import InputError
from cotune.task.metrics.metric import METRICS, metric_for, metric_named
from cotune.task.values.output import Output, label_output

LABELS = ("a", "b", "c", "d")
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_metrics_agree_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = zip(*pairs, strict=True)
    assert METRICS["accuracy"](gold, predicted, LABELS) == pytest.approx(accuracy_score(gold, predicted))
    for average in ("macro", "weighted"):
        wanted = f1_score(gold, predicted, average=average, zero_division=0)
        assert METRICS[f"{average}_f1"](gold, predicted, LABELS) == pytest.approx(wanted)


@given(PAIRS)
def test_per_row_metrics_are_the_mean_of_their_rows(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = zip(*pairs, strict=True)
    per_row = [metric for metric in METRICS.values() if metric.per_row and "label" in metric.types]
    assert [metric.name for metric in per_row] == ["accuracy"]
    assert per_row[0](gold, predicted, LABELS) == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_labels_that_never_occur_do_not_count() -> None:
    assert METRICS["macro_f1"](["a", "b"], ["a", "b"], LABELS) == 1.0


@pytest.mark.parametrize("metric", [m for m in METRICS.values() if "label" in m.types], ids=lambda metric: metric.name)
def test_nothing_to_score_and_unequal_lengths_are_errors(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match="no rows"):
        metric([], [], LABELS)
    with pytest.raises(ValueError, match="1 references but 2"):
        metric(["a"], ["a", "b"], LABELS)


def test_a_label_outside_the_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="'z' is not among"):
        METRICS["macro_f1"](["a"], ["z"], LABELS)


@pytest.mark.parametrize(("name", "near"), [("acuracy", "accuracy"), ("Macro-F1", "macro_f1"), ("weighted f1", "weighted_f1")])
def test_unknown_metric_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{near}'.*Known metrics: accuracy"):
        metric_named(name)


def test_an_unknown_metric_is_told_those_of_the_output_alone() -> None:
    for output, near, other in ((label_output(LABELS), "macro_f1", "json"), (Output("text"), "token_f1", "macro_f1")):
        with pytest.raises(InputError, match=f"did you mean '{near}'") as error:
            metric_for("f1", output)
        assert other not in str(error.value)
    with pytest.raises(InputError, match=r"within 0\.5"):
        metric_for("wihtin 1", Output("number"))
