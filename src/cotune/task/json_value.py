"""JSON values in data and in answers: reading, writing in one order of keys, and their fields one by one."""

from __future__ import annotations

import enum
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn


class _NoJson(enum.Enum):
    NO_JSON = "no JSON"


NO_JSON: Final = _NoJson.NO_JSON
_FENCE = re.compile(r"```[A-Za-z]*\s*\n?(.*?)```", re.DOTALL)
_MOST_TRIES = 20

Leaf = tuple[str, str]
"""Path of a value, such as ``slots.artist`` or ``guests[]``, and the value as JSON text."""


def parse_json(text: str) -> Any:
    """The JSON value that a text is.

    Raises:
        ValueError: it is none, holds NaN or infinity, names a key twice in one object, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_in(answer: str) -> Any:
    """The JSON value that an answer states: the answer itself, what stands in its code fence, else its first object or list.

    :data:`NO_JSON` where there is none.
    """
    fenced = _FENCE.search(answer)
    for text in (answer, *([fenced[1]] if fenced else [])):
        try:
            return parse_json(text)
        except ValueError:
            continue
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    for match in list(re.finditer(r"[{\[]", answer))[:_MOST_TRIES]:
        try:
            return decoder.raw_decode(answer, match.start())[0]
        except (ValueError, RecursionError):
            continue
    return NO_JSON


def json_text(value: Any) -> str:
    """A JSON value as answers are written: one line, other letters than ASCII as they are."""
    return json.dumps(value, ensure_ascii=False)


def in_schema_order(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value with the keys of its objects in the order of the schema's properties, others behind them in their own."""
    if isinstance(value, dict):
        inner = schema.get("properties")
        known: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
        names = [*(name for name in known if name in value), *(name for name in value if name not in known)]
        return {name: in_schema_order(value[name], _mapping(known.get(name))) for name in names}
    if isinstance(value, list):
        return [in_schema_order(item, _mapping(schema.get("items"))) for item in value]
    return value


def leaves(value: Any, path: str = "") -> Iterator[Leaf]:
    """Every single value of a JSON value with its path; items of a list share the path ``name[]``.

    White space around and within texts does not count, nor does ``1.0`` differ from ``1``. Empty objects and lists have none.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path, _leaf_text(value)


def leaf_counts(value: Any) -> Counter[Leaf]:
    """How often each leaf stands in a value; none for :data:`NO_JSON`."""
    return Counter() if value is NO_JSON else Counter(leaves(value))


def same_json(left: Any, right: Any) -> bool:
    """Whether two values are equal, whatever the order of keys; as in :func:`leaves`, lists keep their order."""
    return left is not NO_JSON and right is not NO_JSON and _plain(left) == _plain(right)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return _leaf_text(value)


def _leaf_text(value: Any) -> str:
    if isinstance(value, str):
        value = " ".join(value.split())
    elif isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return json_text(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {doubled!r} stands twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
