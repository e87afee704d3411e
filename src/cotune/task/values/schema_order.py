"""Normalize a JSON value by a schema: keys in the schema's order, and values of enumerations as spelled there.

Also validation by the keywords that this needs, without a package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.task.values.json_value import json_text

_MOST_HOPS = 64
_KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTES = {"title", "description", "default", "examples"}
"""Keywords that bound nothing."""
_LENGTHS = {"minLength", "maxLength", "minItems", "maxItems"}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def in_schema_order(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value with keys in the order of the schema's properties, followed by other keys in their own order.

    References inside the schema are followed. Of several options (``anyOf``, ``oneOf``) the first valid one is used, judged by
    types, keys, lengths, bounds and enumerations; other keywords are ignored.
    """
    return _Order(schema).of(value, schema)


def suits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is valid under a schema for which :func:`is_simple` is true."""
    return _Order(schema)._suits(value, schema)


def is_simple(schema: Any) -> bool:
    """Whether a schema has no keywords but the type, the items of a list, lengths and bounds, or options of such schemas."""
    if not isinstance(schema, Mapping):
        return False
    said = {name: value for name, value in schema.items() if name not in _NOTES}
    if "anyOf" in said:
        options = said["anyOf"]
        return len(said) == 1 and isinstance(options, list) and len(options) > 0 and all(map(is_simple, options))
    kinds = said.get("type")
    return (
        said.keys() <= {"type", "items", *_LENGTHS, *_BOUNDS}
        and all(isinstance(kind, str) and kind in _KINDS for kind in (kinds if isinstance(kinds, list) else [kinds]))
        and all(type(said[name]) is int and said[name] >= 0 for name in _LENGTHS & said.keys())
        and all(is_of_type(said[name], "number") for name in _BOUNDS & said.keys())
        and ("items" not in said or is_simple(said["items"]))
    )


class _Order:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def of(self, value: Any, schema: Any) -> Any:
        schema = self._resolved(value, schema)
        for option in _values(schema):
            if same_value(value, option):
                return option
        if isinstance(value, dict):
            properties = _mapping(schema.get("properties"))
            names = [*(name for name in properties if name in value), *(name for name in value if name not in properties)]
            return {name: self.of(value[name], properties.get(name)) for name in names}
        if isinstance(value, list):
            return [self.of(item, schema.get("items")) for item in value]
        return value

    def _resolved(self, value: Any, schema: Any) -> Mapping[str, Any]:
        """The schema of the value itself, with references and options resolved."""
        resolved = _mapping(schema)
        for _ in range(_MOST_HOPS):
            options = resolved.get("anyOf") or resolved.get("oneOf")
            if "$ref" in resolved:
                resolved = self._referred(resolved["$ref"])
            elif isinstance(options, Sequence) and options:
                resolved = _mapping(next((option for option in options if self._suits(value, option)), None))
            else:
                return resolved
        return {}

    def _referred(self, name: Any) -> Mapping[str, Any]:
        node: Any = self._root
        for part in str(name).removeprefix("#").split("/")[1:]:
            node = _mapping(node).get(part.replace("~1", "/").replace("~0", "~"))
        return _mapping(node)

    def _suits(self, value: Any, schema: Any, hops: int = 0) -> bool:
        part = _mapping(schema)
        if "$ref" in part:
            return hops < _MOST_HOPS and self._suits(value, self._referred(part["$ref"]), hops + 1)
        options = part.get("anyOf") or part.get("oneOf")
        if isinstance(options, Sequence) and options:
            return hops < _MOST_HOPS and any(self._suits(value, option, hops + 1) for option in options)
        if ("enum" in part or "const" in part) and not any(same_value(value, option) for option in _values(part)):
            return False
        kinds = part.get("type", ())
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        if kinds and not any(is_of_type(value, str(kind)) for kind in kinds):
            return False
        if isinstance(value, dict):
            properties = _mapping(part.get("properties"))
            # Answers contain only named properties, even if the schema allows others.
            return set(part.get("required", ())) <= set(value) <= set(properties) and all(
                self._suits(inner, properties[name]) for name, inner in value.items()
            )
        if isinstance(value, list):
            inside = part.get("items", {})
            return _between(len(value), part, "minItems", "maxItems") and all(self._suits(item, inside) for item in value)
        if isinstance(value, str):
            return _between(len(value), part, "minLength", "maxLength")
        if is_of_type(value, "number"):
            within = _between(value, part, "exclusiveMinimum", "exclusiveMaximum", itself=False)
            return within and _between(value, part, "minimum", "maximum")
        return True


def _between(value: float, schema: Mapping[str, Any], least: str, most: str, *, itself: bool = True) -> bool:
    """Whether a value lies within inclusive or exclusive bounds; bounds that are not numbers are ignored."""
    low, high = (bound if is_of_type(bound, "number") else None for bound in (schema.get(least), schema.get(most)))
    if not itself and value in (low, high):
        return False
    return (low is None or value >= low) and (high is None or value <= high)


def is_of_type(value: Any, kind: str) -> bool:
    """Whether a value has a type of JSON Schema; ``1.0`` is an integer."""
    if kind not in _KINDS or (isinstance(value, bool) and kind != "boolean"):
        return False
    return isinstance(value, _KINDS[kind]) and (kind != "integer" or not isinstance(value, float) or value.is_integer())


def _values(schema: Mapping[str, Any]) -> Sequence[Any]:
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    return values if isinstance(values, Sequence) and not isinstance(values, str) else ()


def same_value(left: Any, right: Any) -> bool:
    """Equality by JSON Schema: ``1`` equals ``1.0`` but not ``true``, and keys have no order."""
    return bool(left == right) and json_text(_sorted(left)) == json_text(_sorted(right))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
