"""Docstrings on the site: references such as ``:class:`cotune.Task``` become links, or code where nothing is linked to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

_PAGE = Path(__file__).resolve().parents[1] / "api.md"
_SHOWN = frozenset(re.findall(r"^::: (\S+)$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE))


class Roles(griffe.Extension):
    """Rewrite the roles of every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            role = r":(?:attr|class|data|func|meth|mod):`~?([^`]+)`"
            obj.docstring.value = re.sub(role, _reference, obj.docstring.value)


def _reference(found: re.Match[str]) -> str:
    name = found[1]
    return f"[`{name}`][{name}]" if name in _SHOWN else f"`{name}`"
