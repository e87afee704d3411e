"""Escaping and truncating of texts for a page."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from cotune.evaluate.words import signed
from cotune.plain import between, harmless, items, number

_DASH = "–"
# Characters of one byte each, as many as there are, or any other character.
_PIECES = re.compile(r"([ !#-%'-;=?-\[\]-~]+)|.", re.DOTALL)
_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def esc(text: object) -> str:
    """The text escaped for HTML content and quoted attributes, with control and direction characters spelled out."""
    return html.escape(harmless(text), quote=True)


def data_text(text: object) -> str:
    """The escaped text in an element that isolates right-to-left text from its surroundings."""
    return f'<bdi dir="auto">{esc(text)}</bdi>'


def embedded_json(value: Any) -> str:
    """JSON that is safe inside a script element: it cannot end the element or open another."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPED)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, Mapping):
        return {harmless(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and number(value) is None:
        return None
    return value


def cut(text: str, most_bytes: int) -> tuple[str, int]:
    """The text cut to a number of bytes once embedded, and how many characters were cut off."""
    if len(text) * 6 <= most_bytes:
        return text, 0
    used = 0
    for piece in _PIECES.finditer(text):
        start, end = piece.span()
        plain = piece.lastindex is not None
        used += end - start if plain else _cost(piece[0])
        if used > most_bytes:
            place = end - (used - most_bytes) if plain else start
            return text[:place], len(text) - place
    return text, 0


@lru_cache(4096)
def _cost(character: str) -> int:
    if character.isascii():
        return 1 if character.isprintable() and character not in '<>&"\\' else 8
    return max(len(character.encode("utf-8", "surrogatepass")), 8 if not character.isprintable() else 0)


def signed_points(value: object) -> str:
    """A difference of scores in points: ``+3.2``, ``−1.0``."""
    finite = number(value)
    return _DASH if finite is None else signed(100 * finite).replace("-", "−")


def percent(value: object, digits: int = 1) -> str:
    """A score in percent without its sign: ``93.2``."""
    finite = number(value)
    return _DASH if finite is None else f"{100 * finite:.{digits}f}"


def interval_below(interval: object, shown: Callable[[object], str] = percent) -> str:
    """An interval on a separate line of a cell; empty if there is none."""
    ends = items(interval)
    return f"<div class=quiet>{between(ends, shown)}</div>" if len(ends) == 2 else ""


def figure(title: str, body: str, caption: str = "") -> str:
    """A figure with title (trusted text) and caption (trusted markup)."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure><h3>{title}</h3>{body}{below}</figure>"


def facts_table(rows: Iterable[Sequence[object]], *, kind: str = "") -> str:
    """A table of names with a value, or several of which the last is an interval; all of trusted markup."""
    lines = ""
    for name, *values in rows:
        kinds = ["", *[""] * (len(values) - 2), " class=ci"]
        cells = "".join(f"<td{kind}>{value}</td>" for kind, value in zip(kinds, values, strict=False))
        lines += f"<tr><th>{name}</th>{cells}</tr>"
    return f'<table class="{f"facts {kind}".rstrip()}">{lines}</table>'


def plain_table(heads: Sequence[str], lines: str, *, kind: str = "") -> str:
    """A table that scrolls sideways, with trusted heads and lines."""
    head = "".join(f"<th scope=col>{title}</th>" for title in heads)
    return f'<div class=scroll><table class="{f"plain {kind}".rstrip()}"><tr>{head}</tr>{lines}</table></div>'


def card(title: str, *parts: str) -> str:
    return f"<div class=card><h3>{title}</h3>{''.join(parts)}</div>"


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """The lines of a plot: CSS class, text, and trusted markup behind it."""
    lines = "".join(f'<li><span class="key {kind}"></span>{data_text(text)}{more}</li>' for kind, text, more in entries)
    return f'<ul class="legend tall">{lines}</ul>' if lines else ""


def chip(text: object, kind: str = "") -> str:
    return f'<span class="chip {kind}">{esc(text)}</span>'
