"""Answers that are no labels on the page: differences from the right ones, JSON results by field, and numbers as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cotune.errors import counted
from cotune.plain import between, fields, items, one_line
from cotune.report.html.markup import cut, data_text, esc, figure, percent, plain_table
from cotune.report.html.plot import Plot, nice_ticks
from cotune.report.html.sections.prompts import word_diff
from cotune.report.html.sections.record import AnsweredRow, AnsweredRows
from cotune.task.values.number import number_in, parse_number

MOST_COMPARED = 1_200
"""Most characters of an answer that are compared by words."""
_BEFORE = 100
"""Characters before the first difference that are shown of long answers."""
_SHOWN_ROWS, _SHOWN_DOTS = 12, 500


def written_changes(tests: AnsweredRows, row: AnsweredRow, arm: str, most_bytes: int = 6 * MOST_COMPARED) -> list[list[str]]:
    """Difference between the right answer and the arm's; empty if both are equal.

    Each piece is ``=``, ``-`` (missing) or ``+`` (should not be there) and a text; ``…`` stands for text that is left out. At
    most ``most_bytes`` of each of the two are compared, once they are embedded.
    """
    reference, answer = tests.labels[row.reference], tests.labels[row.answers[arm]]
    if reference == answer:
        return []
    differing = (i for i, (a, b) in enumerate(zip(reference, answer, strict=False)) if a != b)
    same = next(differing, min(len(reference), len(answer)))
    # The first difference of long answers is shown, with a little of the text before it.
    most = min(MOST_COMPARED, most_bytes)
    # How many characters fit depends on them: the common beginning gets half of the bytes, if it is cut at all.
    fits = len(cut(reference[:same][::-1], most_bytes // 2)[0])
    start = same - min(_BEFORE, fits) if same > most // 2 or fits < same else 0
    shown = [cut(text[start : start + most], most_bytes)[0] for text in (reference, answer)]
    left_out = any(len(text) > start + len(part) for text, part in zip((reference, answer), shown, strict=True))
    pieces = word_diff(*shown) or [["-", shown[0]], ["+", shown[1]]]
    return [*([["=", "… "]] if start else []), *pieces, *([["=", " …"]] if left_out else [])]


def written_errors(tests: AnsweredRows, arm: str, listed: Sequence[Any]) -> str:
    """An arm's answers: JSON by field, numbers as a plot, then the rows with the lowest scores.

    ``listed`` holds the arm's fields from the summary; empty if there are none.
    """
    return (_fields(listed) if listed else _numbers(tests, arm)) + _worst(tests, arm)


def _numbers(tests: AnsweredRows, arm: str) -> str:
    """Answers over right numbers; empty if the right answers are no numbers."""
    references = [parse_number(tests.labels[row.reference]) for row in tests.rows]
    if any(right is None for right in references):
        return ""
    # Long answers are searched for a number, which takes a while: only where it is shown.
    answers = [number_in(tests.labels[row.answers[arm]]) for row in tests.rows]
    pairs = enumerate(zip(references, answers, strict=True))
    points = [(float(right), float(answer), i) for i, (right, answer) in pairs if right is not None and answer is not None]
    if not points or not np.isfinite(points).all():
        return ""
    ends = [value for right, answer, _ in points for value in (right, answer)]
    air = 0.06 * (max(ends) - min(ends) or abs(max(ends)) or 1.0)
    low, high = min(ends) - air, max(ends) + air
    plot = Plot((low, high), (low, high), height=320, label="Answers over right numbers")
    ticks = [(tick, f"{tick:g}") for tick in nice_ticks(low, high)]
    plot.axes(ticks, ticks)
    plot.line((low, low), (high, high), "diagonal")
    for right, answer, i in points[:_SHOWN_DOTS]:
        row = tests.rows[i]
        texts = (one_line(tests.labels[place], 60) for place in (row.reference, row.answers[arm]))
        tip = "right {}, answered {}\n".format(*texts) + one_line(row.text, 160)
        plot.dot((right, answer), "dot tuned", radius=3, tip=tip)
    some = f"The first {_SHOWN_DOTS} of {counted(len(points), 'row')}. " if len(points) > _SHOWN_DOTS else ""
    caption = f"{some}On the diagonal an answer is equal to the right number."
    return figure("Answers over right numbers", plot.render(x_title="right number", y_title="answer"), caption)


def _fields(listed: Sequence[Any]) -> str:
    lines = ""
    for one in map(fields, listed):
        counts = "".join(f"<td class=num>{data_text(one_line(one.get(name), 12))}</td>" for name in ("right", "given"))
        shares = "".join(f"<td class=num>{_share(fields(one.get(name)))}</td>" for name in ("precision", "recall", "f1"))
        name = data_text(one_line(one.get("field") or "(the whole)", 60))
        lines += f"<tr><th scope=row>{name}</th>{counts}{shares}</tr>"
    return figure(
        "Fields",
        plain_table(("field", "right", "given", "precision", "recall", "F1"), lines),
        "For each field: in how many right answers it is, in how many given answers, and percent right, with 95% intervals.",
    )


def _share(scored: Mapping[str, Any]) -> str:
    ends = items(scored.get("ci"))
    return percent(scored.get("value")) + (f" <small>({between(ends, percent)})</small>" if len(ends) == 2 else "")


def _worst(tests: AnsweredRows, arm: str) -> str:
    wrong = sorted((row for row in tests.rows if not row.right[arm]), key=lambda row: row.values.get(arm, 0.0))
    if not wrong:
        return "<p class=empty>Every row of this arm counts as right.</p>"
    lines = "".join(
        f"<li><span class=sure>{percent(row.values.get(arm), 0)}</span> <span>{_marked(tests, row, arm)}</span>"
        f"<p>{data_text(one_line(row.text, 240))}</p></li>"
        for row in wrong[:_SHOWN_ROWS]
    )
    note = (
        f"{len(wrong)} of {counted(len(tests.rows), 'row')} count as wrong. In front: what the answer is worth, in percent. "
        "Struck out: should be there. Underlined: was answered instead."
    )
    return figure("Rows that are worth least", f'<ol class="mistakes">{lines}</ol>', note)


def _marked(tests: AnsweredRows, row: AnsweredRow, arm: str) -> str:
    reference, answer = tests.labels[row.reference], tests.labels[row.answers[arm]]
    if parse_number(reference) is not None and parse_number(answer) is not None:
        # Marked digits of two numbers would read as a third one.
        return data_text(f"right {reference}, answered {answer}")
    tags = {"=": "span", "-": "del", "+": "ins"}
    # Without generated answers, as under the metric likelihood, there is nothing to mark.
    pieces = written_changes(tests, row, arm) if answer else []
    if not pieces:
        return data_text(reference)
    return "".join(f"<{tags[op]}>{esc(text)}</{tags[op]}>" for op, text in pieces)
