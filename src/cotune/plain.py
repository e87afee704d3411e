"""Formatting for people: durations, amounts, and untrusted texts made safe for a terminal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Such characters could move the cursor, change colours or reorder the line.
_DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LARGEST = 1e15
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def harmless(text: object) -> str:
    """The text with control, direction and lone surrogate characters spelled as ``\\x1b`` or ``\\u202e``.

    Line feeds and tabs stay; letters of every script stay as they are.
    """
    # Keep Windows line ends.
    plain = str(text).replace("\r\n", "\n")
    return _DANGEROUS.sub(lambda match: match[0].encode("unicode_escape").decode(), plain)


def one_line(text: object, limit: int = 60) -> str:
    """The text on one line, at most ``limit`` characters, cut with an ellipsis and never inside a combined character."""
    line = " ".join(harmless(text).split())
    if len(line) <= limit:
        return line
    end = max(1, limit - 1)
    while end > 1 and (unicodedata.combining(line[end]) or "\u200d" in line[end - 1 : end + 1] or line[end] == "\ufe0f"):
        end -= 1
    return line[:end].rstrip() + "…"


def number(value: object) -> float | None:
    """The value as a number from -1e15 to 1e15; None for any other value.

    No measurement of a run is larger, and plots and intervals of such numbers are computed without overflow.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        parsed = float(value)
    except OverflowError:
        return None
    return parsed if abs(parsed) <= _LARGEST else None


def count_of(value: object) -> int:
    """The value as a whole number; 0 for any other value."""
    return int(number(value) or 0)


def ends_of(interval: object) -> tuple[float, float] | None:
    """The two ends of an interval; None for any other value."""
    low, high = ([*map(number, items(interval)), None, None])[:2]
    return None if low is None or high is None else (low, high)


def between(ends: Sequence[Any] | None, shown: Callable[[Any], str] | None = None) -> str:
    """``0.918 to 0.959``: the ends of an interval, formatted by ``shown``; empty if there is none."""
    return " to ".join(map(shown or decimal, ends or ()))


def interval_text(ci: object, shown: Callable[[Any], str] | None = None) -> str:
    """An interval as ``0.918 to 0.959``, its ends formatted by ``shown``; ``-`` if not known."""
    ends = items(ci)
    return between(ends, shown) if len(ends) == 2 and any(number(end) is not None for end in ends) else "-"


def splits_text(counts: object) -> str:
    """The number of rows of each split: ``350 train, 150 dev, 500 test``; journals sort the keys, so they are ordered here."""
    known = fields(counts)
    order = [name for name in dict.fromkeys(("train", "dev", "test", *known)) if name in known]
    return ", ".join(f"{one_line(known[name], 12)} {one_line(name, 12)}" for name in order)


def sentences(text: str) -> list[str]:
    """The sentences of a text."""
    return _SENTENCE.split(text)


def aside(text: str) -> str:
    """The text in parentheses behind a space; empty if the text is."""
    return f" ({text})" if text else ""


def fields(value: object) -> Mapping[str, Any]:
    """The value as a JSON object; an empty one for any other value."""
    return value if isinstance(value, Mapping) else {}


def shipped(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The summary of the arm in a run's bundle; empty if there is none."""
    return fields(fields(summary.get("arms")).get(shipped_arm(summary)))


def shipped_arm(summary: Mapping[str, Any]) -> str:
    """Name of the arm in a run's bundle."""
    arm = fields(summary.get("best")).get("arm")
    return arm if isinstance(arm, str) else "best_tuned"


def dollars(value: object) -> str:
    """An amount of money, with more digits if it is small; empty for any other value."""
    finite = number(value)
    if finite is None:
        return ""
    return f"{finite:.2f} USD" if finite >= 1 else f"{finite:.4f} USD"


def items(value: object) -> list[Any]:
    """The value as a JSON array; an empty one for any other value."""
    return list(value) if isinstance(value, (list, tuple)) else []


def duration(seconds: object) -> str:
    """A duration as ``41 s``, ``4 min 12 s`` or ``2 h 05 min``; ``-`` if not known."""
    finite = number(seconds)
    if finite is None:
        return "-"
    whole = max(0, round(finite))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_left(seconds: float) -> str:
    """The remaining time as ``about 41 s left``, or a note that the time is over."""
    return f"about {duration(seconds)} left" if seconds >= 0.5 else "over its time"


def clock(seconds: float) -> str:
    """``04:12`` or ``1:04:12``."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"


def amount(value: object) -> str:
    """A count as ``950``, ``12.3 k`` or ``4.1 M``; ``-`` if not known."""
    finite = number(value)
    if finite is None:
        return "-"
    # From 999.5 thousand on, a rounded number of thousands would have four digits.
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(finite) >= 0.9995 * size:
            scaled = finite / size
            return f"{scaled:.0f}{unit}" if abs(scaled) >= 100 else f"{scaled:.1f}{unit}"
    return f"{finite:.0f}"


def decimal(value: object, digits: int = 3) -> str:
    """A number with a fixed number of decimals; ``-`` if not known."""
    finite = number(value)
    return "-" if finite is None else f"{finite:.{digits}f}"
