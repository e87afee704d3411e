"""From a JSON Schema to the term of its texts, and to the plainer schema that a library constrains decoding with.

Objects hold the properties that the schema names, in its order, and no others. Separators are those of ``json.dumps``.
Keywords that would not be kept are refused, so that every text of the term is valid under the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from cotune.errors import InputError
from cotune.model.structured.json_terms import DECIMALS, Choice, Fields, Items, Literal, Number, Term, Text, either, exact, then
from cotune.task.values.json_value import json_text
from cotune.task.values.schema_order import is_of_type, same_value

_NOTES = {
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
}
_KEYWORDS: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set(),
    "null": set(),
}
DIGITS = 15
"""Of a number before its point at most, unless a bound has more: so many a double keeps apart."""
LEVELS, PARTS, LENGTH, BOUND = 64, 5_000, 100_000, 10**18
"""Of a schema with its references written out: levels and parts at most; characters or items that an answer must have at most,
and how far from 0 a bound may be. Nobody's answers need more, and what is asked for without end takes time without end."""
Schema = dict[str, Any]


def term_of(schema: Mapping[str, Any]) -> tuple[Term, Schema]:
    """The term of all texts that decoding may write under a schema, and the schema without references and notes.

    Raises:
        InputError: the schema is broken, uses a keyword that cannot be kept, or allows nothing; names the place.
    """
    return _Reader(schema).read(schema, "#", ())


def decimals_of(schema: Mapping[str, Any]) -> int:
    """How many digits a number of a sound schema may have behind its point."""
    low, high, above, below = _limits(schema)
    # A double next to a bound that is left out may be read as that bound where there are more digits than it keeps apart.
    return max(0, DIGITS - max(_size(low), _size(high))) if above or below else DECIMALS


def _limits(schema: Mapping[str, Any]) -> tuple[Fraction | None, Fraction | None, bool, bool]:
    """Smallest and largest number, and whether each of them is left out."""
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    low, high, above, below = (exact(schema[name]) if name in schema else None for name in names)
    no_low, no_high = above is not None and (low is None or above >= low), below is not None and (high is None or below <= high)
    return above if no_low else low, below if no_high else high, no_low, no_high


def _size(bound: Fraction | None) -> int:
    return 0 if bound is None else len(str(abs(int(bound))))


def number_term(*, integer: bool) -> Term:
    """All numbers in plain digits."""
    return Number(integer, digits=DIGITS)


class _Reader:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._parts = self._level = 0

    def read(self, schema: Any, where: str, above: tuple[str, ...]) -> tuple[Term, Schema]:
        self._parts += 1
        self._level += 1
        if self._parts > PARTS or self._level > LEVELS:
            most = f"{PARTS:,} parts" if self._parts > PARTS else f"{LEVELS} levels"
            raise _refusal(f"with its references written out it has more than {most}", where, "Ask for less in one answer.")
        term, plain = self._read(schema, where, above)
        self._level -= 1
        if len(term.shortest) > LENGTH:
            raise _refusal(f"the shortest answer has more than {LENGTH:,} characters", where, "Ask for less in one answer.")
        return term, plain

    def _read(self, schema: Any, where: str, above: tuple[str, ...]) -> tuple[Term, Schema]:
        if not isinstance(schema, Mapping):
            raise _refusal("the schema must be a JSON object that says what is allowed", where, "Name a type.")
        if "$ref" in schema:
            return self._reference(schema, where, above)
        if "anyOf" in schema:
            self._only(schema, {"anyOf"}, where)
            options = schema["anyOf"]
            if not isinstance(options, Sequence) or not options:
                raise _refusal("anyOf must be a list of schemas", where, "Give at least one.")
            return self._any([self.read(option, f"{where}/anyOf/{i}", above) for i, option in enumerate(options)])
        if "const" in schema or "enum" in schema:
            return self._values(schema, where)
        kinds = schema.get("type")
        if isinstance(kinds, Sequence) and not isinstance(kinds, str) and kinds:
            self._only(schema, {"type"}.union(*(_KEYWORDS.get(str(kind), set()) for kind in kinds)), where)
            parts = []
            for kind in kinds:
                own = {name: schema[name] for name in schema if name in _KEYWORDS.get(str(kind), set())}
                parts.append(self.read({**own, "type": kind}, where, above))
            return self._any(parts)
        if kinds is None:
            kinds = "object" if "properties" in schema else "array" if "items" in schema else None
        if kinds not in _KEYWORDS:
            raise _refusal("no type is named that answers can be held to", where, f"Known types: {', '.join(_KEYWORDS)}.")
        self._only(schema, {"type"} | _KEYWORDS[kinds], where)
        if kinds == "object":
            return self._object(schema, where, above)
        if kinds == "array":
            return self._array(schema, where, above)
        if kinds == "string":
            low, high = self._bounds(schema, "minLength", "maxLength", where)
            return then(Literal(b'"'), Text(low, high)), _kept(schema, "string")
        if kinds == "boolean":
            return Choice((Literal(b"true"), Literal(b"false"))), {"type": "boolean"}
        if kinds == "null":
            return Literal(b"null"), {"type": "null"}
        return self._number(schema, str(kinds), where)

    def _reference(self, schema: Mapping[str, Any], where: str, above: tuple[str, ...]) -> tuple[Term, Schema]:
        self._only(schema, {"$ref"}, where)
        name = schema["$ref"]
        if name in above:
            raise _refusal(f"the reference {name} leads back to itself", where, "Write out as many levels as you need.")
        found: Any = self._root
        for part in str(name).removeprefix("#").split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            found = found.get(part) if isinstance(found, Mapping) else None
        if not str(name).startswith("#/") or found is None:
            raise _refusal(f"the reference {name} leads nowhere inside the schema", where, "Use #/$defs/NAME.")
        return self.read(found, where, (*above, str(name)))

    @staticmethod
    def _any(parts: Sequence[tuple[Term, Schema]]) -> tuple[Term, Schema]:
        if len(parts) == 1:
            return parts[0]
        term = either([term for term, _ in parts])
        assert term is not None
        return term, {"anyOf": [schema for _, schema in parts]}

    def _values(self, schema: Mapping[str, Any], where: str) -> tuple[Term, Schema]:
        self._only(schema, {"const", "enum", "type"}, where)
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise _refusal("enum must be a list of values", where, "Give at least one.")
        kinds = schema.get("type", ())
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        values = [value for value in values if not kinds or any(is_of_type(value, str(kind)) for kind in kinds)]
        if "const" in schema and "enum" in schema:
            values = [value for value in values if any(same_value(value, option) for option in schema["enum"])]
        texts = list(dict.fromkeys(map(json_text, values)))
        # Wherever it is referred to, an enumeration is written out.
        self._parts += sum(map(len, texts)) // 100
        term = either([Literal(text.encode()) for text in texts])
        if term is None:
            raise _refusal("no value of enum is allowed", where, "Give at least one of the type.")
        return term, {"enum": values}

    def _object(self, schema: Mapping[str, Any], where: str, above: tuple[str, ...]) -> tuple[Term, Schema]:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, Sequence):
            raise _refusal("properties must be an object and required a list", where, "See json-schema.org.")
        required = dict.fromkeys(required)
        if missing := [name for name in required if name not in properties]:
            raise _refusal(f"{missing[0]!r} is required and no property says what it is", where, "Add it to properties.")
        parts = {name: self.read(inner, f"{where}/properties/{name}", above) for name, inner in properties.items()}
        fields = tuple((f"{json_text(name)}: ".encode(), term, name in required) for name, (term, _) in parts.items())
        plain = {
            "type": "object",
            "properties": {name: inner for name, (_, inner) in parts.items()},
            "required": [name for name in parts if name in required],
            "additionalProperties": False,
        }
        return then(Literal(b"{"), Fields(fields), Literal(b"}")), plain

    def _array(self, schema: Mapping[str, Any], where: str, above: tuple[str, ...]) -> tuple[Term, Schema]:
        low, high = self._bounds(schema, "minItems", "maxItems", where)
        if "items" not in schema and high == 0:
            return Literal(b"[]"), {"enum": [[]]}
        if "items" not in schema:
            raise _refusal("an array's items are not described", where, "Add items.")
        term, inner = self.read(schema["items"], f"{where}/items", above)
        if low * len(term.shortest) > LENGTH:
            raise _refusal(f"the shortest answer has more than {LENGTH:,} characters", where, "Lower minItems.")
        return then(Literal(b"["), Items(term, low, high), Literal(b"]")), _kept(schema, "array") | {"items": inner}

    def _number(self, schema: Mapping[str, Any], kind: str, where: str) -> tuple[Term, Schema]:
        for name in _KEYWORDS[kind] & schema.keys():
            if not is_of_type(schema[name], "number"):
                raise _refusal(f"{name} must be a number", where, "Draft 2020-12 is read.")
            if not abs(schema[name]) <= BOUND:
                raise _refusal(f"{name} is too large a number", where, f"Leave it out, or stay within {BOUND:.0e}.")
        low, high, above, below = _limits(schema)
        digits = max(DIGITS, _size(low), _size(high))
        decimals = decimals_of(schema)
        term = Number(kind == "integer" or not decimals, low, high, above, below, digits, decimals)
        if not term.possible:
            raise _refusal("no number lies within the bounds", where, "Widen them.")
        return term, _kept(schema, kind)

    @staticmethod
    def _bounds(schema: Mapping[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
        low, high = schema.get(least, 0), schema.get(most)
        for name, value in ((least, low), (most, high)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise _refusal(f"{name} must be a whole number from 0 on", where, "Correct the schema.")
        if low > LENGTH:
            raise _refusal(f"{least} is above {LENGTH:,}, and no answer gets as long", where, "Lower it.")
        if high is not None and high < low:
            raise _refusal(f"{most} is below {least}", where, "Correct the schema.")
        return low, high

    @staticmethod
    def _only(schema: Mapping[str, Any], known: set[str], where: str) -> None:
        for name, value in schema.items():
            if name not in known | _NOTES:
                raise _refusal(
                    f"the keyword {name!r} cannot be kept while decoding", where, "Leave it out, or list the values in enum."
                )
            if name == "additionalProperties" and not isinstance(value, (bool, Mapping)):
                raise _refusal("additionalProperties must be true, false or a schema", where, "Leave it out.")


def _kept(schema: Mapping[str, Any], kind: str) -> Schema:
    return {"type": kind} | {name: value for name, value in schema.items() if name in _KEYWORDS[kind] - {"items"}}


def _refusal(what: str, where: str, hint: str) -> InputError:
    return InputError(what, where=f"schema, {where}", hint=hint)
