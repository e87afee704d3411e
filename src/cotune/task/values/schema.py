"""JSON Schemas of a task's outputs: validation of given ones, and inference from the rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn

from cotune.errors import InputError, shortened
from cotune.task.values.json_value import DEEPEST

ENUM_MOST, ENUM_EACH, ENUM_LONGEST = 24, 5, 60
"""Limits of an enumeration: maximum number of values, minimum rows per value on average, maximum characters of a value.

With five rows per value 0.1% of further values were unseen in SNIPS with 64 rows or more, and 1% with 40 rows.
"""
ENUM_ONCE = 0.01
"""Maximum share of rows with a value that occurs once, which is about the probability of an unseen value (Good, 1953)."""
_READ_MOST, _READ_EACH, _READ_ONCE = 200, 2, 0.1
"""The same limits where values are only read off hidden states: an unseen value is then wrong, but any other JSON would have to
be generated, which is worse by far more than a tenth of the rows (docs/outputs.md). As with labels, values recur twice.
"""
LEAST_TEXT, LEAST_ITEMS = 32, 4
"""Minimum of the inferred bounds on characters of a text and items of an array."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_DRAFT = re.compile(r"https?://json-schema\.org/(draft-0[4-7]|draft/20(19-09|20-12))/schema#?")


Strictness = Literal["plain", "bounded", "read"]


def infer_schema(values: Sequence[Any], how: Strictness = "plain") -> dict[str, Any]:
    """The JSON Schema of some values.

    Objects get the properties that were seen, in the order of the objects, those in every object required, no others allowed. A
    text becomes an enumeration if it has at most 24 values, with five rows per value on average, and at most 1% of the rows
    have a value that occurs once, so that unseen values are unlikely. A number does not, since it may be copied from a text,
    where others can occur. Other texts and arrays may be 1.5 times as long as the longest one seen, since an untuned model may
    not stop by itself.

    Args:
        how: ``bounded`` also gives bounds to whole numbers for which the same is true; ``read`` enumerates texts and numbers
            with up to 200 values, and a tenth of the rows may have one that occurs once.
    """
    kinds = list(dict.fromkeys(map(kind_of, values)))
    if "integer" in kinds and "number" in kinds:
        kinds.remove("integer")
    options = [_of_kind(kind, [v for v in values if _fits(kind, v)], how) for kind in kinds]
    if len(options) == 1:
        return options[0]
    if all(set(option) == {"type"} for option in options):
        return {"type": [option["type"] for option in options]}
    return {"anyOf": options}


def checked_schema(schema: Any, where: str) -> Mapping[str, Any] | None:
    """Validate a given schema; None if none was given.

    Raises:
        InputError: if it is not a valid JSON Schema.
    """
    if schema is None:
        return None
    if problem := schema_problem(schema):
        raise InputError(
            f"this is not a valid JSON Schema ({problem})",
            where=where,
            hint='Write for example {"type": "object", "properties": {...}}.',
        )
    result: Mapping[str, Any] = schema
    return result


def schema_problem(schema: Any) -> str:
    """The error in a JSON Schema; empty if it is valid. References to URLs and files are not followed."""
    import jsonschema_rs

    if not isinstance(schema, Mapping):
        return "it is not an object"
    if problem := next(_strange(schema), ""):
        return problem
    try:
        _validator(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        return str(error).splitlines()[0]
    return ""


def _validator(schema: Mapping[str, Any]) -> Any:
    import jsonschema_rs

    # Without a retriever of its own, the library would fetch URLs and read files that a schema names.
    return jsonschema_rs.validator_for(dict(schema), retriever=_retrieve_nothing)


def _retrieve_nothing(uri: str) -> NoReturn:
    raise ValueError(f"references must stay within the schema, not lead to {uri}")


class Validator:
    """Validates values by a schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._inner = _validator(schema)

    def __call__(self, value: Any) -> bool:
        """Whether the value is valid."""
        return bool(self._inner.is_valid(value))

    def problem(self, value: Any) -> str:
        """The first error in a value with its path; empty if there is none."""
        for error in self._inner.iter_errors(value):
            place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path).lstrip(".")
            return f"{place + ': ' if place else ''}{error.message}"
        return ""


def schema_fields(schema: Mapping[str, Any], path: str = "") -> list[str]:
    """Paths of a schema's single values, as in :func:`cotune.task.values.json_value.single_values`.

    A property of which the schema says nothing but ``true`` is a single value; one that it forbids with ``false`` is none.
    """
    paths: list[str] = []
    for option in schema.get("anyOf", ()):
        paths += schema_fields(option, path) if isinstance(option, Mapping) else ()
    for name, inner in (schema.get("properties") or {}).items():
        if inner is not False:
            paths += schema_fields(inner if isinstance(inner, Mapping) else {}, f"{path}.{name}" if path else str(name))
    if isinstance(schema.get("items"), Mapping):
        paths += schema_fields(schema["items"], f"{path}[]")
    if not paths and path and not schema.get("properties") and schema.get("type") not in ("object", "array"):
        paths = [path]
    return list(dict.fromkeys(paths))


def _strange(schema: Any) -> Iterator[str]:
    """Errors in output schemas that the library does not report."""
    waiting = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            yield f"it is nested more than {DEEPEST} levels deep"
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                if name in _REFERENCES and isinstance(inner, str) and not inner.startswith("#"):
                    yield f"it refers to {shortened(inner, 100)!r}, but references must stay within the schema"
                if name == "$schema" and isinstance(inner, str) and not _DRAFT.fullmatch(inner):
                    draft = shortened(inner, 100)
                    yield f"its $schema {draft!r} is not a draft of JSON Schema from 4 to 2020-12, and nothing else is read"
                waiting.append((inner, depth + 1))
        elif isinstance(value, (list, tuple)):
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"it holds {value}, which is not a JSON number"


def _of_kind(kind: str, values: Sequence[Any], how: Strictness) -> dict[str, Any]:
    if kind == "object":
        names = _names(values)
        return {
            "type": "object",
            "properties": {name: infer_schema([value[name] for value in values if name in value], how) for name in names},
            "required": [name for name in names if all(name in value for value in values)],
            "additionalProperties": False,
        }
    if kind == "array":
        items = [item for value in values for item in value]
        most = half_again(values, LEAST_ITEMS)
        return (
            {"type": "array", "items": infer_schema(items, how), "maxItems": most}
            if items
            else {"type": "array", "maxItems": 0}
        )
    if kind == "string":
        # A model cannot write control characters, so that of such values alone none could be an answer.
        if _recur(values, how) and max(map(len, values)) <= ENUM_LONGEST and not any(map(_CONTROL.search, values)):
            return {"type": "string", "enum": sorted(set(values))}
        return {"type": "string", "maxLength": half_again(values, LEAST_TEXT)}
    if how != "plain" and kind == "integer" and _recur(values, "bounded"):
        bounds = {"minimum": min(values), "maximum": max(values)}
        if how == "bounded" or bounds["maximum"] - bounds["minimum"] < ENUM_MOST:
            return {"type": "integer", **bounds}
    if how == "read" and kind in ("integer", "number") and _recur(values, how):
        return {"type": kind, "enum": sorted(set(values))}
    return {"type": kind}


def _recur(values: Sequence[Any], how: Strictness) -> bool:
    """Whether values are few and recur, so that unseen ones are unlikely."""
    most, each, share = (_READ_MOST, _READ_EACH, _READ_ONCE) if how == "read" else (ENUM_MOST, ENUM_EACH, ENUM_ONCE)
    counts = Counter(values)
    once = sum(count == 1 for count in counts.values())
    return len(counts) <= min(most, len(values) / each) and once <= share * len(values)


def half_again(values: Sequence[Sequence[Any]], least: int) -> int:
    """An inferred bound on lengths: 1.5 times that of the longest value, and at least ``least``."""
    longest = max(map(len, values))
    return max(least, longest + (longest + 1) // 2)


def _names(values: Sequence[Any]) -> list[str]:
    """Keys of all objects in order of first occurrence, each behind its predecessor there."""
    names: list[str] = []
    for value in values:
        place = 0
        for name in value:
            if name in names:
                place = names.index(name) + 1
            else:
                names.insert(place, name)
                place += 1
    return names


def kind_of(value: Any) -> str:
    """The type of a JSON value in the words of JSON Schema."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _fits(kind: str, value: Any) -> bool:
    return kind_of(value) == kind or (kind == "number" and kind_of(value) == "integer")
