"""What is seen of a run while it goes on: one live view, plain lines when piped, JSON lines for machines, or nothing."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from cotune.report.narration import Story, Told
from cotune.report.plain import amount, clock, decimal, duration, fields, number, one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_LOG_LINES = 6
# Apart from the log, the live view's frame and rows; a lower terminal gets fewer lines of log.
_OTHER_LINES = 10
_REFRESH_PER_SECOND = 4
_STAGES = {
    "race": "racing prompts",
    "tune": "tuning",
    "embed": "embedding",
    "confirm": "confirming on dev",
    "test": "scoring the test split",
}


class RunView(Protocol):
    """Shows a run. A view never makes the run fail: a closed pipe silences it, an odd event is shown as it is."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in a line of the run's journal: an object with ``kind``, ``value`` and ``active_s``."""
        ...

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """``tokens`` more tokens were run in ``stage``; ``what`` says on what."""
        ...

    def set_time_left(self, seconds: float | None) -> None:
        """The run is expected to end in so many seconds; None where that is not known."""
        ...

    def close(self) -> None:
        """Stop showing and give the terminal back. May be called again."""
        ...


class Pace:
    """Rolling tokens a second, elapsed active time, and time left between two reports of it.

    Args:
        now: seconds of a clock that never goes back.
        window: seconds that the rate looks back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, window: float = 15.0) -> None:
        self._now, self._window = now, window
        self._samples: deque[tuple[float, int]] = deque()
        self._active, self._active_at = 0.0, now()
        self._left: tuple[float, float] | None = None
        self.tokens = 0

    def saw_event(self, event: Mapping[str, Any]) -> None:
        """Set the active time by an event's own."""
        if (active := number(event.get("active_s"))) is not None:
            self._active, self._active_at = active, self._now()

    def saw_tokens(self, tokens: int) -> None:
        """So many tokens were just finished."""
        self.tokens += tokens
        self._samples.append((self._now(), tokens))
        self._forget()

    def set_left(self, seconds: float | None) -> None:
        """The run is expected to last so long from now on."""
        found = number(seconds)
        self._left = None if found is None else (found, self._now())

    @property
    def elapsed(self) -> float:
        """Active seconds of the run, earlier sessions included."""
        return self._active + self._now() - self._active_at

    @property
    def left(self) -> float | None:
        """Seconds to the end, counted down since they were last set."""
        return None if self._left is None else max(0.0, self._left[0] - (self._now() - self._left[1]))

    @property
    def rate(self) -> float | None:
        """Tokens a second over the window; None where too little was seen in it."""
        self._forget()
        if len(self._samples) < 2 or (span := self._samples[-1][0] - self._samples[0][0]) <= 0:
            return None
        # The first sample's tokens were run before its time, the others' since then.
        return sum(tokens for _, tokens in list(self._samples)[1:]) / span

    def _forget(self) -> None:
        while self._samples and self._samples[0][0] < self._now() - self._window:
            self._samples.popleft()


class LiveView:
    """One view in a terminal, redrawn in place.

    Args:
        console: a rich console on the terminal.
        budget_text: the budget in words; the run's start event may name it instead.
        now: seconds of a clock that never goes back.
        live: whether to draw by itself; otherwise :meth:`render` gives what would be drawn.
    """

    def __init__(
        self,
        console: Console,
        budget_text: str = "",
        *,
        now: Callable[[], float] = time.monotonic,
        live: bool = True,
    ) -> None:
        from rich.live import Live

        self._console, self._budget = console, one_line(budget_text, 30)
        self._story, self._pace = Story(), Pace(now)
        self._log: deque[tuple[float, Told]] = deque(maxlen=_LOG_LINES)
        self._stage, self._what = "", ""
        self._closed = False
        # Events come from the run's thread, drawing from the refreshing one.
        self._lock = threading.RLock()
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=_REFRESH_PER_SECOND) if live else None
        if self._live:
            self._live.start()

    def event(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._pace.saw_event(event)
            for told in self._story.tell(event):
                self._log.append((self._pace.elapsed, told))
            if event.get("kind") == "score":
                value = fields(event.get("value"))
                self._stage = str(value.get("stage") or self._stage)
                self._what = self._story.prompt(value.get("prompt_id"), 200)

    def progress(self, stage: str, what: str, tokens: int) -> None:
        with self._lock:
            self._stage, self._what = stage, what
            self._pace.saw_tokens(tokens)

    def set_time_left(self, seconds: float | None) -> None:
        with self._lock:
            self._pace.set_left(seconds)

    def close(self) -> None:
        self._closed = True
        if self._live:
            self._live.stop()

    def render(self) -> RenderableType:
        """The view as it stands now."""
        from rich import box
        from rich.console import Group
        from rich.panel import Panel
        from rich.rule import Rule
        from rich.text import Text

        with self._lock:
            title = Text.assemble((" cotune ", "bold"), (f"{self._story.task} " if self._story.task else "", "cyan"))
            parts: list[RenderableType] = [self._facts()]
            log = self._log_lines()
            if log:
                parts += [Rule(style="bright_black"), *log]
            return Panel(Group(*parts), title=title, title_align="left", border_style="bright_black", box=box.ROUNDED)

    def _facts(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        story, pace = self._story, self._pace
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(style="bright_black", no_wrap=True, width=8)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)

        stage = "ended" if self._closed else _STAGES.get(self._stage, one_line(self._stage, 30)) or "starting"
        cycle = f"cycle {story.cycle}" if story.cycle else "before the first cycle"
        grid.add_row("now", _line((stage, "bold green" if not self._closed else "bold"), (f" in {cycle}", "")))
        grid.add_row("trying", _line((one_line(self._what, 300) or "-", "")))
        if story.best:
            score, loss, prompt = story.best
            trail = " → ".join(decimal(found) for found in story.trail[-4:]) if len(story.trail) > 1 else ""
            loss_told = "" if loss is None else f"  log-loss {loss:.3f}"
            grid.add_row("best dev", _line((decimal(score), "bold cyan"), (loss_told, ""), (f"   {trail}", "bright_black")))
            grid.add_row("with", _line((one_line(prompt, 300), "")))
        else:
            grid.add_row("best dev", _line(("-", "")))
        rate = pace.rate
        speed = f"{rate:,.0f} tokens/s" if rate is not None else "-"
        so_far = f"   {amount(pace.tokens)} tokens so far" if pace.tokens else ""
        grid.add_row("speed", _line((speed, ""), (so_far, "bright_black")))
        budget = self._budget or story.budget
        left = pace.left
        told = [(clock(pace.elapsed), "bold"), (f" of {budget}" if budget else "", "")]
        if left is not None and not self._closed:
            told.append((f"   about {duration(left)} left", ""))
        grid.add_row("time", _line(*told))
        if left is not None and not self._closed:
            whole = max(pace.elapsed + left, 1e-9)
            bar = ProgressBar(total=whole, completed=pace.elapsed, complete_style="cyan", finished_style="cyan")
            grid.add_row(Text(""), bar)
        return grid

    def _log_lines(self) -> list[RenderableType]:
        count = max(0, min(_LOG_LINES, self._console.height - _OTHER_LINES - 1))
        styles = {"news": "", "failure": "bold red", "note": "bright_black"}
        lines: list[RenderableType] = []
        for at, told in list(self._log)[-count:] if count else []:
            style = "green" if told.best else styles.get(told.level, "")
            lines.append(_line((f"{clock(at)}  ", "bright_black"), (told.text, style)))
        return lines


class PlainView:
    """One line for each thing worth knowing, with the elapsed time and no control codes: for pipes and logs.

    Args:
        stream: where lines go.
        now: seconds of a clock that never goes back.
        heartbeat: seconds without a line after which one says what is going on.
    """

    def __init__(self, stream: TextIO, *, now: Callable[[], float] = time.monotonic, heartbeat: float = 60.0) -> None:
        self._out, self._now, self._heartbeat = _Output(stream), now, heartbeat
        self._story, self._pace = Story(), Pace(now)
        self._last = now()

    def event(self, event: Mapping[str, Any]) -> None:
        self._pace.saw_event(event)
        for told in self._story.tell(event):
            self._say(told.text)

    def progress(self, stage: str, what: str, tokens: int) -> None:
        self._pace.saw_tokens(tokens)
        if self._now() - self._last < self._heartbeat:
            return
        rate, left = self._pace.rate, self._pace.left
        speed = f", {rate:,.0f} tokens/s" if rate is not None else ""
        rest = f", about {duration(left)} left" if left is not None else ""
        self._say(f"{_STAGES.get(stage, one_line(stage, 30))}: {one_line(what, 80)}{speed}{rest}")

    def set_time_left(self, seconds: float | None) -> None:
        self._pace.set_left(seconds)

    def close(self) -> None:
        return None

    def _say(self, text: str) -> None:
        self._last = self._now()
        self._out.line(f"[{clock(self._pace.elapsed)}] {text}")


class JsonView:
    """One JSON object a line: the journal's events as they are, and ``progress`` objects between them.

    A progress object holds ``stage``, ``what``, the ``tokens`` since the last one and ``time_left_s``. Numbers that are not finite
    become null.

    Args:
        stream: where lines go.
        now: seconds of a clock that never goes back.
        interval: seconds between two progress objects at least.
    """

    def __init__(self, stream: TextIO, *, now: Callable[[], float] = time.monotonic, interval: float = 1.0) -> None:
        self._out, self._now, self._interval = _Output(stream), now, interval
        self._pace = Pace(now)
        self._last = float("-inf")
        self._pending: tuple[str, str, int] | None = None

    def event(self, event: Mapping[str, Any]) -> None:
        self._flush()
        self._out.line(json.dumps(_as_json(event)))

    def progress(self, stage: str, what: str, tokens: int) -> None:
        if self._pending and self._pending[0] != stage:
            self._flush()
        self._pending = (stage, what, tokens + (self._pending[2] if self._pending else 0))
        if self._now() - self._last >= self._interval:
            self._flush()

    def set_time_left(self, seconds: float | None) -> None:
        self._pace.set_left(seconds)

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._pending is None:
            return
        stage, what, tokens = self._pending
        left = self._pace.left
        line = {"kind": "progress", "stage": stage, "what": what, "tokens": tokens}
        self._out.line(json.dumps(_as_json({**line, "time_left_s": None if left is None else round(left, 1)})))
        self._pending, self._last = None, self._now()


class QuietView:
    """Shows nothing."""

    def event(self, event: Mapping[str, Any]) -> None:
        return None

    def progress(self, stage: str, what: str, tokens: int) -> None:
        return None

    def set_time_left(self, seconds: float | None) -> None:
        return None

    def close(self) -> None:
        return None


def make_view(json: bool, quiet: bool, stream: TextIO, is_terminal: bool) -> RunView:
    """The view that suits where the output goes.

    Args:
        json: JSON lines are asked for; goes before ``quiet``, since a machine reads along.
        quiet: nothing is to be shown.
        stream: where it goes.
        is_terminal: whether that is a terminal. One that cannot move its cursor or show Unicode gets plain lines.
    """
    if json:
        return JsonView(stream)
    if quiet:
        return QuietView()
    if is_terminal and speaks_unicode(stream):
        from rich.console import Console

        console = Console(file=stream, force_terminal=True)
        if not console.is_dumb_terminal:
            return LiveView(console)
    return PlainView(stream)


def speaks_unicode(stream: object) -> bool:
    """Whether a text stream writes a form of UTF; one without an encoding, as in memory, takes all."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")


_ASCII = str.maketrans({"·": "-", "→": "->", "…": "...", "“": '"', "”": '"', "≈": "~", "│": "|", "─": "-"})


def write_line(stream: TextIO, text: str) -> None:
    """Write a line, whatever the stream's encoding: what it has no sign for is spelled or escaped.

    Raises:
        OSError: the stream's other end is gone.
        ValueError: the stream is closed.
    """
    if not speaks_unicode(stream):
        encoding = str(getattr(stream, "encoding", None))
        text = text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text + "\n")
    stream.flush()


class _Output:
    """Lines to a stream until its other end is gone; a reader that leaves must not end the run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def line(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            write_line(self._stream, text)
        except (OSError, ValueError):
            self._stream = None


def _line(*parts: tuple[str, str]) -> Any:
    from rich.text import Text

    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _as_json(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, float):
        return number(value)
    if value is None or isinstance(value, (str, int)):
        return value
    with contextlib.suppress(AttributeError):
        return _as_json(value.item())  # type: ignore[attr-defined]
    return str(value)
