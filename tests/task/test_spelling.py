"""Spellings of copied values: where values stand in other letter case, and how copies are written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from certain_tags import found_in, read_back
from hypothesis import example, given
from hypothesis import strategies as st

from cotune.config.task import Task
from cotune.errors import InputError
from cotune.task.assemble import Source, assemble
from cotune.task.known import Known
from cotune.task.reading.table import Table
from cotune.task.values.copied import copied_fields, obstacles, values_in_texts
from cotune.task.values.kinds.registry import KINDS
from cotune.task.values.number import parse_number
from cotune.task.values.output import Output
from cotune.task.values.output_fields import CopiedField, Spelling
from cotune.task.values.spelling import SPELLINGS, gives, learnt_spelling, places_alike, spelled
from cotune.task.values.tags import Tags, answer_fields
from cotune.task.words import words_of

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "array", "items": {"type": "string"}} for name in ("p", "q")},
    "required": ["p", "q"],
}
TEXT = st.text(st.sampled_from("abİßéÉǆA1 \t\n.,-'你\u0301"), max_size=30)


def tags(*spellings: Spelling) -> Tags:
    parts = [CopiedField(f"{name}[]", "string", "empty", 99) for name in ("p", "q")]
    fields = answer_fields(SCHEMA, [replace(one, spelling=how) for one, how in zip(parts, spellings, strict=True)])
    assert isinstance(fields, Tags)
    return fields


def spans(data: st.DataObject, text: str) -> list[tuple[int, str]]:
    """Some runs of words that do not overlap, each of one of two parts."""
    words, place, found = words_of(text), 0, []
    while place < len(words):
        length, part = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([-1, 0, 1]))
        if part >= 0:
            found.append((part, text[words[place][0] : words[min(place + length, len(words)) - 1][1]]))
        place += length
    return found


def once(text: str, values: list[str]) -> bool:
    """Whether each value stands at one place only, so that it is clear which words are meant."""
    places = [set(places_alike(text, value)) for value in values]
    return all(len(own) == 1 for own in places)


@given(TEXT, st.data())
def test_what_is_placed_is_read_back_in_each_spelling(text: str, data: st.DataObject) -> None:
    how: list[Spelling] = [data.draw(st.sampled_from(list(SPELLINGS))) for _ in range(2)]
    fields, output = tags(*how), {"p": [], "q": []}
    copies = spans(data, text)
    for part, copy in copies:
        output["pq"[part]].append(spelled(copy, how[part]))
    missing = found_in(text, list(output.values()))[1]
    again = read_back(fields, output, text)
    if not any(missing) and once(text, [value for own in output.values() for value in own]):
        assert again == {name: list(values) for name, values in output.items()}
    for name, values in again.items():
        assert all(any(gives(how["pq".index(name)], copy, value) for copy in copies_of(text)) for value in values)


def copies_of(text: str) -> list[str]:
    words = words_of(text)
    return [text[words[i][0] : words[j][1]] for i in range(len(words)) for j in range(i, len(words))]


@given(TEXT, st.data())
def test_other_values_never_move_one_that_stands_there_as_it_is_written(text: str, data: st.DataObject) -> None:
    exact: list[list[str]] = [[], []]
    for part, copy in spans(data, text):
        exact[part].append(copy)
    alone = found_in(text, exact)
    more = [[*own, *(value for value in data.draw(st.lists(TEXT, max_size=3)) if value.strip() not in text)] for own in exact]
    together = found_in(text, more)
    assert set(alone[0]) <= set(together[0])
    fields = tags("same", "same")
    if once(text, [value for own in exact for value in own]):
        assert read_back(fields, {"p": exact[0], "q": exact[1]}, text) == {"p": exact[0], "q": exact[1]}


@given(TEXT, TEXT)
@example("1", "1.")
def test_places_are_those_of_equal_words_or_of_an_equal_number(text: str, value: str) -> None:
    words, number = words_of(text), parse_number(value)
    wanted = value.casefold().split()
    for first, last in places_alike(text, value):
        place = text[words[first][0] : words[last][1]]
        assert place.casefold().split() == wanted or (number is not None and parse_number(place) == number)
    if (text + value).isascii():
        found = {
            (i, j)
            for i in range(len(words))
            for j in range(i, len(words))
            if text[words[i][0] : words[j][1]].lower().split() == value.lower().split()
        }
        assert found <= set(places_alike(text, value))


@given(TEXT)
def test_texts_stay_as_they_stand_unless_another_spelling_is_learnt(text: str) -> None:
    assert spelled(text, "same") == text and learnt_spelling([(text, text)] * 9) == "same"


@pytest.mark.parametrize(
    ("text", "value", "place"),
    [
        ("off to NEW\n  york, now", "New York", (2, 3)),
        ("in der STRASSE", "Straße", (2, 2)),
        ("pay $1,200 now", "1200", (2, 4)),
        ("pay 1200.00 now", "1,200", (1, 3)),
        ("newyork", "New York", None),
        ("a. b", "A.B", None),
        ("yorks", "York", None),
        ("rome", " ", None),
    ],
)
def test_values_stand_in_another_letter_case(text: str, value: str, place: tuple[int, int] | None) -> None:
    found, missing = found_in(text, [[value]])
    assert found == ([] if place is None else [(0, *place)]) and missing == [[value] if place is None else []]


def test_a_longer_value_in_another_letter_case_yields_to_one_as_it_is_written() -> None:
    assert found_in("the may day", [["May Day"], ["day"], ["May"]]) == ([(2, 1, 1), (1, 2, 2)], [["May Day"], [], []])


@pytest.mark.parametrize(
    ("copies", "spelling"),
    [
        ([("rome", "Rome"), ("new york", "New York")], "title"),
        ([("blue dress", "Blue dress"), ("hat", "Hat")], "capitalised"),
        ([("Rome", "rome"), ("Oslo", "oslo")], "lower"),
        ([("usd", "USD"), ("eur", "EUR")], "upper"),
        ([("1,200", "1200"), ("3,000.50", "3000.5")], "number"),
        ([("Rome", "rome")], "same"),
        ([("Rome", "rome"), ("Oslo", "oslo"), ("Bern", "Bern")], "same"),
        ([("Rome", "rome")] * 5 + [("Bern", "Bern")], "lower"),
        ([("rome", "RoMe")] * 9, "same"),
        ([("new york", "New  York")] * 2, "title"),
    ],
)
def test_the_spelling_that_gives_clearly_more_values_is_learnt(copies: list[tuple[str, str]], spelling: Spelling) -> None:
    assert learnt_spelling(copies) == spelling
    assert learnt_spelling(copies, spelling) == spelling


def test_an_earlier_bundles_spelling_stays_unless_another_is_clearly_better() -> None:
    assert learnt_spelling([("3 pm", "3 PM")], "title") == "title"
    assert learnt_spelling([], "upper") == "upper"
    assert learnt_spelling([("Rome", "Rome")] * 3 + [("Oslo", "oslo")], "upper") == "same"


def test_parts_with_few_values_follow_the_others() -> None:
    names = ("many", "one", "other", "none", "code")
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    rows = [({"many": f"Big Item {i}"}, f"the big item {i}") for i in range(9)]
    rows += [
        ({"one": "New York"}, "to New York"),
        ({"other": "AC"}, "an AC"),
        ({"code": "x1"}, "the x1"),
        ({"code": "y1"}, "y1"),
    ]
    outputs, texts = [json.dumps(output) for output, _ in rows], [text for _, text in rows]
    found = {path: one.spelling for path, one in values_in_texts(schema, outputs, texts).items()}
    assert found == {"many": "title", "one": "title", "other": "same", "none": "title", "code": "same"}
    found = {path: one.spelling for path, one in values_in_texts(schema, outputs, texts, {"one": "upper"}).items()}
    assert found["one"] == "upper" and found["many"] == "title"


def shop_rows(count: int = 60) -> list[dict[str, Any]]:
    cities, colours = ("Rome", "New York", "Bern", "Los Angeles", "Oslo"), ("BLUE", "red", "Green")
    return [
        {
            "text": f"a {colours[i % 3]} bag {i} to {cities[i % 5].lower()} for ${1000 + 57 * i:,}",
            "answer": {"item": f"{colours[i % 3].lower()} bag {i}", "city": cities[i % 5], "price": str(1000 + 57 * i)},
        }
        for i in range(count)
    ]


def test_a_task_learns_spellings_and_its_stored_output_keeps_them() -> None:
    task = Task.from_rows(shop_rows(), input="text", output="answer")
    assert {one.path: one.spelling for one in task.output.copied} == {"item": "lower", "city": "title", "price": "number"}
    stored = Output.from_json(json.loads(json.dumps(task.output.to_json())))
    assert stored == task.output
    fields = stored.fields
    assert isinstance(fields, Tags)
    text, output = "A red BAG 1 to los angeles for $12,345", {"item": "a red bag 1", "city": "Los Angeles", "price": "12345"}
    assert read_back(fields, output, text) == output
    places = fields.places(json.dumps(output), text)
    assert places is not None
    logs = np.full((len(places), len(fields.names)), -1e4)
    np.put_along_axis(logs, places, 0.0, axis=1)
    judged = fields.judged(logs, [text])
    assert json.loads(judged.outputs[0]) == output and judged.confidence is not None and judged.confidence[0] > 0.99


def test_enumerations_in_another_letter_case_are_opened_and_copied() -> None:
    rows = shop_rows()
    outputs, texts = [json.dumps({"city": row["answer"]["city"]}) for row in rows], [row["text"] for row in rows]
    kind = KINDS["json"]
    schema = kind.schema_of(outputs, None, texts)
    assert schema is not None and "enum" not in schema["properties"]["city"]
    (field,) = kind.copied(schema, outputs, texts)
    assert field.spelling == "title"


def test_a_stored_output_without_spellings_is_read_and_written_unchanged() -> None:
    record = {
        "type": "json",
        "schema": SCHEMA,
        "copied": [{"path": f"{name}[]", "type": "string", "blank": "empty", "most": 99, "given": []} for name in ("p", "q")],
    }
    found = Output.from_json(record)
    assert [one.spelling for one in found.copied] == ["same", "same"]
    assert json.loads(json.dumps(found.to_json())) == record


@pytest.mark.parametrize("spelling", ["SHOUTED", 3, None, [], {}])
def test_an_unknown_spelling_is_refused(spelling: Any) -> None:
    record = Output("json", schema_text=json.dumps(SCHEMA), copied=tags("lower", "same").copied).to_json()
    assert Output.from_json(record).copied[0].spelling == "lower"
    with pytest.raises(InputError, match="copied"):
        Output.from_json({**record, "copied": [{**record["copied"][0], "spelling": spelling}, record["copied"][1]]})


def test_a_number_has_no_spelling() -> None:
    record = Output("json", schema_text=json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}}),
                    copied=(CopiedField("n", "integer", "absent"),)).to_json()  # fmt: skip
    assert Output.from_json(record).fields is not None
    with pytest.raises(InputError, match="copied"):
        Output.from_json({**record, "copied": [{**record["copied"][0], "spelling": "number"}]})


def test_values_in_no_one_letter_case_are_counted_as_such() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    outputs = [json.dumps({"a": name}) for name in ("NASA", "Rome", "iPhone", "x")]
    texts = ["to nasa", "to rome", "an iphone", "y"]
    standing = values_in_texts(schema, outputs, texts)["a"]
    assert (standing.values, standing.found, standing.cased, standing.missing) == (4, 0, 3, "x")
    assert copied_fields(schema, outputs, texts) == ()
    (why,) = obstacles(schema, outputs, texts)
    assert "0 of 4 stand in the text as they are written (not 'x'; 3 in another letter case)" in why


def test_a_warm_start_keeps_the_bundles_spellings_where_new_rows_do_not_say_otherwise() -> None:
    earlier = Task.from_rows(shop_rows(), input="text", output="answer").output
    rows = shop_rows(20)
    for row in rows:
        row["text"] = row["text"].replace(row["answer"]["city"].lower(), row["answer"]["city"])
    rows[0]["text"] = rows[0]["text"].lower()

    def spelling(known: Known | None) -> str:
        cells = [{"text": row["text"], "answer": json.dumps(row["answer"])} for row in rows]
        table = Table(("text", "answer"), tuple(cells), "rows", range(1, 21))
        parts = assemble(Source(table, None, None, ("text",), "answer", known=known), None)
        return next(one.spelling for one in parts.output.copied if one.path == "city")

    assert spelling(None) == "same" and spelling(Known(earlier, [])) == "title"
