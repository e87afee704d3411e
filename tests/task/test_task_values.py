"""Numbers and JSON values: read back as they were written, found in answers, taken apart."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from cotune.task.reading.cells import NESTED, cell_text, input_text
from cotune.task.values.json_value import NO_JSON, json_in, json_text, leaf_counts, parse_json, same_json
from cotune.task.values.number import equal_numbers, number_in, number_text, parse_number
from cotune.task.values.schema import Validator, infer_schema, schema_fields, schema_problem
from cotune.task.values.schema_order import in_schema_order

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | FLOATS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**30), max_value=10**30))
def test_a_number_is_read_back_as_it_was_written(number: Decimal) -> None:
    text = number_text(number)
    assert parse_number(text) == number
    assert number_text(parse_number(text) or Decimal(0)) == text
    assert number_in(f"So it is {text}.") == number


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1,234,567.50", "1234567.5"), (" +5 ", "5"), ("-0.0", "0"), (".5", "0.5"), ("−3", "-3"), ("1e3", "1000"), ("5.", "5")],
)
def test_numbers_have_one_form(text: str, wanted: str) -> None:
    number = parse_number(text)
    assert number is not None and number_text(number) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12 km",
        "$5",
        "5%",
        "3,5",
        "12,34",
        "1 000",
        "nan",
        "inf",
        "0x10",
        "five",
        "1e9999",
        "٣",
        "0,125",
        "00,500",
        "000,001",
    ],
)
def test_other_texts_are_no_numbers(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [("The answer is 51.", "51"), ("3 + 4 = 7 apples", "7"), ("$1,250.00", "1250"), ("none", None), ("room A12", None),
     ("a" * 100_000, None), ("It is 0,125.", None), ("It weighs 12,5 kg", None), ("1,234, or 5", "5"),
     ("[2.5,3.5]", None), ("1.234,56 EUR", None), ("1.5e3,2", None)],
)  # fmt: skip
def test_the_last_number_of_an_answer_counts(answer: str, wanted: str | None) -> None:
    found = number_in(answer)
    assert (None if found is None else number_text(found)) == wanted


def test_tolerance_is_absolute_or_relative() -> None:
    ten, hundred = Decimal(10), Decimal(100)
    assert equal_numbers(Decimal("0.3"), Decimal("0.1") * 3)
    assert equal_numbers(Decimal("10.5"), ten, absolute=0.5) and not equal_numbers(Decimal("10.51"), ten, absolute=0.5)
    assert equal_numbers(Decimal(101), hundred, relative=0.01) and not equal_numbers(Decimal(102), hundred, relative=0.01)
    assert not equal_numbers(ten, Decimal("1e310")) and equal_numbers(Decimal("1.000e310"), Decimal("1.0000000001e310"))


@given(VALUES)
def test_json_is_read_back_as_it_was_written(value: object) -> None:
    assert same_json(json_in(json_text(value)), value)
    assert parse_json(json_text(value)) == value


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_an_inferred_schema_holds_its_values_and_is_sound(values: list[object]) -> None:
    schema = infer_schema(values)
    assert schema_problem(schema) == ""
    check = Validator(schema)
    assert all(map(check, values))


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [('Sure: {"a": 1} and more', {"a": 1}), ('```json\n{"a": [1]}\n```', {"a": [1]}), ("[1, 2", NO_JSON), ("NaN", NO_JSON),
     ("{" * 5000, NO_JSON)],
)  # fmt: skip
def test_json_is_found_in_an_answer(answer: str, wanted: object) -> None:
    assert json_in(answer) == wanted


def test_values_have_paths_and_lists_count_their_items() -> None:
    counts = leaf_counts({"a": {"b": " x  y"}, "c": [1, 1.0, {"d": None}], "e": {}})
    assert counts == {("a.b", '"x y"'): 1, ("c[]", "1"): 2, ("c[].d", "null"): 1}
    assert same_json({"a": 1, "b": 2}, {"b": 2, "a": 1.0}) and not same_json([1, 2], [2, 1])
    assert not same_json(NO_JSON, NO_JSON)


def test_keys_take_the_order_of_the_schema() -> None:
    schema = {"properties": {"b": {}, "a": {"items": {"properties": {"y": {}, "x": {}}}}}}
    assert json.dumps(in_schema_order({"z": 0, "a": [{"x": 1, "y": 2}], "b": 3}, schema)) == (
        '{"b": 3, "a": [{"y": 2, "x": 1}], "z": 0}'
    )
    assert schema_fields(infer_schema([{"a": {"b": 1}, "c": [{"d": "x"}], "e": ["y"]}])) == ["a.b", "c[].d", "e[]"]


def test_keys_take_the_order_of_what_the_schema_refers_to_and_of_the_option_that_fits() -> None:
    leaf = {"type": "object", "properties": {"y": {}, "x": {}}, "required": ["y"]}
    other = {"type": "object", "properties": {"x": {"maximum": 3}, "y": {}, "w": {}}}
    schema = {"properties": {"a": {"$ref": "#/$defs/leaf"}, "b": {"anyOf": [other, {"$ref": "#/$defs/leaf"}]}},
              "$defs": {"leaf": leaf}}  # fmt: skip
    given = {"b": {"y": 1, "x": 9}, "a": {"x": 1, "y": 2}}
    assert json.dumps(in_schema_order(given, schema)) == '{"a": {"y": 2, "x": 1}, "b": {"y": 1, "x": 9}}'
    assert json.dumps(in_schema_order({"b": {"y": 1, "x": 3}}, schema)) == '{"b": {"x": 3, "y": 1}}'
    # A value of an enumeration stands as it does there, and a reference without end ends.
    assert json.dumps(in_schema_order({"a": 1.0, "b": True}, {"enum": [{"b": 1, "a": 1}, {"b": True, "a": 1}]})) == (
        '{"b": true, "a": 1}'
    )
    assert in_schema_order({"b": 1, "a": 2}, {"$ref": "#"}) == {"b": 1, "a": 2}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1e3", "1000"), ("1000.0", "1000"), ("-0.0", "0"), ("1e-5", "0.00001"), ("[0.50, 1E2]", "[0.5, 100]"),
     ("4.5e16", "4.5e+16"), ("1e300", "1e+300"), ('{"1.0": "2.0 and 1e-05"}', '{"1.0": "2.0 and 1e-05"}'),
     ("0.30000000000000004", "0.30000000000000004")],
)  # fmt: skip
def test_equal_numbers_are_written_alike(text: str, wanted: str) -> None:
    assert json_text(parse_json(text)) == wanted == json_text(parse_json(wanted))


@pytest.mark.parametrize(
    ("text", "why"),
    [("1e400", "too large a number"), ('["\\ud83d"]', "half a character"), ("[" * 129 + "]" * 129, "128 levels"),
     ("[" * 5000 + "]" * 5000, "128 levels"), ('{"a": 1, "a": 1}', "twice"), ("NaN", "not a JSON number")],
)  # fmt: skip
def test_json_that_could_not_be_written_again_is_none(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)
    if text[:2] != "[[":  # from its second bracket on it may be sound
        assert json_in(f"Sure: {text}!") in (NO_JSON, {"a": 1})
    assert parse_json("[" * 128 + "]" * 128) and parse_json('["\\ud83d\\ude00"]') == ["😀"]


def test_texts_and_lists_are_bounded_by_half_as_much_again_as_was_seen() -> None:
    assert infer_schema(["a", "b" * 40]) == {"type": "string", "maxLength": 60}
    assert infer_schema(["a", "bc"]) == {"type": "string", "maxLength": 32}
    assert infer_schema([["x", "y"], []])["maxItems"] == 4 and infer_schema([[1] * 7])["maxItems"] == 11
    # Other kinds of values have no length, and an enumeration needs none.
    assert infer_schema([1, 2]) == {"type": "integer"} and "maxLength" not in infer_schema(["a", "b"] * 10)


def test_enumerations_need_values_that_recur() -> None:
    assert "enum" in infer_schema(["a", "b"] * 5) and "enum" not in infer_schema(["a", "b"] * 4)
    assert "enum" not in infer_schema(["a", "b"] * 20 + ["c"])
    assert infer_schema(["a", "b"] * 50 + ["c"])["enum"] == ["a", "b", "c"], "one row in a hundred"
    # A value with a control character cannot be written.
    assert "enum" not in infer_schema(["a", "b\x1f"] * 20)


@given(VALUES)
def test_whatever_json_holds_can_be_shown_as_an_input(value: object) -> None:
    text = input_text(value)
    if not isinstance(value, (list, dict)):
        assert text == cell_text(value)
        return
    assert isinstance(text, str) and text
    if isinstance(value, dict) or any(isinstance(item, (list, dict)) for item in value):
        assert json.loads(text) == value
    elif all(isinstance(item, int) for item in value) and value:
        assert len(text.split(", ")) == len(value)


def test_lists_are_shown_in_plain_words() -> None:
    assert [input_text(value) for value in (["a", "b"], [], (1, 2.5, True, None), np.array(["x", "y"]), {"é": [1]}, [[]])] == [
        "a, b", "none", "1, 2.5, true, null", "x, y", '{"é": [1]}', "[[]]",
    ]  # fmt: skip
    assert input_text([b"a"]) is NESTED and input_text({"a": float("nan")}) is NESTED and input_text({1, 2}) is NESTED


def test_keys_of_objects_in_cells_are_written_as_texts() -> None:
    assert input_text({date(2020, 1, 1): 3, np.int64(4): [np.float32(0.5)]}) == '{"2020-01-01": 3, "4": [0.5]}'
