"""How far a run is that was started from Python: one line that renews itself, in a notebook or on standard error."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from cotune.report.terminal.lines import speaks_unicode, write_line
from cotune.report.terminal.narration import Story, stage_name
from cotune.report.terminal.pace import Pace
from cotune.report.terminal.plain import clock, decimal, duration, one_line

_CELLS = 24
_INTERVALS = {"notebook": 0.5, "terminal": 0.25, "lines": 15.0}


@dataclass(frozen=True)
class Progress:
    """What is shown.

    Attributes:
        share: of the run that is done, from 0 to 1; None where that is not known.
        text: what goes on.
    """

    share: float | None
    text: str


class BarView:
    """Draws a run's progress again and again.

    Args:
        draw: shows one state in place of the one before.
        interval: seconds between two states at least.
        end: is called once with the last state.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        draw: Callable[[Progress], None],
        *,
        interval: float = 0.5,
        end: Callable[[Progress], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._draw, self._interval, self._end, self._now = draw, interval, end, now
        self._story, self._pace = Story(), Pace(now)
        self._stage, self._last, self._closed = "loading the model", float("-inf"), False
        self._show()

    def event(self, event: Mapping[str, Any]) -> None:
        self._pace.saw_event(event)
        self._story.tell(event)
        self._show()

    def progress(self, stage: str, what: str, tokens: int) -> None:
        self._stage = stage_name(stage)
        self._pace.saw_tokens(tokens)
        self._show()

    def set_time_left(self, seconds: float | None) -> None:
        self._pace.set_left(seconds)

    def close(self) -> None:
        """Show the last state. May be called again."""
        if not self._closed:
            self._closed = True
            (self._end or self._draw)(self._state())

    def _show(self) -> None:
        if self._now() - self._last >= self._interval:
            self._last = self._now()
            self._draw(self._state())

    def _state(self) -> Progress:
        elapsed, left = self._pace.elapsed, self._pace.left
        share = None if left is None else min(1.0, elapsed / max(elapsed + left, 1e-9))
        parts = [f"cotune {self._story.task}".strip(), "ended" if self._closed else self._stage]
        if self._story.best and self._story.best[0] is not None:
            parts.append(f"best so far {decimal(self._story.best[0])}")
        rest = f", about {duration(left)} left" if left is not None and not self._closed else ""
        return Progress(1.0 if self._closed else share, " · ".join([*parts, f"{clock(elapsed)}{rest}"]))


def python_view(stream: TextIO | None = None) -> BarView:
    """The view of a run that was started from Python: in a notebook a bar, on a terminal a line, elsewhere a line now and then.

    Args:
        stream: where lines go, standard error by default.
    """
    out = stream or sys.stderr
    if stream is None and in_notebook():
        show = _notebook_drawing()
        return BarView(show, interval=_INTERVALS["notebook"])
    if out.isatty():
        return BarView(
            lambda state: _redraw(out, bar_line(state, unicode=speaks_unicode(out))),
            interval=_INTERVALS["terminal"],
            end=lambda state: _redraw(out, ""),
        )
    return BarView(lambda state: _say(out, state.text), interval=_INTERVALS["lines"])


def in_notebook() -> bool:
    """Whether this process shows rich output: a kernel of Jupyter, Colab and the like."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ != "TerminalInteractiveShell"


def bar_line(state: Progress, *, width: int = 100, unicode: bool = True) -> str:
    """A state as one line of text."""
    full, empty = ("█", "░") if unicode else ("#", "-")
    filled = round(_CELLS * (state.share or 0.0))
    return one_line(f"{full * filled}{empty * (_CELLS - filled)} {state.text}", width)


def bar_html(state: Progress) -> str:
    """A state as one block of HTML."""
    value = "" if state.share is None else f' value="{state.share:.3f}"'
    return f'<div><progress max="1"{value} style="width:16em"></progress> {html.escape(state.text)}</div>'


def _notebook_drawing() -> Callable[[Progress], None]:
    from IPython.display import HTML, display

    handle = display(HTML(bar_html(Progress(0.0, "cotune"))), display_id=True)

    def draw(state: Progress) -> None:
        if handle is not None:
            handle.update(HTML(bar_html(state)))

    return draw


def _redraw(out: TextIO, line: str) -> None:
    try:
        out.write(f"\r\x1b[K{line}")
        out.flush()
    except (OSError, ValueError):
        return


def _say(out: TextIO, text: str) -> None:
    try:
        write_line(out, text)
    except (OSError, ValueError):
        return
