"""Scores of single fields: their values, their intervals, and that rare fields and grouped rows are not told too surely."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cotune.evaluate.shares import MOST_FIELDS, field_scores
from cotune.evaluate.stats.intervals import proportion_interval
from cotune.task.answered import Answered
from cotune.task.values.output import Output

OUTPUT = Output("json", (), '{"type": "object"}')


def answered(gold: list[Any], given: list[Any]) -> Answered:
    return Answered([json.dumps(value) for value in gold], [json.dumps(value) for value in given], OUTPUT)


def test_each_field_has_its_counts_shares_and_intervals() -> None:
    gold = [{"a": i % 3, "tags": ["x", "y"]} for i in range(40)] + [{"a": 1, "rare": 5}] * 2
    given = [{"a": 0, "tags": ["x", "z", "w"]} for _ in range(40)] + [{"a": 1, "rare": 5}, {}]
    found = {one.name: one for one in field_scores(answered(gold, given), seed=0)}
    assert list(found) == ["tags[]", "a", "rare"]
    a = found["a"]
    assert (a.right, a.given) == (42, 41) and a.recall is not None and a.precision is not None
    assert a.recall.value == pytest.approx(15 / 42) and a.precision.value == pytest.approx(15 / 41)
    assert a.recall.interval == proportion_interval([1] * 15 + [0] * 27)
    tags = found["tags[]"]
    assert tags.f1.value == pytest.approx(2 * 40 / (80 + 120)) and tags.f1.interval.low <= 0.4 <= tags.f1.interval.high
    # Two rows of 42 hold it: what is known of it is what two rows tell.
    rare = found["rare"]
    assert rare.recall is not None and rare.recall.interval == proportion_interval([1, 0]) and rare.f1.interval.width > 0.6
    told = json.loads(json.dumps(rare.as_dict("field"), allow_nan=False))
    assert told["field"] == "rare" and told["precision"]["value"] == 1 and len(told["precision"]["ci"]) == 2


def test_fields_that_nobody_gave_or_wanted_and_very_many_fields() -> None:
    wanted = field_scores(answered([{"a": 1}] * 3, [{}] * 3), seed=0)[0]
    assert wanted.precision is None and wanted.recall is not None and wanted.recall.value == 0 and wanted.f1.interval.high > 0.3
    many = [{f"f{i}": 1 for i in range(3 * MOST_FIELDS)}] * 2
    assert len(field_scores(answered(many, many), seed=0)) == MOST_FIELDS
    assert field_scores(answered([{}], [{}]), seed=0) == []


def test_grouped_rows_tell_less() -> None:
    gold = [{"a": [1, 2]} for _ in range(200)]
    given = [{"a": [1, 2]} if i // 20 % 2 else {"a": [3]} for i in range(200)]
    (alone,) = field_scores(answered(gold, given), seed=0)
    (grouped,) = field_scores(answered(gold, given), seed=0, groups=np.arange(200) // 20)
    assert grouped.f1.value == alone.f1.value and grouped.f1.interval.width > 2 * alone.f1.interval.width


def test_intervals_of_f1_hold_the_truth() -> None:
    rng = np.random.default_rng(7)
    # Given in nine of ten rows, right in two of three of those: F1 is 2 * 0.6 / 1.9.
    truth, held = 2 * 0.6 / 1.9, 0
    for _ in range(120):
        chance = rng.random(60)
        given = [{"a": 1} if c < 0.6 else {"a": 2} if c < 0.9 else {} for c in chance]
        held += truth in field_scores(answered([{"a": 1}] * 60, given), seed=0)[0].f1.interval
    assert 0.88 <= held / 120 <= 0.995
