"""Answers as columns of a file, from predictions that are given."""

from __future__ import annotations

from typing import Any

import pytest

from cotune.bundle.answer_sheet import sheet_answers
from cotune.bundle.predictor import Prediction
from cotune.errors import RowError
from cotune.task.reading.read import Sheet
from cotune.task.values.output import Output

SHARES = {'mood="calm"': 0.25, 'mood="angry"': 0.75}


@pytest.mark.parametrize("nested", [False, True])
def test_closed_fields_have_a_column_for_each_value_or_one_object(nested: bool) -> None:
    sheet = Sheet(("text",), [{"text": None}, {"text": "late"}], "rows.csv", (2, 3))
    checked: list[Any] = [RowError("the input is empty"), {"text": "late"}]
    found = [Prediction('{"mood": "angry"}', SHARES, truncated=False)]
    more = {"probabilities": True, "unsure": None, "nested": nested, "typed": False}
    added = sheet_answers(found, Output("json", (), '{"type": "object"}'), sheet, checked, **more).added
    if nested:
        assert added["probabilities"] == [None, SHARES]
    else:
        assert {name: values[1] for name, values in added.items() if name.startswith("p(")} == {
            f"p({name})": share for name, share in SHARES.items()
        }
        assert added['p(mood="calm")'][0] is None


def test_answers_in_a_column_called_error_are_kept() -> None:
    sheet = Sheet(("text",), [{"text": "late"}, {"text": None}], "rows.csv", (2, 3))
    checked: list[Any] = [{"text": "late"}, RowError("the input is empty")]
    found = [Prediction('{"service": "db", "error": "timeout"}', {}, truncated=True)]
    more = {"probabilities": False, "unsure": None, "nested": False, "typed": False, "columns": ("service", "error")}
    added = sheet_answers(found, Output("json", (), '{"type": "object"}'), sheet, checked, **more).added
    assert added["service"] == ["db", None] and added["error"] == ["timeout", None]
    assert added["error_2"] == [None, "the input is empty"] and added["truncated"] == [True, None]
