"""The winner's tuned prefix, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.report.html.markup import data_text, esc, figure
from cotune.report.html.sections.record import RunRecord
from cotune.report.terminal.plain import fields, items, number

_CAPTION = (
    "Moved: how far training took the token’s keys and values from where the text had them, as a root mean square over all "
    "layers in units of each layer’s own size. Nearest words: by the cosine of the first layer’s values, which are made from a "
    "word alone and which an untrained token shares with its own word. Deeper layers, where most of the answer may come from, "
    "have no words."
)


def prefix_section(record: RunRecord) -> str:
    """A table of the prefix's tokens; empty if the run has no prefix."""
    prefix = record.value("prefix")
    rows = "".join(_row(place, fields(item)) for place, item in enumerate(items(prefix.get("tokens"))))
    if not rows:
        return ""
    head = "<tr><th>Place</th><th>Stands for</th><th>Moved</th><th>Nearest words now</th></tr>"
    length, shown = number(prefix.get("length")), len(items(prefix.get("tokens")))
    title = f"{esc(prefix.get('length', '?'))} trained tokens before the rest of the prompt"
    title += f", the first {shown} of them" if length is not None and length > shown else ""
    return figure(title, f"<div class=scroll><table class=plain>{head}{rows}</table></div>", _CAPTION, kind="wide")


def _row(place: int, token: Mapping[str, Any]) -> str:
    text = token.get("text")
    moved = number(token.get("moved"))
    stands = "–" if text is None else _word(text)
    near = ", ".join(_near(items(pair)) for pair in items(token.get("words"))) or "–"
    distance = "–" if moved is None else f"{moved:.2f}"
    return f"<tr><td class=num>{place}</td><td>{stands}</td><td class=num>{distance}</td><td>{near}</td></tr>"


def _near(pair: list[Any]) -> str:
    if len(pair) != 2 or (cosine := number(pair[1])) is None:
        return "–"
    return f"{_word(pair[0])} <span class=quiet>{cosine:.2f}</span>"


def _word(text: object) -> str:
    return f"<code>{data_text(str(text)[:40].replace(chr(10), '⏎') or '(empty)')}</code>"
