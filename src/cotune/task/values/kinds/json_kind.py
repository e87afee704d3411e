"""JSON answers with a schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cotune.errors import InputError, shortened
from cotune.task.values.closed import closed_fields
from cotune.task.values.copied import LEAST_COPIED, LEAST_OPENED, copied_fields, with_copied_values
from cotune.task.values.json_value import NO_JSON, is_json, json_in, json_text, parse_json, same_json
from cotune.task.values.kinds.base import Bounds, CellReader, Constraint, OutputKind
from cotune.task.values.number_style import NumberStyle
from cotune.task.values.output_fields import ABSENT, CopiedField
from cotune.task.values.schema import Validator, infer_schema
from cotune.task.values.schema_order import in_schema_order

_MOST_FIELDS, _MOST_VALUES, _MOST_CHARACTERS = 30, 12, 40
"""Bounds of a schema in words: fields, values of an enumeration, characters of a value."""


class JsonKind(OutputKind):
    """The kind of JSON values with a schema."""

    name = "json"
    samples = ('{"city": "Rome", "guests": 2}', '{"guests": 4, "city": "Bern"}', '{"city": "Oslo", "guests": 3, "tags": ["a"]}')
    about = "JSON"
    default_metric = "json_f1"
    has_schema = True
    by_field = True
    nested_cells = True
    answers_questions = False
    cues = ("JSON:",)
    misfit = "do not fit the schema"
    why_no_fields = "the output is not JSON of which every part is one of a few values, or copied from the text"
    response_formats = frozenset({"text", "json_object"})
    reply = "the JSON of its own schema"

    def recognise(self, cells: Sequence[str]) -> str:
        """Recognized if all cells are JSON objects or lists."""
        return "every output is a JSON object or list" if all(map(self.alike, cells)) else ""

    def alike(self, cell: str) -> bool:
        return not self._plain(cell) and is_json(cell)

    def broken(self, cell: str) -> bool:
        return not self._plain(cell) and not is_json(cell)

    def _plain(self, cell: str) -> bool:
        return not cell.lstrip().startswith(("{", "["))

    def cell_reader(
        self, *, labels: Sequence[str] = (), schema: Mapping[str, Any] | None = None, style: NumberStyle | None = None
    ) -> CellReader:
        """A reader of JSON texts that fit the schema."""
        check = Validator(schema) if schema is not None else None
        return lambda cell, where: _json(cell, where, check)

    def schema_of(
        self, outputs: Sequence[str], given: Mapping[str, Any] | None, texts: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        """The given schema, else one inferred from the outputs.

        Whole numbers that recur, such as ratings, get bounds if every part is then one of a few values or copied from the text,
        and nothing has to be generated. If other parts are generated, bounds would only rule numbers out. Texts that recur are
        no enumeration if they nearly always stand in the rows' texts, since others can then be copied.
        """
        if given is not None:
            return given
        values = [parse_json(output) for output in outputs]
        plain, bounded = infer_schema(values), infer_schema(values, "bounded")
        usual = plain if closed_fields(bounded) is None else bounded
        free = [with_copied_values(schema, outputs, texts) for schema in (plain, bounded)] if texts else []
        if not texts or (usual is bounded and free[1] is bounded):
            return usual
        # A number that stands in the text can be copied, whatever its size.
        found = [(schema, copied) for schema in free if (copied := self.copied(schema, outputs, texts))]
        # Lists of objects have one copied value and closed ones that all objects have, where that is possible.
        one_each = (schema for schema, copied in found if all(map(_is_alone, copied)))
        return next(one_each, None) or next(self._copied_objects((plain, bounded), outputs, texts), usual)

    def read_schema(
        self, schema: Mapping[str, Any] | None, outputs: Sequence[str], texts: Sequence[str]
    ) -> Mapping[str, Any] | None:
        if closed_fields(schema) is not None or self.copied(schema, outputs, texts):
            return None
        read = infer_schema([parse_json(output) for output in outputs], "read")
        copied = with_copied_values(read, outputs, texts, least=LEAST_COPIED)
        if self.copied(copied, outputs, texts):
            return copied
        if (objects := next(self._copied_objects((read,), outputs, texts, LEAST_COPIED), None)) is not None:
            return objects
        return None if closed_fields(read) is None else read

    def _copied_objects(
        self, schemas: Sequence[Mapping[str, Any]], outputs: Sequence[str], texts: Sequence[str], least: float = LEAST_OPENED
    ) -> Iterator[Mapping[str, Any]]:
        """Those schemas under which all can be read, if enumerations in lists of objects are copied where they can be."""
        opened = (with_copied_values(schema, outputs, texts, least=least, objects=True) for schema in schemas)
        return (schema for schema in opened if self.copied(schema, outputs, texts))

    def copied(
        self,
        schema: Mapping[str, Any] | None,
        outputs: Sequence[str],
        texts: Sequence[str],
        known: Sequence[CopiedField] = (),
    ) -> tuple[CopiedField, ...]:
        return copied_fields(schema, outputs, texts, known)

    def kept_schema(self, schema: Mapping[str, Any] | None, outputs: Sequence[str]) -> Mapping[str, Any] | None:
        if schema is None:
            return None
        check = Validator(schema)
        return schema if all(check(parse_json(output)) for output in outputs) else None

    def in_one_form(self, output: str, schema: Mapping[str, Any] | None) -> str:
        return output if schema is None else json_text(in_schema_order(parse_json(output), schema))

    def canonical(self, text: str, bounds: Bounds) -> str:
        value = json_in(text)
        return text.strip() if value is NO_JSON else json_text(in_schema_order(value, bounds.schema or {}))

    def value(self, text: str) -> Any:
        value = json_in(text)
        return None if value is NO_JSON else value

    def fits(self, text: str, bounds: Bounds) -> bool:
        value = json_in(text)
        return value is not NO_JSON and bounds.valid(value)

    def same(self, reference: str, answer: str) -> bool:
        """Whether both are equal as JSON, in any order of keys."""
        return same_json(json_in(reference), json_in(answer))

    def plain_value(self, text: str) -> Any:
        return self.value(text)

    def form(self, bounds: Bounds) -> str:
        fields = described_fields(bounds.schema or {})
        return f"Answer with JSON with the fields {fields}." if fields else "Answer with JSON."

    def constraint(self, bounds: Bounds) -> Constraint | None:
        return None if bounds.schema is None else Constraint(schema=bounds.schema)

    def unwritable_hint(self, *, schema_given: bool) -> str:
        if schema_given:
            return "Correct the rows or the schema, or leave the schema out to have one inferred from train and dev."
        return "Correct the rows, or give output.schema."


def _is_alone(one: CopiedField) -> bool:
    """Whether a part is no property of a list's objects that have others to be copied, or may lack closed ones."""
    return one.grouping is None and ABSENT not in dict(one.given).values()


def _json(cell: str, where: str, check: Validator | None) -> str:
    try:
        value = parse_json(cell)
    except ValueError as error:
        raise InputError(
            f"the output is not valid JSON ({str(error).splitlines()[0]}): {shortened(cell.strip())!r}",
            where=where,
            hint="Correct it, or set output.type to text.",
        ) from error
    if check is not None and (problem := check.problem(value)):
        raise InputError(
            f"the output does not fit output.schema ({shortened(problem, 160)})",
            where=where,
            hint="Correct the row or the schema.",
        )
    return json_text(value)


def described_fields(schema: Mapping[str, Any]) -> str:
    """The names of a schema's single values, with the values of short enumerations: ``intent (one of "play", "stop")``.

    Empty if it has none. Names and values with braces or line breaks are omitted, since braces mark placeholders.
    """
    texts = list(dict.fromkeys(text for text in _fields(schema, "") if not set(text) & set("{}\n")))
    return ", ".join(texts[:_MOST_FIELDS]) + (" and others" if len(texts) > _MOST_FIELDS else "")


def _fields(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    for option in schema.get("anyOf", ()):
        if isinstance(option, Mapping):
            yield from _fields(option, path)
    properties, items = schema.get("properties"), schema.get("items")
    if isinstance(properties, Mapping):
        for name, inner in properties.items():
            if isinstance(inner, Mapping):
                yield from _fields(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(items, Mapping) and items.get("properties"):
        yield from _fields(items, path)
    elif path:
        yield path + _kind_in_words(schema, items)


def _kind_in_words(schema: Mapping[str, Any], items: Any) -> str:
    values = schema.get("enum")
    if isinstance(values, list) and len(values) <= _MOST_VALUES and all(len(str(v)) <= _MOST_CHARACTERS for v in values):
        return f" (one of {', '.join(json.dumps(value, ensure_ascii=False) for value in values)})"
    if isinstance(items, Mapping):
        return " (a list)"
    if schema.get("type") == "boolean":
        return " (true or false)"
    return " (a number)" if schema.get("type") in ("integer", "number") else ""
