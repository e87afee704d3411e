"""Names as YAML, for task files and for hints on what to write into them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from contextlib import suppress

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./ -]*")


def yaml_name(text: str) -> str:
    """A text as YAML on one line, in quotes if YAML 1.1 or 1.2 would otherwise read it as something else."""
    import yaml

    # A date that does not exist is a ValueError.
    with suppress(ValueError):
        if _PLAIN.fullmatch(text) is not None and not is_number(text) and yaml.safe_load(text) == text:
            return text
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=sys.maxsize)).strip()


def yaml_list(texts: Iterable[str]) -> str:
    """Texts as a YAML list on one line."""
    return f"[{', '.join(map(yaml_name, texts))}]"


def is_number(text: str) -> bool:
    """Whether a text is a number, also in forms such as ``1e3``, which YAML 1.1 reads as a text."""
    try:
        float(text)
    except ValueError:
        return False
    return True
