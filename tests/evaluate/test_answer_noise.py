"""Noise between two writings of the same rows, for means of rows and for scores that come from sums."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from cotune.config.task import Task
from cotune.evaluate.answer_noise import AnswerNoise, compare_answers
from cotune.evaluate.decision import RAW
from cotune.evaluate.responses import AnswerOutputs
from cotune.evaluate.scoring import Evaluation, judged
from cotune.task.answered import Answered
from cotune.task.metrics.metric import METRICS
from cotune.task.values.output import Output

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
JSON = Output("json", schema_text=json.dumps(SCHEMA))


def written(rng: np.random.Generator, rows: int, metric: str, wrong: float = 0.5) -> Evaluation:
    gold = [json.dumps({"a": int(i), "b": int(i) + 1}) for i in range(rows)]
    answers = [g if rng.random() > wrong else json.dumps({"a": int(i)}) for i, g in enumerate(gold)]
    return judged(Answered(gold, answers, JSON), np.zeros(rows), METRICS[metric])


def flipped(evaluation: Evaluation, rng: np.random.Generator, share: float, metric: str) -> Evaluation:
    """The same answers, some of them exchanged for right or half right ones."""
    rows = evaluation.n
    gold = [json.dumps({"a": i, "b": i + 1}) for i in range(rows)]
    other = [json.dumps({"a": i}) if answer == gold[i] else gold[i] for i, answer in enumerate(evaluation.answers)]
    answers = [o if rng.random() < share else a for a, o in zip(evaluation.answers, other, strict=True)]
    return judged(Answered(gold, answers, JSON), np.zeros(rows), METRICS[metric])


@pytest.mark.parametrize("metric", ["json_f1", "json_parts", "accuracy"])
def test_the_floor_holds_what_noise_does_to_a_score(metric: str) -> None:
    """In about 95% of writings, or more, the score moves less; and not far less, or real gains would be silenced."""
    rng = np.random.default_rng(0)
    inside, floors, moves = [], [], []
    for draw in range(150):
        dev = written(rng, 48, metric)
        noise = compare_answers(dev, flipped(dev, rng, 0.15, metric))
        test = written(rng, 80, metric)
        moved = flipped(test, rng, 0.15, metric).score - test.score
        floor = noise.floor(test, METRICS[metric].aggregate, draws=100, seed=draw)
        inside.append(abs(moved) <= floor)
        floors.append(floor)
        moves.append(moved)
    assert np.mean(inside) >= 0.9
    assert np.mean(floors) <= 4 * np.std(moves)


def test_what_did_not_change_has_no_floor_and_all_goes_through_json() -> None:
    rng = np.random.default_rng(1)
    dev = written(rng, 20, "json_f1")
    still = compare_answers(dev, dev)
    assert still == AnswerNoise(20, 0) and still.floor(dev, METRICS["json_f1"].aggregate) == 0.0
    noise = compare_answers(dev, flipped(dev, rng, 0.5, "json_f1"))
    assert noise.flipped == len(noise.values) == len(noise.counts) > 0
    assert AnswerNoise.from_dict(json.loads(json.dumps(asdict(noise)))) == noise
    assert noise.floor(dev, METRICS["json_f1"].aggregate, seed=1) == noise.floor(dev, METRICS["json_f1"].aggregate, seed=1) > 0
    with pytest.raises(ValueError, match="same rows"):
        compare_answers(dev, written(rng, 19, "json_f1"))


def test_where_other_fields_occur_rows_count_by_their_worth() -> None:
    rng = np.random.default_rng(2)
    dev = written(rng, 30, "json_macro_f1")
    noise = compare_answers(dev, flipped(dev, rng, 0.5, "json_macro_f1"))
    other = Output("json", schema_text=json.dumps({"type": "object"}))
    gold = [json.dumps({"c": i}) for i in range(30)]
    test = judged(Answered(gold, gold, other), np.zeros(30), METRICS["json_macro_f1"])
    assert test.counts is not None and test.counts.shape[1] != np.shape(noise.counts)[1]
    assert 0 < noise.floor(test, METRICS["json_macro_f1"].aggregate) < 1


def test_a_metric_of_likelihoods_has_values_but_no_answers() -> None:
    rows = [{"text": f"row {i}", "answer": {"n": i}} for i in range(40)]
    task = Task.from_rows(rows, input="text", output="answer", type="json", metric="likelihood")
    found = AnswerOutputs(np.full(3, 0.5)).judge(task.train[:3], RAW, task)
    # Nothing was generated, so nothing can be called an answer that does not fit.
    assert found.answers == () and found.is_scored and found.score == pytest.approx(np.exp(-0.5))


def test_an_earlier_bundles_answers_that_miss_the_schema_are_wrong() -> None:
    rows = [{"text": f"row {i}", "answer": {"n": i}} for i in range(40)]
    task = Task.from_rows(rows, input="text", output="answer", type="json")
    right = [row.output for row in task.train[:3]]
    texts = (right[0], f'{right[1][:-1]}, "more": 1}}', "none")
    found = AnswerOutputs(np.full(3, 0.5), texts).judge(task.train[:3], RAW, task)
    assert list(found.correct) == [1, 0, 0] and list(found.values[1:]) == [0, 0] and found.answers == texts


@pytest.mark.parametrize("metric", ["pearson", "spearman", "r2", "d2_absolute_error"])
def test_the_floor_of_numbers_depends_neither_on_their_level_nor_on_their_largest(metric: str) -> None:
    """Answers may be low on average, which makes sums negative, and the test may hold a larger number than dev."""
    rng = np.random.default_rng(3)
    right = rng.uniform(4, 7.9, 120)

    def scored(rows: slice, moved: float = 0.0, largest: float = 7.9, below: float = 0.0) -> Evaluation:
        numbers = right[rows].copy()
        numbers[0] = largest
        given = numbers + 0.3 * np.sin(100 * numbers) - below
        given[1] += moved
        texts = [[repr(float(one)) for one in column] for column in (numbers, given)]
        return judged(Answered(*texts, Output("number")), np.zeros(len(numbers)), METRICS[metric])

    def floor(below: float, largest: float) -> float:
        noise = compare_answers(scored(slice(40), below=below), scored(slice(40), 0.3, below=below))
        return noise.floor(scored(slice(40, 120), largest=largest, below=below), METRICS[metric].aggregate)

    usual = floor(0.0, 7.9)
    assert 0 < usual < 0.03
    assert floor(0.0, 8.1) < 2 * usual + 0.002
    if metric in ("pearson", "spearman"):
        assert floor(0.5, 7.9) < 2 * usual + 0.002
