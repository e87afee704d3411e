"""Metrics of text, numbers and JSON, and the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from cotune.errors import InputError
from cotune.task.answered import Answered
from cotune.task.example import Example
from cotune.task.metrics.metric import METRICS, metric_for, metric_named
from cotune.task.values.output import OUTPUT_TYPES, Output

TEXT, NUMBER = Output("text"), Output("number")
SCHEMA = {"type": "object", "properties": {"intent": {"type": "string"}, "slots": {"type": "object"}}, "required": ["intent"]}
JSON = Output("json", schema_text=json.dumps(SCHEMA))


@pytest.mark.parametrize(
    ("metric", "gold", "answer", "wanted"),
    [
        ("accuracy", "a cat", " a cat ", 1.0),
        ("accuracy", "a cat", "A cat", 0.0),
        ("normalised_match", "The cat.", "cat", 1.0),
        ("token_f1", "the cat sat down", "a cat sat", 0.8),
        ("token_f1", "the", "a", 1.0),
        ("token_f1", "cat", "", 0.0),
        ("rouge_l", "the cat sat on the mat", "the cat on a mat", 2 * 4 / 11),
        ("rouge_l", "кошка спит", "кошка не спит", 0.8),
    ],
)
def test_metrics_of_text(metric: str, gold: str, answer: str, wanted: float) -> None:
    assert METRICS[metric]([gold], [answer], TEXT) == pytest.approx(wanted)


def test_metrics_of_numbers() -> None:
    gold, answers = ["100", "5", "7"], ["The answer is 100.0", "5.2", "seven"]
    assert METRICS["accuracy"](gold, answers, NUMBER) == pytest.approx(1 / 3)
    assert metric_named("within 0.2")(gold, answers, NUMBER) == pytest.approx(2 / 3)
    assert metric_named("within 3%")(gold, answers, NUMBER) == pytest.approx(1 / 3)


def test_metrics_of_json() -> None:
    gold = ['{"intent": "play", "slots": {"artist": "x", "album": "y"}}', '{"intent": "stop", "slots": {}}', "{}"]
    answers = ['{"slots": {"artist": "x", "year": "1"}, "intent": "play"}', '{"intent": "stop"}', "no"]
    # Values right: intent, artist, intent; given: 3, 1 and the answer that is none; wanted: 3, 1, 0.
    assert METRICS["json_f1"](gold, answers, JSON) == pytest.approx(2 * 3 / (5 + 4))
    assert METRICS["json_precision"](gold, answers, JSON) == pytest.approx(3 / 5)
    assert METRICS["json_recall"](gold, answers, JSON) == pytest.approx(3 / 4)
    assert METRICS["json_macro_f1"](gold, answers, JSON) == pytest.approx((1 + 1 + 0) / 3)
    assert METRICS["json_parts"](gold, answers, JSON) == pytest.approx(((1 + 0.5) / 2 + (1 + 0) / 2 + 0) / 3)
    assert METRICS["json_valid"](gold, answers, JSON) == pytest.approx(2 / 3)
    assert METRICS["accuracy"](gold, answers, JSON) == 0.0
    assert METRICS["accuracy"](gold[:1], ['{"slots": {"album": "y", "artist": "x"}, "intent": "play"}'], JSON) == 1.0


def test_flags_in_a_part_count_by_their_share() -> None:
    gold, answer = {"flags": dict.fromkeys("abcdefghij", False), "mood": "calm"}, {"flags": dict.fromkeys("abcdefghij", False)}
    answer["flags"]["a"] = True
    assert METRICS["json_parts"]([json.dumps(gold)], [json.dumps(answer)], JSON) == pytest.approx((0.9 + 0) / 2)


CELL = st.sampled_from(["a b", "b", "{}", '{"a": 1}', '{"a": 2, "b": [1]}', "3", "x 4"])
CELLS = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=12)


@given(CELLS, st.sampled_from(sorted(set(METRICS) - {"macro_f1", "weighted_f1", "likelihood", "judge"})))
def test_rows_lie_between_0_and_1_and_aggregates_come_from_sums(pairs: list[tuple[str, str]], name: str) -> None:
    metric = METRICS[name]
    output = {"text": TEXT, "number": NUMBER, "json": JSON}["json" if "json" in metric.types else metric.types[-1]]
    answered = Answered([g for g, _ in pairs], [a for _, a in pairs], output)
    rows = metric.rows(answered)
    assert rows.shape == (len(pairs),) and (rows >= 0).all() and (rows <= 1).all()
    assert 0 <= metric.score(answered) <= 1
    # A further row changes the ranks and the median of all rows, and their mean, which an answer without a number counts as.
    numbers = metric.types == ("number",)
    among = name in ("spearman", "d2_absolute_error") or (numbers and any(None in pair for pair in answered.pairs))
    if metric.aggregate is not None and not among:
        counts = metric.aggregate.counts(answered)
        twice = Answered([*answered.references, answered.references[0]], [*answered.answers, answered.answers[0]], output)
        assert metric.aggregate.score(counts.sum(axis=0) + counts[0]) == pytest.approx(metric.score(twice))
        perfect = Answered(answered.references, answered.references, output)
        # A text without a number is never right where numbers are asked for.
        if not numbers and all(g.startswith("{") for g in answered.references):
            assert metric.score(perfect) == 1.0


def test_likelihood_is_a_mean_of_probabilities_and_needs_them() -> None:
    losses = np.array([0.0, np.log(4)])
    assert METRICS["likelihood"].score(Answered(["a", "b"], ["", ""], TEXT, losses=losses)) == pytest.approx((1 + 0.25) / 2)
    with pytest.raises(ValueError, match="not known"):
        METRICS["likelihood"](["a"], ["a"], TEXT)


def test_grades_are_the_score_and_need_to_be_there() -> None:
    graded = Answered(["a", "b"], ["c", "d"], TEXT, grades=np.array([0.25, 0.75]))
    assert METRICS["judge"].score(graded) == 0.5
    assert METRICS["judge"].right(graded.grades).tolist() == [0.0, 1.0]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not graded"):
        METRICS["judge"](["a"], ["b"], TEXT)


def test_every_type_has_a_default_that_fits() -> None:
    for kind in OUTPUT_TYPES:
        assert kind in metric_for(None, Output(kind)).types


def test_a_users_own_function(tmp_path: Path) -> None:
    path = tmp_path / "my_metrics.py"
    path.write_text(
        "def near(right, answer, row):\n    return answer is not None and abs(right - answer) <= int(row['slack'])\n"
    )
    metric = metric_for(f"{path}:near", NUMBER)
    rows = [Example(f"dev:{i}", {"slack": str(i)}, "10") for i in range(3)]
    answered = Answered(["10"] * 3, ["11", "it is 11", "none"], NUMBER, rows)
    assert metric.rows(answered).tolist() == [0.0, 1.0, 0.0]
    assert metric.name == "my_metrics.py:near"
    before = metric.fingerprint
    path.write_text(path.read_text() + "\n# other\n")
    assert metric_for(f"{path}:near", NUMBER).fingerprint != before


def test_a_users_file_may_hold_a_dataclass(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Pair:\n    right: str\n\n"
        "def score(right, answer, row):\n    return Pair(right) == Pair(answer)\n"
    )
    metric = metric_for(f"{path}:score", TEXT)
    assert metric.rows(Answered(["a", "b"], ["a", "c"], TEXT)).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("def score(right, answer, row):\n    return 2", ("row dev:0", "returned 2", "from 0")),
        ("def score(right, answer, row):\n    return float('nan')", ("row dev:0", "returned nan")),
        ("def score(right, answer, row):\n    return row['nope']", ("row dev:0", "KeyError")),
        ("def other():\n    pass", ("no function 'score'", "other")),
        ("import nothing_of_that_name", ("cannot be executed", "ModuleNotFoundError", "python FILE")),
        ("from beside.inner import x", ("ModuleNotFoundError", "one file and cannot import beside", "move what it needs")),
        ("import sys\nsys.exit(3)", ("cannot be executed", "SystemExit")),
        (None, ("cannot be read",)),
    ],
)
def test_a_users_function_that_fails_is_told_with_its_row(tmp_path: Path, source: str | None, parts: tuple[str, ...]) -> None:
    path = tmp_path / "m.py"
    (tmp_path / "beside.py").touch()
    if source is not None:
        path.write_text(source)
    with pytest.raises(InputError) as caught:
        metric_for(f"{path}:score", TEXT).rows(Answered(["a"], ["b"], TEXT, [Example("dev:0", {"q": "x"}, "a")]))
    message = str(caught.value)
    assert not [part for part in parts if part not in message], message
