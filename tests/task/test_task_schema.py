"""What a JSON Schema may hold: nothing outside of it is read, and nothing odd gets through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.task.values.kinds.json_kind import described_fields
from cotune.task.values.schema import Validator, schema_fields, schema_problem
from cotune.task.values.schema_order import is_simple, suits


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that has schemas, and what it was asked for."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            body = b'{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/meta", seen
        server.shutdown()
        thread.join()


KEYS = ("$schema", "$ref", "$dynamicRef", "$recursiveRef")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("draft", ["2019-09", "2020-12"])
def test_a_schema_reads_nothing_outside_of_itself(asked: tuple[str, list[str]], tmp_path: Path, key: str, draft: str) -> None:
    url, seen = asked
    file = tmp_path / "there.json"
    file.write_text('{"type": "object"}')
    for address in (url, file.as_uri(), str(file), "there.json", "urn:other", f"{url}#/$defs/a"):
        for schema in (
            {key: address},
            {"type": "object", "properties": {"a": {"$id": "http://elsewhere/", key: address}}},
            {"$schema": f"https://json-schema.org/draft/{draft}/schema", "anyOf": [{key: address}]},
        ):
            refused = "read" if key == "$schema" else "references must stay within the schema"
            assert refused in schema_problem(schema), schema
            with suppress(ValueError):
                Validator(schema)
    # A relative reference is made a whole one with $id.
    assert schema_problem({"$id": url, "$ref": "other"})
    assert not seen


def test_nothing_is_fetched_where_the_check_is_passed_by(asked: tuple[str, list[str]]) -> None:
    url, seen = asked
    for schema in ({"$schema": url}, {"$ref": url}, {"$dynamicRef": url}):
        with pytest.raises(ValueError, match=r"not present|Unknown meta-schema"):
            Validator(schema)
    assert not seen


@pytest.mark.parametrize("draft", ["draft-04", "draft-06", "draft-07", "draft/2019-09", "draft/2020-12"])
def test_drafts_and_references_inside_are_sound(draft: str) -> None:
    inside = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}, "$schema": {"type": "string"}}}
    schema = {"$schema": f"http{'s' * ('/' in draft)}://json-schema.org/{draft}/schema" + "#" * ("/" not in draft), **inside}
    assert schema_problem(schema) == ""
    assert Validator(schema)({"a": 1}) and not Validator(schema)({"a": "x"})


def test_schemas_that_are_no_json_or_too_deep_are_refused() -> None:
    deep: dict[str, object] = {"type": "null"}
    for _ in range(5000):
        deep = {"items": deep}
    assert "levels" in schema_problem(deep)
    assert "not a JSON number" in schema_problem({"enum": [float("inf")]})


def test_a_part_that_allows_anything_is_one_value_and_one_that_allows_nothing_is_none() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "string"}, "extra": True, "gone": False}}
    schema = {"anyOf": [inner, True], "properties": {"list": {"items": True}}}
    assert schema_problem(schema) == ""
    assert schema_fields(schema) == ["a", "extra", "list"]
    assert described_fields(schema) == "a, list"


_COUNTS, _NUMBERS = st.integers(0, 3), st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.5]))
_SINGLE = st.one_of(st.none(), st.booleans(), _NUMBERS, st.text("aé😀", max_size=4))
_PART: Any = st.deferred(
    lambda: st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["string", "number", "integer", "array", "boolean", ["string", "null"]])},
            optional={
                **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _COUNTS),
                **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBERS),
                "items": _PART,
                "title": st.just("a title"),
            },
        ),
        st.fixed_dictionaries({"anyOf": st.lists(_PART, min_size=1, max_size=2)}),
    )
)


@given(schema=_PART, value=st.one_of(_SINGLE, st.lists(_SINGLE, max_size=4)))
@settings(max_examples=200, deadline=None)
def test_a_simple_schema_is_judged_as_by_the_validator(schema: dict[str, Any], value: Any) -> None:
    assert is_simple(schema) and not schema_problem(schema)
    assert suits(value, schema) == Validator(schema)(value)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "text"},
        {"type": ["string", ["null"]]},
        {"type": "string", "pattern": "a"},
        {"type": "string", "maxLength": 3.0},
        {"type": "string", "minLength": True},
        {"type": "number", "exclusiveMinimum": True},
        {"type": "string", "enum": ["a"]},
        {"$ref": "#/$defs/a"},
        {"anyOf": []},
        {"anyOf": [{"type": "string"}], "maxLength": 3},
        {"anyOf": [{"type": "string", "format": "date"}]},
        {"type": "array", "items": {"type": "string", "pattern": "a"}},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    ],
)
def test_other_keywords_need_the_validator(schema: Any) -> None:
    assert not is_simple(schema)
