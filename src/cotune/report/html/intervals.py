"""The interval of a score as a journal holds it: a share of right answers among so many rows."""

from __future__ import annotations

from cotune.report.html.markup import percent
from cotune.report.html.plot import Point


def share_interval(score: float, rows: int, metric: str) -> Point | None:
    """Wilson's 95% interval of an accuracy; None for other metrics, whose intervals need the answers themselves."""
    if metric != "accuracy" or rows < 1 or not 0 <= score <= 1:
        return None
    from cotune.evaluate.intervals import wilson

    # Journals round scores, so the number of right answers is the nearest whole one.
    found = wilson(min(rows, round(score * rows)), rows)
    return found.low, found.high


def told(score: float, rows: int, metric: str) -> str:
    """``51.6% (39.4 to 63.6, 62 rows)``."""
    ci = share_interval(score, rows, metric)
    between = f"{percent(ci[0])} to {percent(ci[1])}, " if ci else ""
    return f"{percent(score)}% ({between}{rows} rows)"
