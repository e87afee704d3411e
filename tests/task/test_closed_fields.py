"""Closed fields of a schema: which outputs are closed, and that every choice of values is an output that fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.probe.fields import log_softmax_by_field
from cotune.task.values.closed import MOST_VALUES, ClosedFields, closed_fields, open_parts
from cotune.task.values.kinds.registry import KINDS
from cotune.task.values.schema import Validator, infer_schema

TICKET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["angry", "calm", "1"]},
        "flags": {
            "type": "object",
            "properties": {"urgent": {"type": "boolean"}, "level": {"type": "integer", "minimum": 1, "maximum": 3}},
            "required": ["urgent", "level"],
        },
        "topics": {"type": "array", "items": {"enum": ["bill", "refund"]}, "uniqueItems": True},
        "owner": {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]},
        "version": {"const": 2},
    },
    "required": ["mood", "flags", "topics", "version"],
}


def written(closed: ClosedFields, places: Sequence[int]) -> str:
    """The output of a model that is certain of one value of each field."""
    table = np.full((1, len(closed.names)), -np.inf)
    table[0, list(places)] = 0.0
    return closed.answers(table)[0]


def test_an_output_is_read_into_places_and_written_from_them() -> None:
    closed = closed_fields(TICKET)
    assert closed is not None
    assert [field.path for field in closed.fields] == ["mood", "flags.urgent", "flags.level", "topics[]", "topics[]", "owner"]
    assert closed.sizes == (3, 2, 3, 2, 2, 4) and len(closed.names) == len(set(closed.names)) == 16
    assert closed.names[2:5] == ('mood="1"', "flags.urgent=false", "flags.urgent=true")
    assert closed.names[8:10] == ('topics[]="bill":false', 'topics[]="bill":true')
    output = '{"version": 2, "topics": ["refund", "bill"], "mood": "calm", "flags": {"level": 3, "urgent": true}}'
    places = closed.places(output)
    assert places is not None and places.tolist() == [[1, 4, 7, 9, 11, 12]]
    # Keys are in the schema's order, and a list is in that of its values.
    ordered = '{"mood": "calm", "flags": {"urgent": true, "level": 3}, "topics": ["bill", "refund"], "version": 2}'
    again = closed.places(ordered)
    assert written(closed, places[0]) == ordered and again is not None and again.tolist() == places.tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"mood": "glad"},
        {"mood": 1},
        {"flags": {"urgent": True}},
        {"flags": {"urgent": True, "level": 4}},
        {"flags": {"urgent": 1, "level": 2}},
        {"flags": [True, 2]},
        {"topics": ["bill", "bill"]},
        {"topics": ["other"]},
        {"topics": "bill"},
        {"version": 3},
        {"further": True},
    ],
)
def test_an_output_with_another_form_or_value_has_no_places(change: dict[str, Any]) -> None:
    closed = closed_fields(TICKET)
    right = {"mood": "calm", "flags": {"urgent": True, "level": 3}, "topics": [], "version": 2}
    assert closed is not None and closed.places(json.dumps(right)) is not None
    assert closed.places(json.dumps({**right, **change})) is None


def test_what_is_no_json_or_no_object_has_no_places() -> None:
    closed = closed_fields(TICKET)
    assert closed is not None and closed.places("calm") is None and closed.places("[]") is None


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string"},
        {"type": "number"},
        {"type": "integer"},
        {"type": "integer", "minimum": 0, "maximum": 1000},
        {"type": ["string", "null"]},
        {"enum": [["a"], "b"]},
        {"enum": []},
        {"anyOf": [{"enum": ["a"]}, {"type": "string"}]},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 3},
        {"type": "array", "items": {"enum": ["a", "b"]}, "contains": {"const": "a"}},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "allOf": []},
        {"$ref": "#/$defs/a"},
        True,
    ],
)
def test_a_schema_with_an_open_part_is_not_closed(part: Any) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "part": part}, "required": ["ok", "part"]}
    assert closed_fields(schema) is None


def test_open_parts_are_named() -> None:
    assert open_parts(TICKET) == []
    stars = {"type": "integer"}
    inner = {**TICKET["properties"]["flags"], "properties": {"urgent": {"type": "boolean"}, "stars": stars}}
    schema = {**TICKET, "properties": {**TICKET["properties"], "flags": inner, "note": {"type": "string"}}}
    assert open_parts(schema) == ["flags.stars", "note"]


def test_a_list_keeps_to_its_bounds() -> None:
    items = {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 1, "maxItems": 2}
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "topics": items}, "required": ["ok", "topics"]}
    closed = closed_fields(schema)
    assert closed is not None and closed.lists == [(slice(1, 4), (1, 2))]
    for topics in ([], ["a", "b", "c"]):
        assert closed.places(json.dumps({"ok": True, "topics": topics})) is None
    # In favour of an item by as many nats.
    rows = np.array([[3.0, 1.0, 2.0], [-3.0, -1.0, -2.0], [1.0, -1.0, -2.0]])
    table = np.zeros((3, 8))
    table[:, 3::2] = rows
    answers = closed.answers(log_softmax_by_field(table, closed.sizes))
    assert [json.loads(answer)["topics"] for answer in answers] == [["a", "c"], ["b"], ["a"]]


ONE_OR_MORE = {"anyOf": [{"enum": ["a", "b", "c"]}, {"type": "array", "items": {"enum": ["a", "b", "d"]}, "maxItems": 2}]}


@pytest.mark.parametrize(
    ("part", "values", "others"),
    [
        (ONE_OR_MORE, ["a", "c", ["a", "d"], [], ["d"]], ["d", None, ["c"], ["a", "b", "d"], ["a", "a"], 1, {}]),
        ({"anyOf": [*ONE_OR_MORE["anyOf"], {"type": "null"}]}, ["a", None, [], ["b", "d"]], ["d", ["c"]]),
        ({"anyOf": [{"type": "null"}, ONE_OR_MORE["anyOf"][1]]}, [None, [], ["a"], ["b", "d"]], ["a", ["c"]]),
        (
            {"anyOf": [{"enum": [1, "1", True]}, {"type": "array", "items": {"enum": [True, 1]}}]},
            [1, True, "1", [True, 1]],
            [["1"]],
        ),
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_one_value_or_a_list_of_them_is_closed(part: Any, values: list[Any], others: list[Any], required: bool) -> None:
    schema = {"type": "object", "properties": {"p": part, "ok": {"type": "boolean"}}, "required": ["p", "ok"][not required :]}
    closed = closed_fields(schema)
    assert closed is not None and open_parts(schema) == []
    for output in [{"p": value, "ok": True} for value in values] + ([] if required else [{"ok": False}]):
        places = closed.places(json.dumps(output))
        assert places is not None
        assert written(closed, places[0]) == json.dumps(output)
    for other in others:
        assert closed.places(json.dumps({"p": other, "ok": True})) is None
    assert (closed.places(json.dumps({"ok": False})) is None) is required


def test_a_list_of_one_is_written_as_the_value_and_something_is_always_chosen() -> None:
    schema = {"type": "object", "properties": {"p": ONE_OR_MORE}, "required": ["p"]}
    closed = closed_fields(schema)
    assert closed is not None and closed.sizes == (2, 2, 2, 2, 2)
    places = closed.places('{"p": ["a"]}')
    assert places is not None and written(closed, places[0]) == '{"p": "a"}'
    rows = np.array(
        [[5.0, -3.0, -1.0, -2.0, -4.0], [5.0, 3.0, 4.0, 2.0, 1.0], [-5.0, 1.0, 1.0, 1.0, 1.0], [5.0, -1.0, -1.0, 1.0, 2.0]]
    )
    table = np.zeros((4, 10))
    table[:, 1::2] = rows
    answers = closed.answers(log_softmax_by_field(table, closed.sizes))
    # The items are a, b, d and c; c cannot be in a list, and two are chosen of four.
    assert [json.loads(answer)["p"] for answer in answers] == ["b", ["a", "b"], [], ["d"]]
    assert all(Validator(schema)(json.loads(answer)) for answer in answers)


def test_one_value_or_a_list_is_inferred_and_closed() -> None:
    rows = [{"topics": ["bill", ["bill", "late"], "late", ["late", "other"]][i % 4], "ok": i % 3 == 0} for i in range(80)]
    schema = KINDS["json"].schema_of([json.dumps(row) for row in rows], None)
    closed = closed_fields(schema)
    assert closed is not None
    for row in rows:
        places = closed.places(json.dumps(row))
        assert places is not None and json.loads(written(closed, places[0])) == row


INNER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"enum": ["x", "y"]},
        "deep": {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
    },
    "required": ["a"],
}
OPTIONAL = {"type": "object", "properties": {"inner": INNER, "last": {"type": "boolean"}}, "required": ["last"]}


@pytest.mark.parametrize("inner", [None, {"a": "y"}, {"a": "x", "deep": {"b": True}}])
def test_an_object_that_may_be_absent_is_closed(inner: Any) -> None:
    closed = closed_fields(OPTIONAL)
    assert closed is not None and open_parts(OPTIONAL) == [] and len(set(closed.names)) == len(closed.names)
    assert [one.path for one in closed.fields] == ["inner", "inner.a", "inner.deep", "inner.deep.b", "last"]
    output = json.dumps({**({} if inner is None else {"inner": inner}), "last": True})
    places = closed.places(output)
    assert places is not None and written(closed, places[0]) == output
    required = {**OPTIONAL, "required": ["inner", "last"]}
    closed = closed_fields(required)
    assert closed is not None and (closed.places(output) is None) == (inner is None)


def test_values_in_an_absent_object_do_not_lower_the_confidence() -> None:
    closed = closed_fields(OPTIONAL)
    assert closed is not None
    # Whether the inner object is there, a, whether the deep one is, b, last.
    shares = [[0.8, 0.2, 0.5, 0.5, 0.6, 0.4, 0.5, 0.5, 0.1, 0.9], [0.2, 0.8, 0.7, 0.3, 0.6, 0.4, 0.5, 0.5, 0.1, 0.9]]
    found = closed.judged(np.log(shares))
    assert [json.loads(output) for output in found.outputs] == [{"last": True}, {"inner": {"a": "x"}, "last": True}]
    assert found.confidence is not None and found.confidence == pytest.approx([0.8 * 0.9, 0.8 * 0.7 * 0.6 * 0.9])
    assert closed.places('{"inner": {"a": "z"}, "last": true}') is None and closed.places('{"inner": 1, "last": true}') is None


def test_outputs_that_cannot_differ_and_single_values_are_no_fields() -> None:
    assert closed_fields(None) is None
    assert closed_fields({"enum": ["a", "b"]}) is None
    assert closed_fields({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}) is None


def test_very_many_values_are_not_closed() -> None:
    def of(count: int) -> dict[str, Any]:
        return {"type": "object", "properties": {"a": {"enum": list(range(count))}}, "required": ["a"]}

    assert closed_fields(of(MOST_VALUES)) is not None and closed_fields(of(MOST_VALUES + 1)) is None


def test_an_inferred_schema_of_flags_is_closed() -> None:
    rows = [{"mood": ["angry", "calm"][i % 2], "topics": [["a"], ["b", "a"], []][i % 3], "late": i % 5 == 0} for i in range(60)]
    closed = closed_fields(infer_schema(rows))
    assert closed is not None and all(closed.places(json.dumps(row)) is not None for row in rows)


_VALUES = st.one_of(st.booleans(), st.none(), st.integers(-3, 9), st.text(max_size=4), st.sampled_from([1.5, "1", "true"]))


@st.composite
def _single(draw: st.DrawFn) -> dict[str, Any]:
    values = draw(st.lists(_VALUES, min_size=1, max_size=4, unique_by=json.dumps))
    return draw(st.sampled_from([{"enum": values}, {"type": "boolean"}, {"anyOf": [{"enum": values}, {"type": "null"}]}]))


@st.composite
def _one_or_more(draw: st.DrawFn) -> dict[str, Any]:
    bounds = draw(st.sampled_from([{}, {"minItems": 1}, {"maxItems": 1}, {"maxItems": 2}]))
    listed = {"type": "array", "items": draw(_single()), "uniqueItems": True, **bounds}
    options = [draw(_single()), listed, *draw(st.sampled_from([[], [{"type": "null"}]]))]
    return {"anyOf": draw(st.permutations(options))}


@st.composite
def _schemas(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    inner = [_single(), _single().map(lambda items: {"type": "array", "items": items}), _one_or_more()]
    parts = draw(st.dictionaries(st.text(min_size=1, max_size=3), st.one_of(*inner), max_size=4))
    if depth:
        parts["inner"] = draw(_schemas(depth - 1))
    parts["last"] = {"type": "boolean"}
    left_out = set(draw(st.lists(st.sampled_from(list(parts)), unique=True)))
    required = [name for name in parts if name not in left_out]
    return {"type": "object", "properties": parts, "required": required, "additionalProperties": False}


@given(_schemas(), st.data())
def test_every_choice_of_values_fits_the_schema_and_is_read_back(schema: dict[str, Any], data: st.DataObject) -> None:
    closed = closed_fields(schema)
    assert closed is not None
    starts = [sum(closed.sizes[:i]) for i in range(len(closed.sizes))]
    places = [start + data.draw(st.integers(0, size - 1)) for start, size in zip(starts, closed.sizes, strict=True)]
    output = written(closed, places)
    assert Validator(schema)(json.loads(output))
    again = closed.places(output)
    assert again is not None and written(closed, again[0]) == output
    # An absent list has no items, so that the values of its items say nothing; and bounds may leave some out.
    ends = zip(closed.fields, places, np.cumsum(closed.sizes), strict=True)
    gone = [field.path for field, place, end in ends if field.values[-1] == "present" and place < end - 1]
    if not gone and not closed.lists:
        assert again[0].tolist() == places


@pytest.mark.parametrize(("note", "closed"), [(False, True), (True, False)])
def test_ratings_get_bounds_if_that_closes_the_output(note: bool, closed: bool) -> None:
    rows = [{"stars": 1 + i % 5, "late": i % 2 == 0, **({"note": f"text {i}"} if note else {})} for i in range(60)]
    schema = KINDS["json"].schema_of([json.dumps(row) for row in rows], None)
    assert schema is not None
    assert schema["properties"]["stars"] == {"type": "integer", **({"minimum": 1, "maximum": 5} if closed else {})}
    assert (closed_fields(schema) is not None) is closed


def test_whole_numbers_that_hardly_recur_or_lie_far_apart_stay_open() -> None:
    for far in (list(range(60)), [(i % 3) * 100 for i in range(60)]):
        schema = KINDS["json"].schema_of([json.dumps({"count": value}) for value in far], None)
        assert schema is not None and schema["properties"]["count"] == {"type": "integer"}
