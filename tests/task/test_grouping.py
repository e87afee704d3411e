"""Lists of objects with several copied values: where these stand, how they are grouped, and when they are not copied."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from certain_tags import certain, found_in, read_back
from hypothesis import given
from hypothesis import strategies as st

from cotune.config.task import Task
from cotune.errors import InputError
from cotune.task.values.copied import copied_fields, obstacles
from cotune.task.values.grouping import LINE_BREAK, RULES, Grouping, Rule, Spot, grouped, marked_words, words_between
from cotune.task.values.kinds.registry import KINDS
from cotune.task.values.learnt_grouping import GroupedRow, learnt_grouping
from cotune.task.values.output import Output
from cotune.task.values.output_fields import CopiedField
from cotune.task.values.placing import Owner
from cotune.task.values.schema import Validator, infer_schema
from cotune.task.values.tags import Tags, answer_fields
from cotune.task.words import words_of

TEXT = {"type": "string"}
NAMES = ("a", "b", "c")
Rows = list[tuple[Any, str]]


def list_of(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    items = {"type": "object", "properties": properties, "required": [*required]}
    return {"type": "object", "properties": {"items": {"type": "array", "items": items}}, "required": ["items"]}


TWO = list_of({"name": TEXT, "amount": TEXT}, "name")


def tags_of(schema: Any, rows: Rows) -> Tags | None:
    fields = answer_fields(schema, copied_fields(schema, [json.dumps(value) for value, _ in rows], [text for _, text in rows]))
    assert fields is None or isinstance(fields, Tags)
    return fields if fields is not None and fields.copied else None


def grouping_of(fields: Tags) -> Grouping:
    (found,) = {one.grouping for one in fields.copied if one.grouping is not None}
    assert found is not None
    return found


def groupings() -> st.SearchStrategy[Grouping]:
    words = st.lists(st.sampled_from(["x", "y", LINE_BREAK]), max_size=2, unique=True).map(tuple)

    def by(rule: Rule) -> st.SearchStrategy[tuple[str, ...]]:
        if rule == "order":
            return st.permutations(NAMES).map(tuple)
        return st.just(()) if rule == "repeat" else st.sampled_from(NAMES).map(lambda name: (name,))

    def of(rule: Rule) -> st.SearchStrategy[Grouping]:
        shared = st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple)
        blanks = st.sampled_from(["absent", "null", "empty"])
        return st.builds(
            Grouping, st.just(rule), by(rule), words, shared, st.sampled_from(["behind", "before"]), words, blanks  # type: ignore[arg-type]
        )  # fmt: skip

    return st.sampled_from(list(RULES)).flatmap(of)


@given(groupings(), st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 2), st.integers(0, 2)), max_size=9), st.data())
def test_every_value_is_in_an_object_and_no_object_has_two_of_a_property(
    how: Grouping, parts: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    spots, place = [], 0
    for name, length, gap in parts:
        spots.append(Spot(place + gap, place + gap + length - 1, name))
        place += gap + length
    words = [data.draw(st.sampled_from(["x", "y", "z", f"{LINE_BREAK}z"])) for _ in range(place)]
    alone, objects = grouped(spots, words, replace(how, shared=())), grouped(spots, words, how)
    assert sorted(number for own in alone for number in own) == list(range(len(spots)))
    for own in objects:
        names = [spots[number].name for number in own]
        assert len(set(names)) == len(names) and own == sorted(own)
    for before, after in zip(alone, objects, strict=True):
        assert set(before) <= set(after) and {spots[number].name for number in set(after) - set(before)} <= set(how.shared)
    # The right grouping makes the objects that it was learnt from.
    owners = [frozenset(i for i, own in enumerate(alone) if number in own) for number in range(len(spots))]
    row = GroupedRow(tuple(spots), tuple(map(str, range(len(spots)))), tuple(owners), tuple(words), len(alone))
    assert row.made(replace(how, shared=())) == row.objects
    assert Grouping.from_json(json.loads(json.dumps(how.__dict__))) == how and how.text


@given(st.text(st.sampled_from("aB \n,."), max_size=20))
def test_marked_words_are_those_of_the_text(text: str) -> None:
    words = marked_words(text)
    assert [word.removeprefix(LINE_BREAK) for word in words] == [text[start:end].lower() for start, end in words_of(text)]
    if len(words) > 1:
        inside = words_between(words, 0, len(words) - 1)
        (_, first), (last, _) = words_of(text)[0], words_of(text)[-1]
        assert (LINE_BREAK in inside) == (LINE_BREAK in text[first:last])
        assert [word for word in inside if word != LINE_BREAK] == [word.removeprefix(LINE_BREAK) for word in words[1:-1]]


Layout = Callable[[list[dict[str, Any]]], str]


def some(one: dict[str, Any], form: str) -> str:
    """A form of an object with or without its amount."""
    return form.format(**one) if "amount" in one else str(one["name"])


LAYOUTS: dict[str, Layout] = {
    "behind the name": lambda objects: " and ".join(some(one, "{name} {amount}") for one in objects),
    "before the name": lambda objects: "take " + " ".join(some(one, "{amount} of {name}") for one in objects),
    "on either side": lambda objects: ", ".join(
        some(one, "{amount} of {name}" if i % 2 else "{name} ({amount})") for i, one in enumerate(objects)
    ),
    "a line each": lambda objects: "\n".join(
        some(one, "{name}: {amount}" if len(one.get("amount", "")) % 2 else "{amount} {name}") for one in objects
    ),
}


@given(
    st.sampled_from(sorted(LAYOUTS)),
    st.lists(
        st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["", "2", "10", "2 kg", "a few"])), min_size=1, max_size=4),
        min_size=8,
        max_size=12,
    ),
)
def test_objects_that_are_written_in_one_way_are_learnt_and_read_back(name: str, lists: list[list[tuple[int, str]]]) -> None:
    rows: Rows = []
    # Enough rows for every layout to be seen.
    for own in [*lists, *([[(1, "2"), (2, ""), (3, "2 kg"), (4, "10"), (5, "10")], [(6, ""), (7, "2")]] * 4)]:
        objects = [{"name": f"n{number}x", **({"amount": amount} if amount else {})} for number, amount in dict(own).items()]
        rows.append(({"items": objects}, LAYOUTS[name](objects)))
    fields = tags_of(TWO, rows)
    assert fields is not None, "a rule groups nearly all rows"
    right = [read_back(fields, value, text) == value for value, text in rows]
    assert sum(right) >= 0.9 * len(right)
    if name == "behind the name":
        assert all(right)
    stored = Output("json", schema_text=json.dumps(TWO), copied=fields.copied)
    assert Output.from_json(json.loads(json.dumps(stored.to_json()))) == stored


def recipes(count: int = 30) -> Rows:
    rows: Rows = []
    for i in range(count):
        objects = [{"name": f"thing{i}", "amount": f"{i % 4} g"}, {"name": f"other{i}"}, {"name": f"more{i}", "amount": "2 kg"}]
        parts = [f"{one['amount']} {one['name']}" if "amount" in one else one["name"] for one in objects]
        rows.append(({"items": objects[: 1 + i % 3]}, "for this: " + ", ".join(parts[: 1 + i % 3])))
    return rows


def test_a_value_belongs_to_the_name_behind_it_though_one_without_any_stands_before() -> None:
    fields = tags_of(TWO, recipes())
    assert fields is not None
    assert [(one.path, one.blank) for one in fields.copied] == [("items[].name", "never"), ("items[].amount", "absent")]
    assert fields.sizes == (3, 2) and fields.names[1:3] == ("in items[].name", "in items[].amount")
    value = {"items": [{"name": "salt"}, {"name": "eggs", "amount": "3"}, {"name": "oil"}, {"name": "flour", "amount": "3"}]}
    text = "salt, 3 eggs, oil, 3 flour"
    assert read_back(fields, value, text) == value
    judged = fields.judged(certain(fields, value, text) * 99, [text])
    assert json.loads(judged.outputs[0]) == value and judged.confidence is not None and judged.confidence[0] > 0.99
    assert fields.shown == ("items[].name", "items[].amount")


def test_an_object_without_a_value_that_all_have_gets_the_likeliest_word_near_or_is_left_out() -> None:
    fields = tags_of(TWO, recipes())
    assert fields is not None
    text = "2 kg beet, 3 g fine leeks, 4 g"
    value = {"items": [{"name": "beet", "amount": "2 kg"}, {"name": "leeks", "amount": "3 g"}]}
    table = certain(fields, value, text)
    place = [text[start:end] for start, end in words_of(text)].index("leeks")
    table[place, :3] = [-0.1, -1, -9]
    *_, comma = (i for i, (start, end) in enumerate(words_of(text)) if text[start:end] == ",")
    assert json.loads(fields.answers(table, [text])[0]) == value
    table[place, 1] = -2
    assert json.loads(fields.answers(table, [text])[0])["items"] == value["items"][:1], "no word is likely enough"
    table[place, 1] = -1
    # The third object has an amount and no name.
    table[len(words_of(text)) - 2 : -1, [0, 2]] = [[-9, -0.1]] * 2
    table[-2, 3:5] = [-9, -0.1]
    assert json.loads(fields.answers(table, [text])[0]) == value
    table[comma, :2] = [-0.6, -1.6]
    found = json.loads(fields.answers(table, [text])[0])["items"]
    assert found[:2] == value["items"] and found[2] == {"name": ",", "amount": "4 g"}, "what stands between the objects"
    strict = tags_of(list_of({"name": {**TEXT, "minLength": 2}, "amount": TEXT}, "name"), recipes())
    assert strict is not None
    spans = strict.judged(table, [text])
    assert json.loads(spans.outputs[0]) == value, "no word fits"
    # Its amount is not among what the answer copies.
    assert spans.shares[0, 1] < 0.5


def people(count: int = 40) -> Rows:
    rows: Rows = []
    for i in range(count):
        a, b, c = (f"{name}{i}" for name in ("Ann", "Bo", "Cy"))
        city, other = ("Oslo", "New York", "Bern", "Rome", "Graz")[i % 5], f"Town{i}"
        role = "guest" if i % 2 else "host"
        who = [
            {"person": a, "city": city, "role": role},
            {"person": b, "city": city, "role": role},
            {"person": c, "city": other, "role": "guest"},
        ]
        text = f"{a} and {b} from {city} are {role}s. From {other} comes {c}."
        rows.append((who[2:], f"From {other} comes {c}.") if i % 4 == 3 else (who, text))
    return rows


def test_closed_values_and_a_shared_city_beside_the_name() -> None:
    rows, kind = people(), KINDS["json"]
    outputs, texts = [json.dumps(value) for value, _ in rows], [text for _, text in rows]
    schema = kind.schema_of(outputs, None, texts)
    fields = answer_fields(schema, kind.copied(schema, outputs, texts))
    assert isinstance(fields, Tags) and grouping_of(fields).shared == ("city",) and grouping_of(fields).side == "behind"
    assert [one.name for one in fields.copied] == [
        '[].person with role="guest"',
        '[].person with role="host"',
        "[].city",
    ]
    for value, text in rows:
        assert read_back(fields, value, text) == value
    new = [{"person": "Zoe", "city": "Lyon", "role": "host"}, {"person": "Uma", "city": "Lyon", "role": "guest"}]
    assert read_back(fields, new, "Zoe and Uma from Lyon are here.") == new
    assert fields.places(json.dumps([{"person": "Zoe", "city": "Lyon", "role": "cook"}]), "Zoe Lyon") is None


def test_closed_values_beside_several_copied_ones_may_be_absent() -> None:
    rows: Rows = []
    for i in range(48):
        people = [{"name": f"A{i}", "city": f"C{i}", "role": "host"}, {"name": f"B{i}", "city": f"D{i}"}]
        people = [*people, {"name": f"E{i}", "role": "guest"}][: 1 + i % 3]
        text = "; ".join([f"host A{i} of C{i}", f"B{i} of D{i}", f"guest E{i}"][: 1 + i % 3])
        rows.append(({"items": people}, text))
    schema = list_of({"name": TEXT, "city": TEXT, "role": {"enum": ["host", "guest"]}}, "name")
    fields = tags_of(schema, rows)
    assert fields is not None
    assert [one.name for one in fields.copied] == [
        'items[].name with role="host"',
        'items[].name with role="guest"',
        "items[].name with role=absent",
        "items[].city",
    ]
    for value, text in rows:
        assert read_back(fields, value, text) == value


@pytest.mark.parametrize(("side", "text"), [("behind", "Tara is here. Ann and Bo: Oslo"), ("before", "Oslo: Ann and Bo. Tara")])
def test_nothing_is_shared_across_a_wall(side: Any, text: str) -> None:
    words = marked_words(text)
    names = {"oslo": "city", "tara": "name", "ann": "name", "bo": "name"}
    spots = [Spot(place, place, names[word]) for place, word in enumerate(words) if word in names]
    shared = Grouping("repeat", shared=("city",), side=side, walls=(".",))

    def cities(how: Grouping) -> dict[str, bool]:
        found = [{words[spots[number].first] for number in own} for own in grouped(spots, words, how)]
        return {name: any({name, "oslo"} <= own for own in found) for name in ("tara", "ann", "bo")}

    assert cities(shared) == {"tara": False, "ann": True, "bo": True}
    assert cities(replace(shared, walls=())) == {"tara": True, "ann": True, "bo": True}
    # A city behind its people is not one before them.
    assert list(cities(replace(shared, side="before" if side == "behind" else "behind")).values()).count(True) == 1


def test_a_run_learns_words_that_part_people_who_share_a_city_from_those_who_do_not() -> None:
    rows: Rows = []
    for i in range(24):
        alone, pair = {"name": f"T{i}"}, [{"name": f"A{i}", "city": f"C{i}"}, {"name": f"B{i}", "city": f"C{i}"}]
        rows.append(({"items": [alone, *pair]}, f"T{i} is here. A{i} and B{i} of C{i}"))
        rows.append(({"items": [*pair, alone]}, f"A{i} and B{i} of C{i}. T{i} is here"))
    fields = tags_of(list_of({"name": TEXT, "city": TEXT}, "name"), rows)
    assert fields is not None and (grouping_of(fields).shared, grouping_of(fields).walls) == (("city",), (".",))
    assert all(read_back(fields, value, text) == value for value, text in rows)


def test_texts_that_recur_in_objects_are_copied_only_where_they_could_not_be_read_as_closed() -> None:
    kind, cities = KINDS["json"], ["Rome", "Oslo", "Bern", "New York", "Lyon", "Graz"]
    rows = [([{"name": f"Ann{i}", "city": cities[i % 6]}], f"Ann{i} of {cities[i % 6]}") for i in range(60)]
    outputs, texts = [json.dumps(value) for value, _ in rows], [text for _, text in rows]
    schema = kind.schema_of(outputs, None, texts)
    found = kind.copied(schema, outputs, texts)
    assert len(found) == 6 and {one.grouping for one in found} == {None}, "one text and a closed city, as ever"
    more = [
        ([{**one, "to": f"To{i % 24}"} for one in value], f"{text} to To{i % 24}") for i, (value, text) in enumerate(rows * 3)
    ]
    outputs, texts = [json.dumps(value) for value, _ in more], [text for _, text in more]
    schema = kind.schema_of(outputs, None, texts)
    found = kind.copied(schema, outputs, texts)
    assert [one.path for one in found] == ["[].name", "[].city", "[].to"], "6 times 24 combinations are too many"


def test_lists_with_one_text_have_the_same_record_and_answers_as_before() -> None:
    schema = list_of({"name": TEXT, "role": {"enum": ["host", "guest"]}}, "name", "role")
    rows: Rows = [
        ({"items": [{"name": f"B{i}", "role": "host"}, {"name": f"A{i}", "role": "guest"}]}, f"A{i} B{i}") for i in range(9)
    ]
    fields = tags_of(schema, rows)
    assert fields is not None
    record = {"path": "items[].name", "type": "string", "blank": "empty", "most": 512}
    wanted = [{**record, "given": [["role", role]]} for role in ("host", "guest")]
    assert json.loads(json.dumps([one.to_json() for one in fields.copied])) == wanted
    assert read_back(fields, *rows[3]) == {"items": rows[3][0]["items"][::-1]}, "in the order of the text"
    assert fields.places(json.dumps({"items": [{"name": "A"}]}), "A") is None


def test_a_list_of_objects_may_be_null_or_absent() -> None:
    properties = {
        "name": TEXT,
        "of": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]},
        "n": {"type": "integer"},
    }
    items = {"type": "object", "properties": properties, "required": ["name", "of"]}
    listed = {"anyOf": [{"type": "array", "items": items}, {"type": "null"}]}
    for required, nothing in ((["items"], {"items": None}), ([], {})):
        schema = {"type": "object", "properties": {"items": listed}, "required": required}
        rows: Rows = [({"items": [{"name": f"A{i}", "of": f"B{i}" if i % 3 else None, **({"n": i} if i % 2 else {})}]},
                       f"A{i} {f'in B{i}' if i % 3 else ''} {i if i % 2 else ''}") for i in range(20)]  # fmt: skip
        rows += [(nothing, "none")] * 3
        fields = tags_of(schema, rows)
        assert fields is not None and [one.blank for one in fields.copied] == ["never", "null", "absent"]
        for value, text in rows:
            assert read_back(fields, value, text) == value and Validator(schema)(value)
    one = {
        "anyOf": [{"type": "array", "items": {**items, "properties": {"name": TEXT}, "required": ["name"]}}, {"type": "null"}]
    }
    schema = {"type": "object", "properties": {"items": one}, "required": ["items"]}
    fields = tags_of(schema, [({"items": None}, "x"), ({"items": [{"name": "A"}]}, "A")])
    assert fields is not None and read_back(fields, {"items": None}, "B") == {"items": None}


def test_objects_that_no_rule_groups_are_generated_and_the_run_says_so() -> None:
    rng = np.random.default_rng(0)
    rows: Rows = []
    for i in range(40):
        amounts = [f"{n} g" for n in rng.permutation(range(1, 5))]
        objects = [{"name": f"n{i}{letter}", "amount": amounts[k]} for k, letter in enumerate("abcd")]
        rows.append(({"items": objects}, " ".join(one["name"] for one in objects) + ": 1 g 2 g 3 g 4 g"))
    outputs, texts = [json.dumps(value) for value, _ in rows], [text for _, text in rows]
    assert copied_fields(TWO, outputs, texts) == ()
    (why,) = obstacles(TWO, outputs, texts)
    assert why.startswith("no rule groups the values of 'items' into the labelled objects: the best is right in")
    assert why.endswith("of 40 rows")
    assert obstacles(TWO, [json.dumps(value) for value, _ in recipes()], [text for _, text in recipes()]) == []


def test_of_rules_that_are_right_the_one_is_chosen_that_a_missed_value_harms_least() -> None:
    rows: Rows = []
    for i in range(24):
        objects = [{"name": f"n{i}x{k}", **({"amount": f"{k} g"} if (i + k) % 3 else {})} for k in range(3)]
        rows.append(({"items": objects}, LAYOUTS["on either side"](objects)))
    fields = tags_of(TWO, rows)
    assert fields is not None and grouping_of(fields).separators == (",",)
    # The nearest name makes all rows' objects too.
    text, words = "salt, 3 g zzz, pepper (2 g)", marked_words("salt, 3 g zzz, pepper (2 g)")
    spots = [Spot(0, 0, "name"), Spot(2, 3, "amount"), Spot(6, 6, "name"), Spot(8, 9, "amount")]
    nearest = Grouping("nearest", ("name",), (",",))
    assert all(read_back(with_grouping(fields, nearest), value, text) == value for value, text in rows)
    assert grouped(spots, words, nearest) == [[0, 1], [2, 3]]
    assert grouped(spots, words, grouping_of(fields)) == [[0], [1], [2, 3]]
    value = {"items": [{"name": "salt"}, {"name": "zzz", "amount": "3 g"}, {"name": "pepper", "amount": "2 g"}]}
    assert read_back(fields, value, text) == value


def with_grouping(fields: Tags, how: Grouping) -> Tags:
    found = answer_fields(TWO, [replace(one, grouping=how) for one in fields.copied])
    assert isinstance(found, Tags)
    return found


def test_few_rows_may_not_choose_a_rule_that_only_they_follow() -> None:
    """Rows are counted by the rule that the others choose."""
    owners = (frozenset([0]), frozenset([1]), frozenset([1]))
    rows = [
        GroupedRow((Spot(0, 0, x), Spot(1, 1, y), Spot(2, 2, x)), ("1", "2", "3"), owners, ("u", "v", "w"), 2)
        for x, y in ("ab", "ba")
    ]
    how, right = learnt_grouping(tuple(rows), ("a", "b"))
    assert sum(row.made(how) == row.objects for row in rows) == 1 and right == 0


@pytest.mark.parametrize(
    "part",
    [
        {"name": TEXT, "tags": {"type": "array", "items": TEXT}},
        {"name": TEXT, "size": {"type": "object", "properties": {"w": TEXT}}},
        {"name": TEXT, "of": TEXT, "role": {"enum": [f"k{i}" for i in range(64)]}},
        {"name": TEXT, "of[]": TEXT},
        {"name": TEXT, "of": {"type": ["string", "integer"]}},
        {"name": TEXT, "of": TEXT, "kind": {"enum": [f"k{i}" for i in range(65)]}},
    ],
)
def test_other_objects_are_not_copied(part: dict[str, Any]) -> None:
    rows: Rows = [({"items": [{"name": f"n{i}"}]}, f"n{i}") for i in range(9)]
    required = [name for name in part if name == "kind"]
    assert tags_of(list_of(part, "name", *required), rows if not required else []) is None


def test_equal_values_stand_near_the_others_of_their_object() -> None:
    text = "from Oslo to Rome, and from Rome to Oslo with Ann"
    words = [text[start:end] for start, end in words_of(text)]
    values = [["Oslo", "Rome"], ["Rome", "Oslo"], ["Ann"]]
    owners = [[Owner("trips", 0), Owner("trips", 1)]] * 2 + [[Owner("trips", 1)]]
    found, missing = found_in(text, values, owners)
    assert missing == [[], [], []]
    assert [(part, first) for part, first, _ in found] == [
        (0, words.index("Oslo")),
        (1, words.index("Rome")),
        (0, 7),
        (1, 9),
        (2, 11),
    ]
    # Without objects each value has its first free place.
    assert [(part, first) for part, first, _ in found_in(text, values)[0]] == [(0, 1), (0, 3), (1, 7), (1, 9), (2, 11)]
    near = found_in("Oslo is cold. Ann? Bo of Oslo", [["Ann", "Bo"], ["Oslo"]], [[Owner("", 0), Owner("", 1)], [Owner("", 1)]])
    assert near[0][-1] == (1, 8, 8)
    shared = found_in("Ann and Bo: Oslo", [["Ann", "Bo"], ["Oslo", "oslo"]], [[Owner("", 0), Owner("", 1)]] * 2)
    assert shared == ([(0, 0, 0), (0, 2, 2), (1, 4, 4), (1, 4, 4)], [[], []])
    assert found_in("Ann: Oslo", [["Oslo"], ["Oslo"]], [[Owner("", 0)], [Owner("", 0)]])[1] == [[], ["Oslo"]], (
        "another property"
    )


def test_an_earlier_bundles_grouping_stays_unless_another_is_clearly_better() -> None:
    rows = recipes()
    outputs, texts = [json.dumps(value) for value, _ in rows[:1]], [text for _, text in rows[:1]]
    (usual,) = {one.grouping for one in copied_fields(TWO, outputs, texts)}
    assert usual is not None
    other = replace(usual, rule="last", by=("name",), separators=(";",))
    known = [replace(one, grouping=other) for one in copied_fields(TWO, outputs, texts)]
    assert {one.grouping for one in copied_fields(TWO, outputs, texts, known)} == {other}
    wrong = [replace(one, grouping=replace(usual, rule="first", by=("name",), separators=())) for one in known]
    outputs, texts = [json.dumps(value) for value, _ in rows], [text for _, text in rows]
    assert {one.grouping for one in copied_fields(TWO, outputs, texts, wrong)} == {
        one.grouping for one in copied_fields(TWO, outputs, texts)
    }


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "random"},
        {"rule": ["order"]},
        {"by": []},
        {"by": ["name"]},
        {"by": ["name", "size"]},
        {"by": "ab"},
        {"by": [1, 2]},
        {"separators": [3]},
        {"separators": {}},
        {"shared": ["size"]},
        {"side": "left"},
        {"blank": "never"},
        {"more": 1},
    ],
)
def test_a_damaged_grouping_is_refused(change: dict[str, Any]) -> None:
    grouping = Grouping("order", ("amount", "name"), (",",))
    parts = [CopiedField(f"items[].{name}", "string", "absent", 9, grouping=grouping) for name in ("name", "amount")]
    record = json.loads(json.dumps(Output("json", schema_text=json.dumps(TWO), copied=tuple(parts)).to_json()))
    assert Output.from_json(record).fields is not None
    broken = [{**one, "grouping": {**one["grouping"], **change}} for one in record["copied"]]
    with pytest.raises(InputError, match="copied"):
        Output.from_json({**record, "copied": broken})
    for copied in ([{**record["copied"][0], "grouping": None}, record["copied"][1]], [record["copied"][0]], ["x"]):
        with pytest.raises(InputError, match="copied"):
            Output.from_json({**record, "copied": copied})


def test_a_task_with_such_lists_is_read() -> None:
    rows = [{"text": text, "answer": value} for value, text in recipes(60)]
    task = Task.from_rows(rows, input="text", output="answer")
    assert isinstance(task.output.fields, Tags) and grouping_of(task.output.fields).separators == (",",)
    value = {"items": [{"name": "salt"}, {"name": "eggs", "amount": "3"}]}
    assert read_back(task.output.fields, value, "salt, 3 eggs") == value
    assert infer_schema([value for value, _ in recipes()])["properties"]["items"]["items"]["required"] == ["name"]
