"""Score against seconds as a picture: a curve for cotune, a point for each peer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cotune.report.html.markup import esc
from cotune.report.html.plot import nice_ticks, padded

_WIDTH, _HEIGHT = 760, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 20, 44, 52
_SECONDS = ((1, "1 s"), (3, "3 s"), (10, "10 s"), (30, "30 s"), (60, "1 min"), (180, "3 min"), (600, "10 min"),
            (1800, "30 min"), (3600, "1 h"))  # fmt: skip
_LETTER, _BOLD, _HALF, _GAP = 7, 8, 6.5, 9
"""What a letter of a name takes on average, and one of cotune's; half a line; from a mark's middle to its name: in pixels."""
_SHIFTS = sorted(range(-120, 121, 5), key=abs)
"""How far a name may be moved up or down from beside its mark, the nearest first."""

Box = tuple[float, float, float, float]
"""Left, right, top and bottom."""


@dataclass(frozen=True)
class Point:
    """One way's score and the seconds to it.

    Attributes:
        name: as the picture tells it.
        seconds: to train.
        score: on the test rows.
        ci: its 95% interval; None where it is not shown.
        ours: whether it is cotune's.
    """

    name: str
    seconds: float
    score: float
    ci: tuple[float, float] | None = None
    ours: bool = False


def score_picture(title: str, points: Sequence[Point], curve: Sequence[tuple[float, float]], y_title: str = "accuracy") -> str:
    """An SVG file's text; it needs neither a script nor a style from elsewhere.

    Args:
        title: above it.
        points: of all ways.
        curve: seconds and score of each bundle of one cotune run.
        y_title: what the score is.
    """
    times = [max(0.3, point.seconds) for point in points] + [max(0.3, at) for at, _ in curve]
    low, high = math.log10(min(times, default=1)) - 0.08, math.log10(max(times, default=100)) + 0.35
    levels = [point.score for point in points] + [score for _, score in curve]
    floor, ceiling = padded(levels, share=0.08, least=0.1)
    floor, ceiling = max(0.0, floor), min(1.0, ceiling)

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log10(max(0.3, seconds)) - low) / (high - low)

    def y(score: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (score - floor) / (ceiling - floor)

    parts = [f'<text x="{_LEFT}" y="22" class="title">{esc(title)}</text>']
    for tick in nice_ticks(floor, ceiling, 5):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
    for seconds, told in _SECONDS:
        if low <= math.log10(seconds) <= high:
            at = x(seconds)
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
            parts.append(f'<text class="tick" x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{told}</text>')
    parts.append(
        f'<text class="tick" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">'
        "seconds to train, imports and loading included</text>"
    )
    parts.append(f'<text class="tick" x="{_LEFT}" y="{_TOP - 6}">{esc(y_title)}</text>')
    steps = [(x(at), y(score)) for at, score in curve]
    if steps:
        parts.append(_steps(steps))
        parts += [f'<circle class="bundle" cx="{at:.1f}" cy="{level:.1f}" r="3.5"/>' for at, level in steps]
    places = [(x(point.seconds), y(point.score), point) for point in points]
    parts += [*_marks(places, y), *_names(places, steps)]
    style = (
        "text{font:12px system-ui,sans-serif;fill:#444}.title{font-size:15px;font-weight:600;fill:#111}"
        ".grid{stroke:#e3e3e3}.ours{fill:#0b6e4f}.other{fill:#8a8f98}.curve{stroke:#0b6e4f;stroke-width:2;fill:none}"
        ".bundle{fill:#fff;stroke:#0b6e4f;stroke-width:1.5}.whisker{stroke-width:1.5}.whisker.ours{stroke:#0b6e4f}"
        ".whisker.other{stroke:#b9bdc4}.name{paint-order:stroke;stroke:#fff;stroke-width:4px}.name.ours{font-weight:600;fill:#0b6e4f}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'role="img" aria-label="{esc(title)}"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """A line that holds each level until the next bundle replaces it."""
    walked = [f"M{places[0][0]:.1f},{places[0][1]:.1f}"]
    walked += [f"H{at:.1f}V{level:.1f}" for at, level in places[1:]]
    return f'<path class="curve" d="{"".join(walked)}"/>'


def _marks(places: Sequence[tuple[float, float, Point]], y: Callable[[float], float]) -> list[str]:
    parts = []
    for at, level, point in places:
        kind = "ours" if point.ours else "other"
        if point.ci is not None:
            top, bottom = (min(_HEIGHT - _BOTTOM, max(_TOP, y(end))) for end in reversed(point.ci))
            parts.append(f'<line class="whisker {kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{at:.1f}" cy="{level:.1f}" r="5"/>')
    return parts


def _names(places: Sequence[tuple[float, float, Point]], steps: Sequence[tuple[float, float]]) -> Iterator[str]:
    """The names, each as near to its mark as it covers neither a mark, nor the curve, nor another name."""
    taken: list[Box] = [(at - 6, at + 6, level - 6, level + 6) for at, level in (*steps, *((at, y) for at, y, _ in places))]
    for (at, level), (then, after) in pairwise(steps):
        taken.append((at, then, level - 1, level + 1))
        taken.append((then - 1, then + 1, min(level, after), max(level, after)))
    for at, level, point in sorted(places, key=lambda place: place[1]):
        tried = list(_beside(at, level, len(point.name) * (_BOLD if point.ours else _LETTER)))
        free = (one for one in tried if _is_inside(one[1]) and not any(_meet(one[1], other) for other in taken))
        anchor, box = next(free, tried[0])
        taken.append(box)
        kind, x, y = "ours" if point.ours else "other", box[0] if anchor == "start" else box[1], box[2] + _HALF + 4
        yield f'<text class="name {kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{esc(point.name)}</text>'


def _beside(at: float, level: float, width: float) -> Iterator[tuple[str, Box]]:
    """Places for a name of some width, the best first: the end of it that is at the mark, and what it covers."""
    for middle in (level + shift for shift in _SHIFTS):
        yield "start", (at + _GAP, at + _GAP + width, middle - _HALF, middle + _HALF)
        yield "end", (at - _GAP - width, at - _GAP, middle - _HALF, middle + _HALF)


def _is_inside(box: Box) -> bool:
    return box[0] >= _LEFT and box[1] <= _WIDTH and box[2] >= _TOP - 2 and box[3] <= _HEIGHT - _BOTTOM


def _meet(one: Box, two: Box) -> bool:
    return one[0] < two[1] and two[0] < one[1] and one[2] < two[3] and two[2] < one[3]
