"""The template of the input fields: parsing it into names and fields, and writing it in another style."""

from __future__ import annotations

import re

from cotune.prompt.prompt import FIELD_NAME
from cotune.prompt.words import capitalise

STYLES = {
    "colon": "{name}: {field}",
    "colon_line": "{name}:\n{field}",
    "equals": "{name} = {field}",
    "dash": "{name} - {field}",
    "heading": "### {name}\n{field}",
    "quoted": '{name}: "{field}"',
    "upper": "{NAME}: {field}",
    "lower": "{lower}: {field}",
}

_BLOCK = re.compile(
    r'(?:(?:\#{1,4}\ )?(?P<name>[^{}\n:="\#]{1,60}?)(?P<mark>:\n|:\ ?|\ =\ |\ -\ |\n))?'
    rf'(?P<quote>"?)\{{(?P<field>{FIELD_NAME})\}}(?P=quote)(?:\n|\Z)',
    re.VERBOSE,
)


def read_template(template: str) -> list[tuple[str | None, str]] | None:
    """The shown name (None if there is none) and the field of each input field, in order.

    Returns None if the template is not a plain list of fields: edits must not change it, or its own text would be lost.
    """
    found: list[tuple[str | None, str]] = []
    place = 0
    while place < len(template):
        match = _BLOCK.match(template, place)
        if match is None:
            return None
        found.append((match["name"], match["field"]))
        place = match.end()
    names = [field for _, field in found]
    if not found or template.endswith("\n") or len(set(names)) < len(names) or "labels" in names:
        return None
    return found


def write_template(shown: list[tuple[str | None, str]], style: str) -> str:
    """The fields in one style of ``STYLES``; fields without a name stay without one."""
    return "\n".join(f"{{{field}}}" if name is None else _styled(name, field, style) for name, field in shown)


def _styled(name: str, field: str, style: str) -> str:
    values = {
        "{name}": capitalise(name.lower() if name.isupper() else name),
        "{NAME}": name.upper(),
        "{lower}": name.lower(),
        "{field}": f"{{{field}}}",
    }
    return re.sub(r"\{(?:name|NAME|lower|field)\}", lambda match: values[match[0]], STYLES[style])
