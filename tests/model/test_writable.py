"""What is said to be writable is what the grammar accepts, and why not is said by field."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from test_grammar import TABLE, can_be_written, decode, grammar_of, respelled, schemas

from cotune.model.structured.token_grammar import TokenGrammar
from cotune.model.structured.writable import Writable
from cotune.task.values.json_value import json_text
from cotune.task.values.output import Output
from cotune.task.values.schema import infer_schema

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | FLOATS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def json_output(schema: dict[str, Any]) -> Output:
    return Output("json", schema_text=json_text(schema))


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A value in which something may be another: mostly no longer valid."""
    if draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    if isinstance(value, dict):
        found = {name: draw(changed(inner)) for name, inner in value.items() if draw(st.integers(0, 9))}
        return found | ({"more": 1} if draw(st.integers(0, 9)) == 0 else {})
    if isinstance(value, list):
        return [draw(changed(item)) for item in value]
    return value


@given(schemas, st.integers(0, 40), st.integers(0, 2**31), st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_writable_is_what_can_be_written(schema: dict[str, Any], more: int, seed: int, data: st.DataObject) -> None:
    grammar = grammar_of(schema)
    limit = len(TABLE.encode(grammar.end(b"") or b"") or ()) + more
    assume(limit)
    held = TokenGrammar(grammar, TABLE, lead="", limit=limit)
    value = data.draw(changed(json.loads(held.read(decode(held, limit, seed).ids))))
    output = json_output(schema)
    text = output.canonical(json.dumps(respelled(value, seed)))
    problem = Writable(output).problem(text)
    note(f"{schema} {text} {problem}")
    assert grammar.accepts(text) == (not problem)


@given(st.lists(VALUES, min_size=1, max_size=6))
@settings(max_examples=120, deadline=None)
def test_an_inferred_schema_lets_every_value_be_written_that_it_was_inferred_from(values: list[Any]) -> None:
    output = json_output(infer_schema(values))
    writable = Writable(output)
    for value in values:
        text = output.canonical(json.dumps(value))
        problem = writable.problem(text)
        note(f"{output.schema_text} {text}")
        # But for numbers of endless digits and control characters all can be.
        assert not problem or re.search(r"\d{16}|\d[eE]|\.\d{18}|\\u00|\x7f", text)


def test_what_is_writable_the_library_writes() -> None:
    values = [
        {"name": f'an "odd" {i}\tname\\/é😀', "at": [i / 7, -i], "who": None if i % 2 else {"a": i % 3 == 0}} for i in range(8)
    ]
    output = json_output(infer_schema(values))
    for value in values:
        text = output.canonical(json.dumps(value))
        assert Writable(output).problem(text) == "" and can_be_written(grammar_of(json.loads(output.schema_text)), text)


SCHEMA = {
    "type": "object",
    "properties": {
        "price": {"type": "number", "exclusiveMinimum": 0},
        "size": {"type": "integer"},
        "slots": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}}},
    },
}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"price": 0.5, "slots": [{"name": "ok"}]}, ""),
        ({"price": 1e-9}, ""),
        ({"price": 1e-15}, "price: 0.000000000000001 has more digits"),
        ({"price": 1e300}, "price: 1e+300 has more digits"),
        ({"price": 0}, "price: "),
        ({"size": 10**15 - 1}, ""),
        ({"size": 10**15}, "size: 1000000000000000 has more digits"),
        ({"slots": [{}, {"name": "much too long"}]}, "slots[1].name: "),
        ({"slots": [{"name": "a\u0001b"}]}, "slots[].name: it contains the control character U+0001"),
        ({"slots": [{"other": 1}]}, "'other' was unexpected"),
    ],
)
def test_why_an_answer_cannot_be_written_is_told_by_field(value: Any, why: str) -> None:
    problem = Writable(json_output(SCHEMA)).problem(json_text(value))
    assert why in problem and bool(why) == bool(problem), problem


def test_numbers_and_other_types() -> None:
    whole, broken = (Output("number", schema_text=json.dumps({"type": kind})) for kind in ("integer", "number"))
    assert "has a fraction" in Writable(whole).problem("0.5") and Writable(broken).problem("0.5") == ""
    for output in (whole, broken):
        assert Writable(output).problem("-15") == "" and "has more digits" in Writable(output).problem("1E+45")
    for output in (Output("text"), Output("label", ("a", "b"))):
        assert Writable(output).problem("\u0001 anything") == ""
