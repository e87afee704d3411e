"""The intervals of scores as a journal holds them: shares of right answers among so many rows, and their changes."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.errors import counted
from cotune.report.html.markup import percent
from cotune.report.html.plot import Point
from cotune.report.terminal.plain import between


def share_interval(score: float, rows: int, metric: str, groups: Sequence[int] = ()) -> Point | None:
    """Wilson's 95% interval of an accuracy; None for other metrics, whose intervals need the answers themselves.

    Args:
        score: share of right answers.
        rows: how many were asked.
        metric: its name.
        groups: group of each row, where they are grouped. Which of them are right is not known here, so that each group
            counts as one row: the interval may be too wide, not too narrow.
    """
    if metric != "accuracy" or rows < 1 or not 0 <= score <= 1:
        return None
    from cotune.evaluate.stats.intervals import wilson

    # Journals round scores, so the number of right answers is the nearest whole one.
    share = min(rows, round(score * rows)) / rows
    counted = len(set(groups[:rows])) if groups else rows
    found = wilson(share * counted, counted)
    return found.low, found.high


def paired_change(before: str, after: str, groups: Sequence[int] = ()) -> Point | None:
    """Paired 95% interval of a share's change; None where either side's rows are not known.

    Args:
        before: which dev rows were right, as the journal packs them; empty where it does not say.
        after: the same of the same rows after the change.
        groups: group of each row, where they are grouped.
    """
    if not before or len(before) != len(after):
        return None
    from cotune.evaluate.packing import unpack_rows
    from cotune.evaluate.stats.paired import paired_interval

    try:
        first, second = unpack_rows(before), unpack_rows(after)
    except ValueError:
        return None
    if len(first) != len(second) or len(groups or first) != len(first):
        return None
    ends = paired_interval(first, second, seed=0, groups=groups or None)
    return ends.low, ends.high


def share_text(score: float, rows: int, metric: str, groups: Sequence[int] = ()) -> str:
    """``51.6% (39.4 to 63.6, 62 rows)``."""
    ci = share_interval(score, rows, metric, groups)
    interval = f"{between(ci, percent)}, " if ci else ""
    return f"{percent(score)}% ({interval}{counted(rows, 'row')})"
