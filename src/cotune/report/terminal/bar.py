"""Progress of a run that was started from Python: one line that is redrawn, in a notebook or on standard error."""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from cotune.plain import clock, decimal, duration, fields, one_line
from cotune.report.terminal.lines import FollowingView, Output, speaks_unicode
from cotune.report.terminal.narration import stage_name

_CELLS = 24
_MOST_COLUMNS, _USUAL_COLUMNS = 100, 80
"""Widest line, and the assumed width of a terminal that does not report one."""
_INTERVALS = {"notebook": 0.5, "terminal": 0.25, "lines": 15.0}


@dataclass(frozen=True)
class Progress:
    """The state that is shown.

    Attributes:
        share: share of the run that is done, from 0 to 1; None if not known.
    """

    share: float | None
    text: str


class BarView(FollowingView):
    """Redraws a run's progress.

    Args:
        draw: function that replaces the shown state.
        interval: minimum seconds between two states.
        end: called once with the last state; ``draw`` by default.
        now: monotonic clock in seconds.
    """

    def __init__(
        self,
        draw: Callable[[Progress], None],
        *,
        interval: float = 0.5,
        end: Callable[[Progress], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(now)
        self._draw, self._interval, self._end = draw, interval, end or draw
        self._stage, self._last, self._ended = "loading the model", float("-inf"), ""
        self._show()

    def event(self, event: Mapping[str, Any]) -> None:
        self._pace.saw_event(event)
        self._story.tell(event)
        noted = one_line(fields(event.get("value")).get("text") or "", 80) if event.get("kind") == "note" else ""
        self._stage = noted or self._stage
        # The work that a note announces may take long without further events.
        self._show(at_once=bool(noted))

    def progress(self, stage: str, what: str, tokens: int) -> None:
        self._stage = stage_name(stage)
        self._pace.saw_tokens(tokens)
        self._show()

    def close(self, *, failed: bool = False) -> None:
        """Show the last state; the bar of a ``failed`` run stays at its share. Further calls do nothing."""
        if not self._ended:
            self._ended = "stopped" if failed else "ended"
            self._end(self._state())

    def _show(self, *, at_once: bool = False) -> None:
        if at_once or self._now() - self._last >= self._interval:
            self._last = self._now()
            self._draw(self._state())

    def _state(self) -> Progress:
        elapsed, left = self._pace.elapsed, self._pace.left
        share = None if left is None else min(1.0, elapsed / max(elapsed + left, 1e-9))
        parts = [f"cotune {self._story.task}".strip(), self._ended or self._stage]
        if self._story.best and self._story.best[0] is not None:
            parts.append(f"best so far {decimal(self._story.best[0])}")
        rest = f", about {duration(left)} left" if left is not None and not self._ended else ""
        # A bar without a share would keep moving.
        share = 1.0 if self._ended == "ended" else share or 0.0 if self._ended else share
        return Progress(share, " · ".join([*parts, f"{clock(elapsed)}{rest}"]))


def python_view(stream: TextIO | None = None) -> BarView:
    """The view of a run that was started from Python.

    A bar in a notebook, a redrawn line on a terminal, and else a line now and then; on standard error if ``stream`` is None.
    """
    out = stream or sys.stderr
    if stream is None and in_notebook():
        return BarView(_notebook_drawing(), interval=_INTERVALS["notebook"])
    written = Output(out)
    if out.isatty():
        return BarView(
            lambda state: written.redraw(bar_line(state, width=_columns(out), unicode=speaks_unicode(out))),
            interval=_INTERVALS["terminal"],
            end=lambda state: written.redraw(""),
        )
    return BarView(lambda state: written.line(state.text), interval=_INTERVALS["lines"])


def _columns(out: TextIO) -> int:
    """Width of a line: one column less than the terminal, since some terminals wrap a full line."""
    try:
        columns = os.get_terminal_size(out.fileno()).columns
    except (OSError, ValueError, AttributeError):
        columns = 0
    return min(_MOST_COLUMNS, max(2, (columns or _USUAL_COLUMNS) - 1))


def in_notebook() -> bool:
    """Whether this process is a notebook kernel that displays HTML, such as Jupyter or Colab."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ != "TerminalInteractiveShell"


def bar_line(state: Progress, *, width: int = 100, unicode: bool = True) -> str:
    """A state as one line of at most ``width`` columns."""
    from rich.cells import cell_len

    full, empty = ("█", "░") if unicode else ("#", "-")
    cells = min(_CELLS, width // 3)
    filled = round(cells * (state.share or 0.0))
    text = f"{full * filled}{empty * (cells - filled)} {state.text}"
    # Letters of some scripts take two columns.
    return next(line for most in range(width, 0, -1) if cell_len(line := one_line(text, most)) <= width or most == 1)


def bar_html(state: Progress) -> str:
    """A state as an HTML block."""
    value = "" if state.share is None else f' value="{state.share:.3f}"'
    return f'<div><progress max="1"{value} style="width:16em"></progress> {html.escape(state.text)}</div>'


def _notebook_drawing() -> Callable[[Progress], None]:
    from IPython.display import HTML, display

    handle = display(HTML(bar_html(Progress(0.0, "cotune"))), display_id=True)

    def draw(state: Progress) -> None:
        if handle is not None:
            handle.update(HTML(bar_html(state)))

    return draw
