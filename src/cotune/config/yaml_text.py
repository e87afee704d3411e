"""Parsing YAML by the 1.2 core schema: ``yes`` is a text, ``1e-3`` a number, duplicate keys are errors, lines are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from cotune.errors import InputError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema instead of YAML 1.1's.

    YAML 1.1 reads the label ``no`` as false, ``12:30`` as 750, ``2024-01-01`` as a date and ``1e-3`` as a text.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


# a number with a leading zero is probably an article number or a label, so it stays a text
_WHOLE, _POWER = r"(?:0|[1-9][0-9]*)", r"[eE][-+]?[0-9]+"

for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", rf"[-+]?{_WHOLE}", "-+0123456789"),
    ("float", rf"[-+]?(?:(?:{_WHOLE}\.[0-9]*|\.[0-9]+)(?:{_POWER})?|{_WHOLE}{_POWER}|\.inf)|\.nan", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


class _Float(float):
    """A number with its text in the document, such as ``1.50``."""

    text = ""


def _float(loader: _Loader, node: yaml.ScalarNode) -> _Float:
    value = _Float(loader.construct_yaml_float(node))
    value.text = node.value
    return value


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def number_as_written(number: float) -> str:
    """The text of a number in its YAML document; of another number the shortest one."""
    return number.text if isinstance(number, _Float) else str(number)


@dataclass(frozen=True)
class YamlText:
    """A parsed YAML document.

    Attributes:
        value: the document as plain Python values.
        lines: path of keys (texts and list positions) to its line, from 1.
    """

    value: Any
    lines: dict[tuple[str | int, ...], int]


def parse_yaml(text: str, where: str) -> YamlText:
    """Parse one YAML document.

    Raises:
        InputError: the text is not YAML, has a duplicate key, or more than one document; the message names the line.
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return YamlText(None, {})
        lines = _lines(node, where)
        return YamlText(loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"this is not valid YAML ({error.problem or error.context})",
            where=where + line,
            hint="Check the indentation, colons and quotes there.",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"this is not valid YAML ({' '.join(str(error).split())})", where=where, hint="Write plain UTF-8 YAML."
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def _lines(root: yaml.Node, where: str) -> dict[tuple[str | int, ...], int]:
    """The lines of all keys; a node repeated by aliases is visited once, because aliases can expand exponentially."""
    lines: dict[tuple[str | int, ...], int] = {}
    inside: set[int] = set()
    done: set[int] = set()

    def visit(node: yaml.Node, path: tuple[str | int, ...]) -> None:
        if id(node) in done:
            return
        if id(node) in inside:
            raise InputError(
                "an alias refers to itself", where=f"{where}, line {node.start_mark.line + 1}", hint="Write the value instead."
            )
        inside.add(id(node))
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise InputError("a key must be a plain word", where=f"{where}, line {line}", hint="Write key: value.")
                if key.value in seen:
                    raise InputError(
                        f"the key {key.value!r} is given twice", where=f"{where}, line {line}", hint="Keep one of the two."
                    )
                seen.add(key.value)
                lines[(*path, key.value)] = line
                visit(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                lines[(*path, index)] = item.start_mark.line + 1
                visit(item, (*path, index))
        inside.discard(id(node))
        done.add(id(node))

    visit(root, ())
    return lines
