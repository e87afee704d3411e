"""A JSON Schema in words for prompts, without braces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_MOST_FIELDS, _MOST_VALUES, _MOST_CHARACTERS = 30, 12, 40


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
        yield path + _kind(schema, items)


def _kind(schema: Mapping[str, Any], items: Any) -> str:
    values = schema.get("enum")
    if isinstance(values, list) and len(values) <= _MOST_VALUES and all(len(str(v)) <= _MOST_CHARACTERS for v in values):
        return f" (one of {', '.join(json.dumps(value, ensure_ascii=False) for value in values)})"
    if isinstance(items, Mapping):
        return " (a list)"
    if schema.get("type") == "boolean":
        return " (true or false)"
    return " (a number)" if schema.get("type") in ("integer", "number") else ""
