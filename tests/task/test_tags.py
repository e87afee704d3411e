"""Tags of words: which outputs are copied from their texts, and that right tags give the right output."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest
from certain_tags import certain, found_in
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import InputError
from cotune.task.values.copied import copied_fields, obstacles
from cotune.task.values.kinds.registry import KINDS
from cotune.task.values.output import Output
from cotune.task.values.output_fields import AnswerFields
from cotune.task.values.schema import Validator, infer_schema
from cotune.task.values.tags import Tags, answer_fields
from cotune.task.words import words_of

TEXTS = ["Ann Lee and Bob fly from Rome to Oslo", "to Bern, from Oslo please", "seats to Rome for Bob", "hello"]
OUTPUTS: list[dict[str, Any]] = [
    {"ask": "flight", "to": "Oslo", "stops": {"from": "Rome"}, "names": ["Ann Lee", "Bob"]},
    {"ask": "flight", "to": "Bern", "stops": {"from": "Oslo"}, "names": []},
    {"ask": "seats", "to": "Rome", "stops": {}, "names": ["Bob"]},
    {"ask": "none", "stops": {}, "names": []},
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ask": {"enum": ["flight", "seats", "none"]},
        "to": {"type": "string"},
        "stops": {"type": "object", "properties": {"from": {"type": "string"}}, "required": []},
        "names": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
    },
    "required": ["ask", "stops", "names"],
}


def tags_of(schema: dict[str, Any], outputs: list[dict[str, Any]], texts: list[str]) -> AnswerFields | None:
    return answer_fields(schema, copied_fields(schema, [json.dumps(one) for one in outputs], texts))


@pytest.mark.parametrize("row", range(4))
def test_right_tags_give_the_right_output(row: int) -> None:
    fields = tags_of(SCHEMA, OUTPUTS, TEXTS)
    assert isinstance(fields, Tags) and fields.words
    assert [one.path for one in fields.copied] == ["to", "stops.from", "names[]"]
    assert [one.blank for one in fields.copied] == ["absent", "absent", "empty"]
    assert fields.sizes == (4, 2, 3) and len(set(fields.names)) == len(fields.names) == 9
    (answer,) = fields.answers(certain(fields, OUTPUTS[row], TEXTS[row]), [TEXTS[row]])
    assert json.loads(answer) == OUTPUTS[row]


def test_rows_are_answered_together_as_alone() -> None:
    fields = tags_of(SCHEMA, OUTPUTS, TEXTS)
    assert fields is not None
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(len(words_of(text)) + 1, len(fields.names))) for text in TEXTS]
    alone = [fields.answers(table, [text])[0] for table, text in zip(tables, TEXTS, strict=True)]
    assert list(fields.answers(np.concatenate(tables), TEXTS)) == alone
    assert all(Validator(SCHEMA)(json.loads(answer)) for answer in alone), "also those of a model that knows nothing"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}, "required": []}},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": ["string", "integer"]},
        {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"a": {"type": "string"}}}]},
    ],
)
def test_other_parts_are_not_copied(part: Any) -> None:
    schema = {"type": "object", "properties": {"to": {"type": "string"}, "part": part}, "required": ["to"]}
    assert copied_fields(schema, [json.dumps({"to": "Rome"})] * 9, ["to Rome"] * 9) == ()


def test_values_that_do_not_stand_in_their_texts_are_not_copied() -> None:
    schema = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
    outputs = [{"to": "Rome"}] * 9 + [{"to": "Roma"}]
    assert tags_of(schema, outputs, ["to Rome"] * 10) is not None, "one of ten may be missing"
    assert tags_of(schema, [*outputs, {"to": "Roma"}], ["to Rome"] * 11) is None
    assert tags_of(schema, [{"to": "Rom"}] * 3, ["to Rome"] * 3) is None, "half a word"
    assert tags_of(schema, [{"to": ""}] * 3, ["to Rome"] * 3) is None, "nothing is copied anywhere"


@pytest.mark.parametrize(
    ("part", "outputs", "empty"),
    [
        ({"type": ["string", "null"]}, [{"a": "x"}, {"a": None}], {"a": None}),
        ({"type": "string"}, [{"a": "x"}, {"a": ""}], {"a": ""}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, [{"a": "x"}, {"a": None}], {"a": None}),
        ({"type": "array", "items": {"type": "string"}}, [{"a": ["x"]}, {"a": []}], {"a": []}),
    ],
)
def test_what_is_written_where_nothing_is_copied_is_as_in_the_labelled_rows(
    part: Any, outputs: list[dict[str, Any]], empty: dict[str, Any]
) -> None:
    schema = {"type": "object", "properties": {"a": part}, "required": ["a"]}
    texts = ["an x", "no"]
    fields = tags_of(schema, outputs, texts)
    assert fields is not None
    for output, text in zip(outputs, texts, strict=True):
        assert json.loads(fields.answers(certain(fields, output, text), [text])[0]) == output
    assert json.loads(fields.answers(certain(fields, empty, ""), [""])[0]) == empty


def test_a_part_that_always_has_a_value_gets_the_likeliest_word() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    fields = tags_of(schema, [{"a": "x"}, {"a": "y"}], ["an x", "the y"])
    assert isinstance(fields, Tags) and fields.copied[0].blank == "never"
    table = np.log([[0.9, 0.1, 0.9, 0.1], [0.6, 0.4, 0.9, 0.1], [0.9, 0.1, 0.9, 0.1]])
    assert fields.answers(table, ["no z"]) == ('{"a": "z"}',)


def test_a_part_that_always_has_a_value_gets_a_word_of_another_part_only_if_there_is_no_other() -> None:
    text = {"type": "string"}
    schema = {"type": "object", "properties": {"name": text, "city": text}, "required": ["name", "city"]}
    rows = ["Ann of Rome", "Bob of Bonn"]
    fields = tags_of(schema, [{"name": "Ann", "city": "Rome"}, {"name": "Bob", "city": "Bonn"}], rows)
    assert isinstance(fields, Tags) and [one.path for one in fields.copied] == ["name", "city"]
    table = certain(fields, {"name": "Ann", "city": "Rome"}, rows[0])
    # No word is tagged as the city. It is likeliest at the name, and then at the last word.
    table[2] = table[1]
    table[0, 2], table[2, 2] = -5, -7
    assert json.loads(fields.answers(table, rows[:1])[0]) == {"name": "Ann", "city": "Rome"}
    assert json.loads(fields.answers(table[[0, 3]], ["Ann"])[0]) == {"name": "Ann", "city": "Ann"}


def test_numbers_are_copied_and_several_values_become_a_list() -> None:
    one_or_more = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}, "maxItems": 3}]}
    schema = {"type": "object", "properties": {"n": one_or_more}, "required": []}
    outputs: list[dict[str, Any]] = [{"n": 7}, {"n": [3, 40]}, {}]
    texts = ["seven is 7", "3 or 40", "none"]
    fields = tags_of(schema, outputs, texts)
    assert fields is not None
    answers = [fields.answers(certain(fields, one, text), [text])[0] for one, text in zip(outputs, texts, strict=True)]
    assert [json.loads(answer) for answer in answers] == outputs
    # A word that is no number is no answer.
    assert fields.answers(certain(fields, {"n": 7}, "of 7"), ["of a"]) == ("{}",)


def test_lists_of_objects_have_a_part_for_each_of_their_kinds() -> None:
    kind, rows = KINDS["json"], []
    for i in range(40):
        host, guest, seats = f"Ann {i}", f"Bo {i}", i % 3
        who = [{"name": guest, "role": "guest", "child": False}, {"name": host, "role": "host", "child": i % 2 > 0}]
        rows.append(({"who": who[: 1 + (i % 5 > 0)], "seats": seats}, f"for {guest} by {host}" if i % 5 else f"for {guest}"))
    outputs, texts = [json.dumps(output) for output, _ in rows], [text for _, text in rows]
    schema = kind.schema_of(outputs, None, texts)
    assert schema is not None and schema["properties"]["seats"]["maximum"] == 2, "the seats are not in the text"
    fields = answer_fields(schema, kind.copied(schema, outputs, texts))
    assert isinstance(fields, Tags) and fields.sizes == (5, 2, 3)
    assert fields.names[1] == 'in who[].name with role="guest", child=false'
    for (output, text), again in zip(rows, outputs, strict=True):
        (answer,) = fields.answers(certain(fields, output, text), [text])
        assert kind.same(again, answer), "in the order of the text"
    assert fields.places(json.dumps({"who": [{"name": "Ann", "role": "cook", "child": False}], "seats": 1}), "Ann") is None
    stored = Output("json", schema_text=json.dumps(schema), copied=fields.copied)
    assert Output.from_json(json.loads(json.dumps(stored.to_json()))) == stored


def test_closed_values_of_objects_may_be_absent() -> None:
    kind, rows = KINDS["json"], []
    for i in range(45):
        size, milk = ("small", "large", None)[i % 3], (True, None)[i % 2]
        sort = {"item": f"tea{i}"} | ({"size": size} if size else {}) | ({"milk": milk} if milk else {})
        rows.append(
            ({"order": [sort, {"item": f"bun{i}"}][: 1 + i % 2]}, f"a {size} tea{i}, {milk}" + f" and bun{i}" * (i % 2))
        )
    outputs, texts = [json.dumps(output) for output, _ in rows], [text for _, text in rows]
    schema = kind.schema_of(outputs, None, texts)
    assert schema is not None and schema["properties"]["order"]["items"]["required"] == ["item"]
    fields = answer_fields(schema, kind.copied(schema, outputs, texts))
    assert isinstance(fields, Tags) and len(fields.copied) == 9 and obstacles(schema, outputs, texts) == []
    names = [one.name for one in fields.copied]
    assert "order[].item with size=absent, milk=absent" in names and 'order[].item with size="small", milk=absent' in names
    for output, text in rows:
        assert json.loads(fields.answers(certain(fields, output, text), [text])[0]) == output
    assert fields.places('{"order": [{"item": "bun", "size": null}]}', "a bun") is None, "null is another value than none"
    stored = Output("json", schema_text=json.dumps(schema), copied=fields.copied)
    again = Output.from_json(json.loads(json.dumps(stored.to_json())))
    assert again == stored and isinstance(again.fields, Tags) and again.fields.names == fields.names
    assert pickle.loads(pickle.dumps(fields.copied)) == copy.deepcopy(fields.copied) == fields.copied
    damaged = stored.to_json()
    damaged["copied"][0]["given"] = [["size", "small", "large"]]
    with pytest.raises(InputError, match="copied parts are invalid"):
        Output.from_json(damaged)


def test_equal_numbers_of_objects_stay_with_their_closed_values() -> None:
    """Parts are in the order of their closed values, objects in that of the text."""
    kind, rows = KINDS["json"], []
    for i in range(60):
        first, second = [("latte", "juice"), ("juice", "latte")][i % 2]
        counts = (2 + i % 3, 2 + i % 3) if i % 4 < 2 else (2 + i % 3, 6)
        order = [{"item": first, "count": counts[0]}, {"item": second, "count": counts[1]}]
        rows.append(({"order": order}, f"{counts[0]} {first} and {counts[1]} {second} for table {i + 100}"))
    outputs, texts = [json.dumps(output) for output, _ in rows], [text for _, text in rows]
    schema = kind.schema_of(outputs, None, texts)
    fields = answer_fields(schema or {}, kind.copied(schema, outputs, texts))
    assert isinstance(fields, Tags) and [one.given for one in fields.copied] == [(("item", "juice"),), (("item", "latte"),)]
    for output, text in rows:
        assert json.loads(fields.answers(certain(fields, output, text), [text])[0]) == output


COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("output", "text", "parts"),
    [
        ({"a": [{"n": 2}], "b": [], "c": 2}, "2 for 2", [1, 0, 3]),
        ({"a": [{"n": 2}, {"n": 2}], "b": [{"n": 2}], "c": 5}, "2 and 2 or 2 5", [1, 0, 1, 0, 2, 3]),
        ({"a": [{"n": 2}], "b": [{"n": 2}, {"n": 2}], "c": 5}, "2 and 2 or 2 5", [1, 0, 2, 0, 2, 3]),
    ],
)
def test_equal_values_of_lists_are_placed_in_the_order_of_the_schema(
    output: dict[str, Any], text: str, parts: list[int]
) -> None:
    several = {"type": "array", "items": COUNT, "maxItems": 4}
    schema = {
        "type": "object",
        "properties": {"a": several, "b": several, "c": {"type": "integer"}},
        "required": ["a", "b", "c"],
    }
    rows = [{"a": [{"n": i}], "b": [{"n": i + 100}], "c": i + 200} for i in range(40)]
    fields = tags_of(schema, rows, [f"{i} {i + 100} {i + 200}" for i in range(40)])
    assert isinstance(fields, Tags) and [one.path for one in fields.copied] == ["a[].n", "b[].n", "c"]
    assert fields.tags_of(json.dumps(output), text).tolist() == parts


def test_an_absent_list_of_objects_stays_absent_though_most_lists_lack_the_first_kind() -> None:
    rows = [{"who": [{"name": f"Bo {i}", "role": "host" if i % 5 else "cook"}]} if i % 3 else {} for i in range(54)]
    outputs, texts = [json.dumps(row) for row in rows], [f"for Bo {i}" for i in range(54)]
    schema = infer_schema(rows)
    copied = copied_fields(schema, outputs, texts)
    assert [one.name for one in copied] == ['who[].name with role="cook"', 'who[].name with role="host"']
    assert {one.blank for one in copied} == {"absent"}


def test_the_whole_output_may_be_a_list() -> None:
    outputs, texts = [["Ann", "Bo"], [], ["Cy"]], ["Ann and Bo", "nobody", "Cy"]
    schema = {"type": "array", "items": {"type": "string"}}
    fields = answer_fields(schema, copied_fields(schema, [json.dumps(one) for one in outputs], texts))
    assert isinstance(fields, Tags) and fields.copied[0].path == "[]"
    assert [json.loads(fields.answers(certain(fields, o, t), [t])[0]) for o, t in zip(outputs, texts, strict=True)] == outputs
    objects = [[{"n": name} for name in one] for one in outputs]
    items = {"type": "object", "properties": {"n": {"type": "string"}}, "required": ["n"]}
    schema = {"type": "array", "items": items}
    fields = answer_fields(schema, copied_fields(schema, [json.dumps(one) for one in objects], texts))
    assert isinstance(fields, Tags) and fields.copied[0].within == ("", "n")
    assert [json.loads(fields.answers(certain(fields, o, t), [t])[0]) for o, t in zip(objects, texts, strict=True)] == objects


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.5, "pay $12.50 now"),
        (1250, "pay $1,250.00 now"),
        (7, "room 007 is free"),
        (-3, "it is -3 outside"),
        (1250, "1,25 or 1250"),
        ("New York", "to New\n York soon"),
        (" Rome ", "to Rome soon"),
    ],
)
def test_numbers_and_white_space_may_be_written_in_another_way(value: Any, text: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"] if isinstance(value, str) else "number"}}}
    output = {"a": value}
    fields = tags_of(schema, [output], [text])
    assert fields is not None
    found = json.loads(fields.answers(certain(fields, output, text), [text])[0])["a"]
    assert found == value or " ".join(found.split()) == value.strip()
    # The metric ignores both.
    assert KINDS["json"].same(json.dumps({"a": value}), json.dumps({"a": found}))


@pytest.mark.parametrize(
    ("part", "tagged", "text", "answer"),
    [
        ({"type": "string", "maxLength": 4}, "abcde", "abcde fgh", None),
        ({"type": "string", "pattern": "^[0-9]{3}$"}, "12", "12 or 345", None),
        ({"type": "integer", "minimum": 10}, 3, "3 of 40", None),
        ({"type": "array", "items": {"type": "string", "maxLength": 4}}, ["abcde"], "abcde fgh", None),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ["a", "a"], "a and a", ["a"]),
        ({"type": "array", "items": {"type": "string", "$ref": "#/$defs/a"}}, ["a"], "a and b", ["a"]),
    ],
)
def test_a_copied_value_fits_its_part_of_the_schema(part: Any, tagged: Any, text: str, answer: Any) -> None:
    schema = {"type": "object", "properties": {"a": part}, "$defs": {"a": {"type": "string"}}}
    fields = answer_fields(schema, copied_fields(schema, [json.dumps({"a": tagged})], [text]))
    assert fields is not None
    found = json.loads(fields.answers(certain(fields, {"a": tagged}, text), [text])[0])
    assert Validator(schema)(found) and found == ({} if answer is None else {"a": answer})


@pytest.mark.parametrize(
    ("part", "text", "answer"),
    [
        ({"type": "integer"}, "two or 3 of us", 3),
        ({"type": "number", "minimum": 3}, "2 or 3 of 4", 3),
        ({"type": "number"}, "pay $1,250.50 now", 1250.5),
        ({"type": "integer"}, "two of us", 0),
        ({"type": "string", "minLength": 3}, "to be free", "free"),
        ({"type": "string"}, "", ""),
    ],
)
def test_a_required_part_gets_the_likeliest_word_that_fits(part: Any, text: str, answer: Any) -> None:
    schema = {"type": "object", "properties": {"a": part}, "required": ["a"]}
    known = "321" if part["type"] == "string" else 321
    fields = tags_of(schema, [{"a": known}], ["321"])
    assert isinstance(fields, Tags) and fields.copied[0].blank == "never"
    table = np.full((len(words_of(text)) + 1, 4), -1.0)
    table[:, 1] = -2 - np.arange(len(table)) / 9
    assert json.loads(fields.answers(table, [text])[0]) == {"a": answer}


def test_parts_that_cannot_be_told_apart_or_never_have_a_value_are_not_copied() -> None:
    text = {"type": "string"}
    dots = {"a.b": text, "a": {"type": "object", "properties": {"b": text}, "required": ["b"]}}
    assert tags_of({"type": "object", "properties": dots}, [{"a.b": "x", "a": {"b": "y"}}], ["x y"]) is None
    assert tags_of({"type": "object", "properties": {"a[]": text}}, [{"a[]": "x"}], ["x y"]) is None
    none = {"type": "array", "items": text, "maxItems": 0}
    assert tags_of({"type": "object", "properties": {"a": none, "b": text}}, [{"a": [], "b": "x"}], ["x y"]) is None


def test_a_list_with_an_empty_item_is_not_copied_but_does_no_harm() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": ["number", "null"]}}}}
    fields = tags_of(schema, [{"a": [1]}, {"a": [2, 3]}] * 5 + [{"a": [None, 4]}], ["1 or 2 or 3 or 4"] * 11)
    assert (
        fields is not None and fields.places('{"a": [null, 4]}', "4") is None and fields.places('{"a": [4]}', "4") is not None
    )


def test_obstacles_name_the_parts_that_keep_an_output_from_being_read() -> None:
    texts = [f"pay {i}00 to firm {i} by May {i}" for i in range(1, 21)]
    rows = [{"sum": 100 * i, "firm": f"firm {i}", "by": f"2026-05-{i:02}"} for i in range(1, 21)]
    found = obstacles(infer_schema(rows), [json.dumps(row) for row in rows], texts)
    assert found == ["'by' may have many values, of which 0 of 20 stand in the text as they are written (not '2026-05-01')"]
    rows = [{"sum": 100 * i, "lines": [{"name": [f"n{i}"], "of": f"o{i}"}], "to": {"firm": f"firm {i}"}} for i in range(1, 20)]
    schema = infer_schema([*rows, {"sum": 7, "lines": []}])
    found = obstacles(schema, [json.dumps(row) for row in rows], texts[:-1])
    assert found == ["'lines' may have many values, and such a part is never copied"]
    found = obstacles(infer_schema([["a"], ["b"]]), ['["a"]', '["b"]'], ["an ape", "b"])
    assert found == ["the output may have many values, of which 1 of 2 stand in the text as they are written (not 'a')"]
    found = obstacles(infer_schema([["a"], ["b"]]), ['["a"]', '["b"]'], ["an A", "b"])
    assert found[0].endswith("of which 1 of 2 stand in the text as they are written (not 'a'; 1 in another letter case)")
    assert obstacles(SCHEMA, [json.dumps(one) for one in OUTPUTS], TEXTS) == []


TRIPS: list[dict[str, Any]] = [
    {"ask": "go", "to": {"city": "Rome", "by": "train", "via": {"stops": ["Bern", "Lyon"]}}},
    {"ask": "stay"},
    {"ask": "go", "to": {"city": "Oslo", "by": "bus"}},
    {"ask": "go", "to": {"city": "Bern", "by": "train", "via": {"stops": []}}},
]
TRIP_TEXTS = ["to Rome by train via Bern and Lyon", "stay here", "by bus to Oslo", "to Bern by train, direct"]
TRIP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ask": {"enum": ["go", "stay"]},
        "to": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "by": {"enum": ["bus", "train"]},
                "via": {
                    "type": "object",
                    "properties": {"stops": {"type": "array", "items": {"type": "string"}}},
                    "required": ["stops"],
                },
            },
            "required": ["city", "by"],
        },
    },
    "required": ["ask"],
}


@pytest.mark.parametrize("row", range(4))
def test_objects_with_copied_parts_may_be_absent(row: int) -> None:
    fields = tags_of(TRIP, TRIPS, TRIP_TEXTS)
    assert isinstance(fields, Tags) and [(one.path, one.blank) for one in fields.copied] == [
        ("to.city", "never"),
        ("to.via.stops[]", "empty"),
    ]
    assert fields.sizes == (3, 2, 2, 2, 2, 2), "parts, boundaries, ask, to, to.by, to.via"
    assert obstacles(TRIP, [json.dumps(one) for one in TRIPS], TRIP_TEXTS) == []
    (answer,) = fields.answers(certain(fields, TRIPS[row], TRIP_TEXTS[row]), [TRIP_TEXTS[row]])
    assert json.loads(answer) == TRIPS[row]


def test_an_absent_object_has_no_copied_value_and_one_with_a_copied_value_is_there() -> None:
    fields = tags_of(TRIP, TRIPS, TRIP_TEXTS)
    assert isinstance(fields, Tags)
    places = fields.places(json.dumps({"ask": "go"}), "to Paris by bus")
    assert places is not None
    table = np.full((5, len(fields.names)), np.log(0.1))
    np.put_along_axis(table, places, np.log(0.9), axis=1)
    there = fields.names.index('to="present"')
    judged = fields.judged(table, ["to Paris by bus"])
    assert json.loads(judged.outputs[0]) == {"ask": "go"}
    # A required part of an object that is there gets the likeliest word.
    present = table.copy()
    present[-1, there - 1 : there + 1] = np.log([0.1, 0.9])
    present[1, 1] = np.log(0.4)
    assert json.loads(fields.answers(present, ["to Paris by bus"])[0]) == {"ask": "go", "to": {"city": "Paris", "by": "bus"}}
    # The tags of a stop say that both objects are there.
    tagged = table.copy()
    tagged[1, :3] = np.log([0.01, 0.01, 0.98])
    found = fields.judged(tagged, ["to Paris by bus"])
    answer = json.loads(found.outputs[0])
    assert answer["to"]["via"] == {"stops": ["Paris"]} and Validator(TRIP)(answer) and answer["to"]["by"] == "bus"
    assert found.confidence is not None and judged.confidence is not None and found.confidence[0] < judged.confidence[0] / 9


def test_an_inferred_schema_with_objects_that_may_be_absent_is_read() -> None:
    kind, rows = KINDS["json"], []
    for i in range(60):
        who, ways = {"name": f"Ann {i}", "vip": i % 4 == 0}, ["email", "phone", ["email", "phone"]]
        rows.append(({"way": ways[i % 3], **({"guest": who} if i % 3 else {})}, f"{i % 7} for Ann {i}" if i % 3 else "nobody"))
    outputs, texts = [json.dumps(output) for output, _ in rows], [text for _, text in rows]
    schema = kind.schema_of(outputs, None, texts)
    fields = answer_fields(schema, kind.copied(schema, outputs, texts))
    assert isinstance(fields, Tags) and schema is not None
    for (output, text), written in zip(rows, outputs, strict=True):
        answer = fields.answers(certain(fields, output, text), [text])[0]
        assert kind.same(written, answer) and Validator(schema)(json.loads(answer))


def test_longest_values_are_placed_first_and_each_word_belongs_to_one() -> None:
    found, missing = found_in("at 2 for 2:30, 2 people", [["2"], ["2:30"], ["2 people", "2 people"]])
    assert found == [(0, 1, 1), (1, 3, 5), (2, 7, 8)] and missing == [[], [], ["2 people"]]


@given(st.lists(st.sampled_from(["a", "b", "c", ",", "d1"]), max_size=8), st.data())
def test_places_and_answers_are_inverse(words: list[str], data: st.DataObject) -> None:
    schema = {
        "type": "object",
        "properties": {name: {"type": "array", "items": {"type": "string"}} for name in ("p", "q")},
        "required": ["p", "q"],
    }
    copied = copied_fields(schema, [json.dumps({"p": ["x"], "q": ["y"]})], ["x y"])
    fields, text = answer_fields(schema, copied), " ".join(words)
    assert fields is not None
    output: dict[str, list[str]] = {"p": [], "q": []}
    place = 0
    while place < len(words):
        length, part = data.draw(st.integers(1, 2)), data.draw(st.sampled_from(["", "p", "q"]))
        if part:
            output[part].append(" ".join(words[place : place + length]))
        place += length
    (answer,) = fields.answers(certain(fields, output, text), [text])
    again = json.loads(answer)
    # A value that occurs twice is placed at its first place, so the order may differ.
    assert {name: sorted(values) for name, values in again.items()} == {name: sorted(v) for name, v in output.items()} or any(
        len(re.findall(f"(?={re.escape(value)})", text)) > 1 for values in output.values() for value in values
    )


def test_a_stored_output_with_copied_parts_is_read_back_and_a_damaged_one_is_refused() -> None:
    copied = copied_fields(SCHEMA, [json.dumps(one) for one in OUTPUTS], TEXTS)
    output = Output("json", schema_text=json.dumps(SCHEMA), copied=copied)
    record = json.loads(json.dumps(output.to_json()))
    assert Output.from_json(record) == output and isinstance(output.fields, Tags)
    for change in ({"type": "date"}, {"most": 0}, {"path": 3}, {"blank": "often"}, {"more": 1}, {"path": "ask.other"}):
        broken = {**record, "copied": [{**record["copied"][0], **change}, *record["copied"][1:]]}
        with pytest.raises(InputError, match="copied"):
            Output.from_json(broken)


def test_ratings_get_bounds_beside_copied_texts_but_numbers_of_the_text_are_copied() -> None:
    kind, rows = KINDS["json"], [{"to": city, "stars": i % 3} for i, city in enumerate(["Rome", "Oslo", "Bern"] * 20)]
    outputs = [json.dumps(row) for row in rows]
    texts = [f"go to {row['to']}" for row in rows]
    names = [json.dumps({"to": f"n{i}", "stars": i % 3}) for i in range(60)]
    schema = kind.schema_of(names, None, [f"go to n{i}" for i in range(60)])
    assert schema is not None and schema["properties"]["stars"]["maximum"] == 2
    schema = kind.schema_of(names, None, [f"go to n{i} with {i % 3}" for i in range(60)])
    assert schema is not None and "maximum" not in schema["properties"]["stars"]
    # Three cities are an enumeration, so that all is closed.
    schema = kind.schema_of(outputs, None, texts)
    assert kind.copied(schema, outputs, texts) == ()


def test_texts_that_recur_are_copied_if_they_stand_in_their_texts() -> None:
    kind, cities = KINDS["json"], ["Rome", "Oslo", "Bern", "New York", "Lyon", "Graz"]
    rows: list[dict[str, Any]] = [
        {"to": cities[i % 6], "way": ["there", "back"][i % 2], "stops": [f"Stop{i % 5}"][: i % 2]} for i in range(60)
    ]
    outputs = [json.dumps(row) for row in rows]
    texts = [f"go {row['way']} to {row['to']} by {' '.join(row['stops'])}" for row in rows]
    schema = kind.schema_of(outputs, None, texts)
    assert schema is not None and "enum" not in schema["properties"]["to"] and "enum" in schema["properties"]["way"], "two ways"
    fields = answer_fields(schema, kind.copied(schema, outputs, texts))
    assert isinstance(fields, Tags) and [one.path for one in fields.copied] == ["to", "stops[]"]
    new = {"to": "Porto", "way": "back", "stops": []}
    assert json.loads(fields.answers(certain(fields, new, "go back to Porto"), ["go back to Porto"])[0]) == new
    # Where they do not stand in the text, they are a choice.
    elsewhere = kind.schema_of(outputs, None, ["somewhere"] * 60)
    assert elsewhere == kind.schema_of(outputs, None) and "enum" in elsewhere["properties"]["to"]  # type: ignore[index]
    given = {"type": "object", "properties": {"to": {"enum": cities}}}
    assert kind.schema_of(outputs, given, texts) is given, "a schema of the user stays"


def test_a_part_with_one_value_or_a_list_of_them_is_copied_although_single_values_recur() -> None:
    """One row in forty with a list must not keep the part from being copied."""
    words = ["album", "song", "track", "tune", "record"]
    texts = [f"play the {words[i % 5]} number {i}" for i in range(39)] + ["play the album and the song"]
    outputs = [json.dumps({"what": words[i % 5]}) for i in range(39)] + [json.dumps({"what": ["album", "song"]})]
    schema = KINDS["json"].schema_of(outputs, None, texts)
    assert "enum" not in json.dumps(schema)
    (field,) = copied_fields(schema, outputs, texts)
    assert (field.path, field.many) == ("what", False) and field.most > 1
    tags = answer_fields(schema, [field])
    assert tags is not None
    for output, text in zip(outputs, texts, strict=True):
        (answer,) = tags.answers(certain(tags, json.loads(output), text), [text])
        assert json.loads(answer) == json.loads(output)


def test_numbers_that_recur_are_copied_where_they_stand_in_the_text() -> None:
    texts = [f"{10 * (i % 12)} points, mood {'xyz'[i % 3]} and kind {chr(65 + i % 20)}" for i in range(120)]
    outputs = [json.dumps({"points": 10 * (i % 12), "kind": f"k{i % 40}"}) for i in range(120)]
    kind = KINDS["json"]
    schema = kind.schema_of(outputs, None, texts)
    assert not kind.copied(schema, outputs, texts), "the kinds are too many to be an enumeration, and do not stand in the text"
    read = kind.read_schema(schema, outputs, texts)
    assert read is not None and [one.path for one in kind.copied(read, outputs, texts)] == ["points"]
