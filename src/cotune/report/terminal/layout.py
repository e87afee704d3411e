"""Parts of the final summary: tables of numbers, bullets, and texts behind a bar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cotune.errors import counted
from cotune.plain import harmless

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_PROMPT_LINES = 40
# Least width of a terminal for two spaces between a table's columns.
_ROOMY = 72


def prompt_block(text: str) -> RenderableType:
    """The prompt's text behind a bar, which separates it from cotune's own text."""
    from rich.console import Group
    from rich.text import Text

    lines = harmless(text).split("\n")
    shown = [Text(line.expandtabs(4)) for line in lines[:_PROMPT_LINES]]
    if len(lines) > _PROMPT_LINES:
        more = counted(len(lines) - _PROMPT_LINES, "more line")
        shown.append(Text(f"… and {more}, in the bundle's prompt.json", style="bright_black"))
    return Group(*(_Behind("│ ", line) for line in shown))


def bullet(text: str) -> RenderableType:
    """A text behind a dash, with further lines indented."""
    from rich.text import Text

    return _Behind("- ", Text(text), repeat=False)


class _Behind:
    """A text wrapped behind a sign, which is repeated on each line or written on the first line only."""

    def __init__(self, sign: str, text: Any, *, repeat: bool = True) -> None:
        self._sign, self._text, self._repeat = sign, text, repeat

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        room = max(8, options.max_width - len(self._sign))
        for place, line in enumerate(self._text.wrap(console, room, overflow="fold")):
            sign = self._sign if self._repeat or place == 0 else " " * len(self._sign)
            yield Text.assemble((sign, "bright_black"), line, no_wrap=True, overflow="ignore")


def table_of(columns: list[str], width: int) -> Table:
    """A table with these headings; a column whose heading ends in ``>`` is right-aligned."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None, padding=(0, 2 if width >= _ROOMY else 1, 0, 0), pad_edge=False, header_style="bright_black", show_edge=False
    )
    for place, column in enumerate(columns):
        # In a narrow terminal names are wrapped, but not numbers.
        wraps = place == 0 or column == "what it is"
        table.add_column(
            Text(column.rstrip(">")),
            justify="right" if column.endswith(">") else "left",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
    return table
