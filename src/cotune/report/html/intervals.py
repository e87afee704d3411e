"""Confidence intervals of the scores in a journal: shares of right answers, and changes of such shares."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.errors import counted
from cotune.plain import between
from cotune.report.html.markup import percent
from cotune.report.html.plot import Point


def share_interval(score: float, rows: int, metric: str, groups: Sequence[int] = ()) -> Point | None:
    """Wilson's 95% interval of an accuracy; None for other metrics, whose intervals need the answers.

    Since it is not known which rows are right, each of the ``groups`` of rows counts as one row: the interval may be too wide,
    but not too narrow.
    """
    if metric != "accuracy" or rows < 1 or not 0 <= score <= 1:
        return None
    from cotune.evaluate.stats.intervals import wilson

    # Journals round scores, so round to the nearest whole number of right answers.
    share = min(rows, round(score * rows)) / rows
    counted = len(set(groups[:rows])) if groups else rows
    interval = wilson(share * counted, counted)
    return interval.low, interval.high


def paired_change(before: str, after: str, groups: Sequence[int] = ()) -> Point | None:
    """Paired 95% interval of the change of a share, from packed flags of the right rows; None if a side's are not known."""
    if not before or len(before) != len(after):
        return None
    from cotune.evaluate.packing import unpack_rows
    from cotune.evaluate.stats.paired import paired_intervals

    try:
        first, second = unpack_rows(before), unpack_rows(after)
    except ValueError:
        return None
    if len(first) != len(second) or len(groups or first) != len(first):
        return None
    ends = paired_intervals(first, second, seed=0, groups=groups or None)(0.95)
    return ends.low, ends.high


def share_text(score: float, rows: int, ci: Point | None) -> str:
    """``51.6% (39.4 to 63.6, 62 rows)``."""
    interval = f"{between(ci, percent)}, " if ci else ""
    return f"{percent(score)}% ({interval}{counted(rows, 'row')})"
