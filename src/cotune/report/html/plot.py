"""SVG plots with positions in percent, so that they fit any width without a script and text keeps its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cotune.evaluate.words import gain_outcome, p_value
from cotune.plain import aside, between, ends_of, number
from cotune.report.html.markup import esc, signed_points

Point = tuple[float, float]
_STRIP_HEIGHT = 28


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(1, count)
    size = 10 ** math.floor(math.log10(raw))
    step = next((m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999), 10 * size)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{k * step:.15g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]


def percent_ticks(span: Point, count: int = 5) -> list[tuple[float, str]]:
    """Ticks in percent from 0 to 100: a margin reaches beyond the scores, and no score lies there."""
    return [(tick, f"{100 * tick:g}") for tick in nice_ticks(*span, count) if 0.0 <= tick <= 1.0]


def padded(values: Iterable[float], *, share: float = 0.06, least: float = 0.0) -> tuple[float, float]:
    """A range around the values with a margin, at least ``least`` wide; 0 to 1 without values."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    air = max(share * (high - low), (least - (high - low)) / 2, 1e-6)
    return low - air, high + air


def whole_ticks(most: int, count: int) -> list[tuple[float, str]]:
    """About ``count`` whole numbers from 0 to ``most``, as ticks of :meth:`Plot.axes`."""
    return [(tick, f"{tick:g}") for tick in nice_ticks(0, most, count) if tick == int(tick)]


class Plot:
    """A plot area in data coordinates: ``x`` from left to right, ``y`` from bottom to top.

    The height is in pixels, the width follows the page; screen readers get the label.
    """

    def __init__(self, x: Point, y: Point, *, height: int, label: str) -> None:
        self.x_range, self.y_range, self.height, self.label = x, y, height, label
        self._parts: list[str] = []

    def x(self, value: float) -> str:
        return f"{place_in(self.x_range, value):.2f}%"

    def y(self, value: float) -> str:
        return f"{100 - place_in(self.y_range, value):.2f}%"

    def raw(self, markup: str) -> None:
        self._parts.append(markup)

    def line(self, start: Point, end: Point, kind: str) -> None:
        self.raw(
            f'<line class="{kind}" x1="{self.x(start[0])}" y1="{self.y(start[1])}" '
            f'x2="{self.x(end[0])}" y2="{self.y(end[1])}"/>'
        )

    def path(self, points: Sequence[Point], kind: str, tip: str = "") -> None:
        """Add a line through points; it scales with the plot and keeps its stroke width."""
        if len(points) < 2:
            return
        places = " ".join(
            f"{10 * place_in(self.x_range, x):.1f},{1000 - 10 * place_in(self.y_range, y):.1f}" for x, y in points
        )
        hover = f' data-tip="{esc(tip)}"' if tip else ""
        self.raw(
            '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
            f'<polyline class="{kind}" points="{places}"{hover}/></svg>'
        )

    def dot(self, place: Point, kind: str, *, radius: float = 5, tip: str, prompt: str = "", name: str = "") -> None:
        """Add a dot; with ``prompt`` it is a button that opens that prompt."""
        x, y = self.x(place[0]), self.y(place[1])
        circle = f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius:.1f}" data-tip="{esc(tip)}"'
        if prompt:
            circle += f' data-prompt="{esc(prompt)}" tabindex="0" role="button" aria-label="{esc(name or tip)}"'
        self.raw(circle + "/>")

    def text(self, place: Point, text: str, kind: str, *, dx: float = 0, dy: float = 0) -> None:
        """Add a text at a position, offset by pixels."""
        self.raw(f'<text class="{kind}" x="{self.x(place[0])}" y="{self.y(place[1])}" dx="{dx}" dy="{dy}">{esc(text)}</text>')

    def axes(self, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]) -> None:
        for value, shown in y_ticks:
            place = self.y(value)
            self.raw(f'<line class="grid" x1="0" x2="100%" y1="{place}" y2="{place}"/>')
            self.raw(f'<text class="tick y" x="0" dx="-8" y="{place}" dy="4">{esc(shown)}</text>')
        for value, shown in x_ticks:
            place = self.x(value)
            self.raw(f'<line class="grid" x1="{place}" x2="{place}" y1="0" y2="100%"/>')
            self.raw(f'<text class="tick x" x="{place}" y="100%" dy="18">{esc(shown)}</text>')

    def render(self, *, x_title: str = "", y_title: str = "", kind: str = "") -> str:
        """The plot as markup; titles are trusted."""
        above = f'<div class="axis-title">{y_title}</div>' if y_title else ""
        below = f'<div class="axis-title below">{x_title}</div>' if x_title else ""
        return (
            f'{above}<div class="plot {kind}"><svg class="area" width="100%" height="{self.height}" role="group" '
            f'aria-label="{esc(self.label)}">{"".join(self._parts)}</svg></div>{below}'
        )


def strip(span: Point, value: float | None, ci: Point | None, kind: str, *, tip: str, extra: str = "") -> str:
    """A plot of one value, if it is known, with its interval; ``extra`` is trusted markup drawn underneath."""

    def at(value: float) -> str:
        return f"{min(100.0, max(0.0, place_in(span, value))):.2f}%"

    parts = [extra]
    if ci is not None:
        parts.append(f'<line class="whisker {kind}" x1="{at(ci[0])}" x2="{at(ci[1])}" y1="50%" y2="50%"/>')
        for end in ci:
            if span[0] <= end <= span[1]:
                top, bottom = _STRIP_HEIGHT / 2 - 5, _STRIP_HEIGHT / 2 + 5
                parts.append(f'<line class="cap {kind}" x1="{at(end)}" x2="{at(end)}" y1="{top}" y2="{bottom}"/>')
    if value is not None:
        parts.append(f'<circle class="mark {kind}" cx="{at(value)}" cy="50%" r="6.5"/>')
    size = f'width="100%" height="{_STRIP_HEIGHT}"'
    return f'<svg class="strip" {size} aria-hidden="true" data-tip="{esc(tip)}">{"".join(parts)}</svg>'


def upright(span: Point, value: float, kind: str) -> str:
    """A line through the whole height of a strip, with a CSS class."""
    place = f"{place_in(span, value):.2f}%"
    return f'<line class="{kind}" x1="{place}" x2="{place}" y1="0" y2="100%"/>'


def strip_row(who: str, what: str, drawn: str, value: str, more: str, *, kind: str = "") -> str:
    """A row with name, description, strip, its value and more, all trusted markup; ``kind`` is its CSS class."""
    return (
        f'<div class="{f"row {kind}".rstrip()}"><div class="who"><b>{who}</b> <span>{what}</span></div>{drawn}'
        f'<div class="number"><b>{value}</b> {more}</div></div>'
    )


def difference_row(who: str, what: str, gain: Mapping[str, Any], span: Point, reading: str) -> str:
    """A :func:`strip_row` of a gain in points: its name, the arms, the gain as in a summary, and what it turned out to be."""
    outcome, ci, value = gain_outcome(gain), ends_of(gain.get("ci")), number(gain.get("value")) or 0.0
    ends, p = ("", "") if outcome == "same arm" else (between(ci, signed_points), p_value(gain.get("p")))
    kind = {"gain": "up", "loss": "down"}.get(outcome or "", "quiet")
    tip = f"{who}: {signed_points(value)} points{aside(ends)}\n{p_value(gain.get('p'))}, {gain.get('test', '')}"
    drawn = strip(span, value, ci, kind, tip=f"{tip}\n{gain.get('interval', '')}", extra=upright(span, 0.0, "zero"))
    tested = f", <span>{p}</span>" if p else ""
    beside = f'<span>{ends}</span><span class="told {kind}">{reading}{tested}</span>'
    return strip_row(who, what, drawn, signed_points(value), beside)


def strips(rows: Iterable[str], span: Point, *, signed: bool = False) -> str:
    """Rows from :func:`strip_row` above a common axis, in percent or, if ``signed``, in percentage points."""
    ticks = [(t, _signed_tick(t)) for t in nice_ticks(*span, 4)] if signed else percent_ticks(span, 4)
    axis = f'<div class="row axis" aria-hidden="true"><div></div>{scale(span, ticks)}<div></div></div>'
    return f'<div class="strips">{"".join(rows)}{axis}</div>'


def _signed_tick(value: float) -> str:
    return f"{100 * value:+g}".replace("-", "−") if value else "0"


def scale(span: Point, ticks: Sequence[tuple[float, str]]) -> str:
    """The axis under a column of strips."""
    marks = "".join(
        f'<text class="tick x" x="{place_in(span, value):.2f}%" y="14">{esc(shown)}</text>' for value, shown in ticks
    )
    return f'<svg class="strip scale" width="100%" height="20" aria-hidden="true">{marks}</svg>'


def place_in(span: Point, value: float) -> float:
    """Position of a value in a range in percent."""
    width = span[1] - span[0]
    return 50.0 if width == 0 or not math.isfinite(value) else 100 * (value - span[0]) / width
