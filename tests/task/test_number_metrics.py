"""Metrics of numbers for which near is nearly right, against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import d2_absolute_error_score, r2_score

from cotune.config.task import Task
from cotune.evaluate.scoring import judged, score_interval
from cotune.task.answered import Answered
from cotune.task.metrics.metric import METRICS
from cotune.task.values.kinds.registry import KINDS
from cotune.task.values.output import Output

NUMBER = Output("number")
NAMES = ("r2", "d2_absolute_error", "pearson", "spearman")


def draws(offset: float = 0.0) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(3)
    right = np.round(rng.normal(size=200), 1) + offset
    given = np.round(0.7 * (right - offset) + 0.5 * rng.normal(size=200), 2) + offset
    return [repr(float(one)) for one in right], [repr(float(one)) for one in given], right, given


@pytest.mark.parametrize("offset", [0.0, 1e9], ids=["near zero", "far from it"])
def test_scores_are_those_of_the_libraries(offset: float) -> None:
    references, answers, right, given = draws(offset)
    wanted = {
        "r2": r2_score(right, given),
        "d2_absolute_error": d2_absolute_error_score(right, given),
        "pearson": pearsonr(right, given)[0],
        "spearman": spearmanr(right, given)[0],
    }
    for name, value in wanted.items():
        assert METRICS[name](references, answers, NUMBER) == pytest.approx(float(value), abs=1e-5), name
    error = NUMBER.kind.errors(references, answers)["mean_absolute_error"]
    assert error == pytest.approx(np.abs(right - given).mean(), rel=1e-4)
    assert NUMBER.kind.errors(["1", "2"], ["none", "5"]) == {"mean_absolute_error": 3.0} and not NUMBER.kind.errors(
        ["1"], ["?"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_between_a_constant_and_the_right_numbers(name: str) -> None:
    references, *_ = draws()
    metric = METRICS[name]
    assert metric(references, references, NUMBER) == pytest.approx(1.0)
    assert metric(references, ["0"] * len(references), NUMBER) < 0.05
    assert metric(references, ["no number"] * len(references), NUMBER) < 0.05
    opposite = [repr(-float(reference)) for reference in references]
    assert metric(references, opposite, NUMBER) == 0.0
    values = metric.rows(Answered(references, opposite, NUMBER))
    assert values.min() >= 0.0 and values.max() <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_equal_right_numbers_give_no_division_by_zero(name: str) -> None:
    for answers in (["5", "5"], ["4", "6"]):
        assert 0.0 <= METRICS[name](["5", "5"], answers, NUMBER) <= 1.0
    values = METRICS[name].rows(Answered(["0.1"] * 3, ["0.1", "0.11", "0.12"], NUMBER))
    assert values.min() > 0.5, "rounding errors of the mean are no standard deviation"


@pytest.mark.parametrize("name", NAMES)
def test_intervals_cover_the_score_of_the_population(name: str) -> None:
    """Also those of ranks and of the median, which resampling keeps as they are among the rows."""
    metric, rng, slope, noise = METRICS[name], np.random.default_rng(5), 0.8, 0.5

    def rows(count: int) -> Answered:
        right = rng.normal(size=count)
        given = slope * right + noise * rng.normal(size=count)
        return Answered([repr(float(one)) for one in right], [repr(float(one)) for one in given], NUMBER)

    wanted, covered, runs = metric.score(rows(100_000)), 0, 150
    for seed in range(runs):
        answered = rows(80)
        evaluation = judged(answered, np.zeros(80), metric)
        covered += wanted in score_interval(evaluation, answered.references, metric, NUMBER, seed=seed)
    # Four standard errors below 0.95.
    assert covered / runs >= 0.88


@pytest.mark.parametrize("exponent", [-300, -100, 100, 200, 307])
def test_scores_do_not_depend_on_the_unit(exponent: int) -> None:
    right, given = (["1", "2", "3", "1.5"], ["1.2", "1.9", "2.5", "none"])
    table = [[f"{number}e{exponent}" if number != "none" else number for number in numbers] for numbers in (right, given)]
    for name in NAMES:
        assert METRICS[name](*table, NUMBER) == pytest.approx(METRICS[name](right, given, NUMBER)), name
        values = METRICS[name].rows(Answered(*table, NUMBER))
        assert values == pytest.approx(METRICS[name].rows(Answered(right, given, NUMBER))), name
    assert METRICS["r2"](right, ["1", "2", "1e300", "1.5"], NUMBER) == 0.0, "far beyond the right numbers"


def test_a_row_is_right_within_half_a_standard_deviation() -> None:
    metric = METRICS["r2"]
    values = metric.rows(Answered(["0", "2", "0", "2"], ["0.4", "2", "0.6", "none"], NUMBER))
    assert values == pytest.approx([0.6, 1.0, 0.4, 0.0])
    assert metric.right(values).tolist() == [1, 1, 0, 0]


def test_measurements_are_scored_by_r2_and_counts_by_accuracy() -> None:
    def task(outputs: list[str]) -> Task:
        return Task.from_frame(
            [{"text": f"row number {i}", "out": output} for i, output in enumerate(outputs)], input="text", output="out"
        )

    assert task([str(i * 7 % 101 + 0.5) for i in range(60)]).metric == "r2"
    assert task([str(2 * i * i) for i in range(60)]).metric == "accuracy"
    assert task([str(2 * i * i + (0.5 if i < 20 else 0)) for i in range(60)]).metric == "accuracy", "mostly whole"


def test_whole_numbers_are_right_only_if_they_are_the_same() -> None:
    same = KINDS["number"].same
    assert not same("4006381333931", "4006381334000") and not same("1234567891", "1234567892")
    assert same("4006381333931", "4006381333931.0") and not same("12", "12.0000000001")
    assert same("0.3", "0.30000000000000004") and not same("0.3", "0.3000000001")
