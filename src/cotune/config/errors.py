"""Readable validation errors of the config: file, line, key, the value found, and what to write."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from cotune.config.yaml_text import YamlText
from cotune.errors import InputError, shortened


def readable_error(error: ErrorDetails, where: str, document: YamlText, root: type[BaseModel]) -> InputError:
    """Convert a validation error to an InputError with file, line, key, the value found, and what to write."""
    path = error["loc"] if error["type"] != "invalid_key" else tuple(map(str, error["loc"]))
    key = ".".join(map(str, path))
    line = next((document.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in document.lines), None)
    where = f"{where}{f', line {line}' if line else ''}{f', {key}' if key else ''}"
    value, kind, context = error.get("input"), error["type"], error.get("ctx", {})
    if kind == "missing" and isinstance(path[-1], int):
        above = ".".join(map(str, path[:-1]))
        return InputError(f"{above!r} has too few values", where=where, hint=f"Give at least {path[-1] + 1}.")
    if kind == "missing":
        section, _, name = key.rpartition(".")
        return InputError(f"the key {key!r} is missing", where=where, hint=f"Add {name!r}{section and f' below {section!r}'}.")
    if kind in ("extra_forbidden", "invalid_key"):
        names = _known_keys(root, path[:-1])
        near = _nearest_key(root, str(path[-1]), names, path[:-1])
        section, _, name = str(path[-1]).partition(".")
        if near == str(path[-1]) and name:
            what, hint = f"the key {near!r} stands for a key in a section", f"Give {section}={{{name!r}: ...}}."
            return InputError(what, where=where, hint=hint)
        return InputError(
            f"unknown key {str(path[-1])!r}" + (f", did you mean {near!r}?" if near else ""),
            where=where,
            hint=f"Known keys here: {', '.join(names)}.",
        )
    wanted = {
        "int_type": "a whole number",
        "float_type": "a number",
        "float_parsing": "a number",
        "bool_type": "true or false",
        "string_type": "a text",
        "tuple_type": "a list",
        "model_type": "a section with its own keys",
        "literal_error": f"one of {context.get('expected')}",
        "greater_than": f"more than {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"less than {context.get('lt')}",
        "string_too_short": "a non-empty text",
        "too_short": f"a list of at least {context.get('min_length')}",
    }.get(kind)
    if wanted is None:
        # An error about several keys has no single place; its message says what to do.
        return InputError(error["msg"], where=where, hint=f"Correct {key}." if key else "")
    hint = " Put quotes around it." if kind == "string_type" and isinstance(value, (int, float)) else ""
    found = "but it is not set" if value is None else f"not {shown(value)}"
    return InputError(f"{key!r} must be {wanted}, {found}", where=where, hint=f"Correct {key}.{hint}")


def _known_keys(root: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    model = root
    for part in path:
        inner = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest_key(root: type[BaseModel], name: str, names: list[str], path: Sequence[str | int]) -> str | None:
    """The known key most similar to ``name``: in this section, or in any if the key is in the wrong section."""
    if near := difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1, cutoff=0.6):
        return ".".join((*map(str, path), near[0]))
    everywhere: dict[str, str] = {key: key for key in root.model_fields}
    for section in root.model_fields:
        everywhere.update({key: f"{section}.{key}" for key in _known_keys(root, (section,)) if key not in everywhere})
    near = difflib.get_close_matches(name.lower().replace("-", "_"), everywhere, n=1, cutoff=0.6)
    return everywhere[near[0]] if near else None


def kind_of(value: Any) -> str:
    """The type of a YAML value in words."""
    return "list" if isinstance(value, list) else "text" if isinstance(value, str) else type(value).__name__


def shown(value: Any, length: int = 60) -> str:
    """A value for messages, cut to ``length`` characters."""
    return shortened("not set" if value is None else repr(value), length)
