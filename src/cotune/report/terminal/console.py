"""Views of a run in progress: a live view, plain lines when piped, JSON lines for programs, or nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from cotune.plain import amount, clock, decimal, fields, one_line, time_left
from cotune.report.terminal.lines import FollowingView, JsonView, PlainView, RunView, speaks_unicode
from cotune.report.terminal.narration import stage_name
from cotune.report.terminal.steps import Line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_LOG_LINES, _LINES_EACH = 7, 4
"""Number of lines of the log, and maximum number of lines of one event."""
_OTHER_LINES = 10
"""Lines of the live view without log and verdict; on a low terminal the log is shortened."""
_NAMES, _GAP, _FRAME = 8, 2, 4
"""Columns for the rows' names, between name and value, and for the frame."""
_REFRESH_PER_SECOND = 4


class LiveView(FollowingView):
    """A view in a terminal, redrawn in place."""

    def __init__(self, console: Console, *, now: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live

        super().__init__(now)
        self._console = console
        self._log: deque[tuple[float, Line]] = deque(maxlen=_LOG_LINES)
        self._stage, self._what = "", ""
        self._closed = False
        # Errors of a run usually come before its first step: until then notes are printed as plain lines.
        self._starts = False
        # Events come from the run's thread, while another thread draws.
        self._lock = threading.RLock()
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=_REFRESH_PER_SECOND)

    def start(self) -> None:
        self._starts = True

    def event(self, event: Mapping[str, Any]) -> None:
        begins = self._starts and event.get("kind") != "note"
        with self._lock:
            self._pace.saw_event(event)
            for line in self._story.tell(event):
                self._log.append((self._pace.elapsed, line))
                if self._starts and not begins:
                    self._console.print(line.text, style="bright_black", markup=False, highlight=False)
            if event.get("kind") in ("score", "write", "embed"):
                value = fields(event.get("value"))
                self._stage = str(value.get("stage") or self._stage)
                self._what = self._story.prompt(value.get("prompt_id"), 200)
        if begins:
            self._starts = False
            self._live.start()

    def progress(self, stage: str, what: str, tokens: int) -> None:
        with self._lock:
            self._stage, self._what = stage, what
            self._pace.saw_tokens(tokens)

    def set_time_left(self, seconds: float | None) -> None:
        with self._lock:
            super().set_time_left(seconds)

    def close(self) -> None:
        self._closed, self._starts = True, False
        # A closed terminal cannot be restored, and a thread that never started cannot be joined.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._live.stop()

    def render(self) -> RenderableType:
        """The view in its present state."""
        from rich import box
        from rich.console import Group
        from rich.panel import Panel
        from rich.rule import Rule
        from rich.text import Text

        with self._lock:
            title = Text.assemble(("cotune", "bold"), (f" {self._story.task}" if self._story.task else "", "cyan"))
            log = self._log_lines()
            parts = Group(self._facts(), *([Rule(style="bright_black")] if log else []), *log)
            return Panel(parts, title=title, title_align="left", border_style="bright_black", box=box.ROUNDED)

    def _facts(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        story, pace = self._story, self._pace
        grid = Table.grid(padding=(0, _GAP), expand=True)
        grid.add_column(style="bright_black", no_wrap=True, width=_NAMES)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)

        stage = "ended" if self._closed else stage_name(self._stage) or "loading the model"
        cycle = f" in cycle {story.cycle}" if story.cycle else ""
        grid.add_row("now", _line((stage, "bold green" if not self._closed else "bold"), (cycle, "")))
        grid.add_row("trying", _line((one_line(self._what, 300) or "-", "")))
        cross_fitted = story.measure == "cross-fitted"
        # The word is too long for the column of names.
        named = "best" if cross_fitted else story.measure
        for place, line in enumerate(self._verdict_lines()):
            grid.add_row("" if place else "verdict", line)
        if story.best:
            score, loss, prompt = story.best
            trail = " → ".join(decimal(level) for level in story.trail[-4:]) if len(story.trail) > 1 else ""
            trail = story.measure if cross_fitted else trail
            known = [] if score is None else [(decimal(score), "bold cyan")]
            if loss is not None:
                known.append((f"{'  ' if known else ''}log-loss {loss:.3f}", "" if known else "bold cyan"))
            grid.add_row(named, _line(*known, (f"   {trail}", "bright_black")))
            grid.add_row("with", _line((one_line(prompt, 300), "")))
        else:
            grid.add_row(named, _line(("-", "")))
        rate = pace.rate
        speed = f"{rate:,.0f} tokens/s" if rate is not None else "-"
        so_far = f"   {amount(pace.tokens)} tokens so far" if pace.tokens else ""
        grid.add_row("speed", _line((speed, ""), (so_far, "bright_black")))
        left = None if self._closed else pace.left
        rest = (f" of {story.budget}" if story.budget else "") + ("" if left is None else f"   {time_left(left)}")
        grid.add_row("time", _line((clock(pace.elapsed), "bold"), (rest, "")))
        if left is not None:
            whole = max(pace.elapsed + left, 1e-9)
            bar = ProgressBar(total=whole, completed=pace.elapsed, complete_style="cyan", finished_style="cyan")
            grid.add_row(Text(""), bar)
        return grid

    def _verdict_lines(self) -> list[Text]:
        verdict = self._story.verdict
        return self._wrapped(verdict, "bold green", self._width - _NAMES - _GAP) if verdict else []

    def _log_lines(self) -> list[Text]:
        from rich.text import Text

        room = min(_LOG_LINES, max(0, self._console.height - _OTHER_LINES - len(self._verdict_lines()) - 1))
        styles = {"verdict": "bold green", "news": "", "failure": "bold red", "note": "bright_black"}
        lines: list[Text] = []
        for at, entry in reversed(self._log):
            style = "green" if entry.best else styles.get(entry.level, "")
            moment = f"{clock(at)}  "
            wrapped = self._wrapped(entry.text, style, self._width - len(moment))
            if len(lines) + len(wrapped) > room:
                break
            signs = [moment] + [" " * len(moment)] * (len(wrapped) - 1)
            lines[:0] = [Text.assemble((sign, "bright_black"), line) for sign, line in zip(signs, wrapped, strict=True)]
        return lines

    @property
    def _width(self) -> int:
        return max(20, self._console.width - _FRAME)

    def _wrapped(self, text: str, style: str, width: int) -> list[Text]:
        """A text wrapped to at most a few lines; the last one ends in an ellipsis if the text is longer."""
        from rich.text import Text

        lines = list(Text(text, style).wrap(self._console, width, overflow="fold"))
        if len(lines) > _LINES_EACH:
            lines = lines[:_LINES_EACH]
            lines[-1].truncate(max(1, width - 1))
            lines[-1].append("…")
        return lines


def make_view(json: bool, quiet: bool, stream: TextIO, is_terminal: bool) -> RunView:
    """The view for a stream: JSON lines, nothing if ``quiet``, else a live view, or plain lines.

    Plain lines are for pipes, and for terminals without cursor movement or Unicode.
    """
    if json:
        return JsonView(stream)
    if quiet:
        return RunView()
    if is_terminal and speaks_unicode(stream):
        from rich.console import Console

        console = Console(file=stream, force_terminal=True)
        if not console.is_dumb_terminal:
            return LiveView(console)
    return PlainView(stream)


def _line(*parts: tuple[str, str]) -> Any:
    from rich.text import Text

    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
