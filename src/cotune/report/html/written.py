"""Written answers on the page: how they differ from what is right, and what of JSON is right field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cotune.report.html.markup import data_text, esc, figure, percent
from cotune.report.html.prompts import word_diff
from cotune.report.html.record import AnsweredRow, AnsweredRows
from cotune.report.plain import one_line

_MOST_COMPARED = 1_200
"""Characters of an answer that are compared word by word."""
_SHOWN_ROWS, _MOST_FIELDS = 12, 60


def written_changes(tests: AnsweredRows, row: AnsweredRow, arm: str) -> list[list[str]]:
    """Pieces that lead from the right answer to the given one; empty where both are equal.

    Each is ``=``, ``-`` (should be there) or ``+`` (should not) and a text.
    """
    gold, answer = tests.labels[row.gold][:_MOST_COMPARED], tests.labels[row.answers[arm]][:_MOST_COMPARED]
    if gold == answer:
        return []
    return word_diff(gold, answer) or [["-", gold], ["+", answer]]


def written_errors(tests: AnsweredRows, arm: str, output: Mapping[str, Any]) -> str:
    """An arm's answers: of JSON each field's precision and recall, then the rows that are worth least."""
    table = _fields(tests, arm, output) if output.get("type") == "json" else ""
    return table + _worst(tests, arm)


def _fields(tests: AnsweredRows, arm: str, output: Mapping[str, Any]) -> str:
    from cotune.task.answered import Answered
    from cotune.task.json_metrics import counts_by_field, fields_of
    from cotune.task.output import Output

    gold = [tests.labels[row.gold] for row in tests.rows]
    answered = Answered(gold, [tests.labels[row.answers[arm]] for row in tests.rows], Output.from_json(output))
    hits, right, given = np.split(counts_by_field(answered).sum(axis=0), 3)
    names, lines = fields_of(answered), ""
    for place in sorted(range(len(hits)), key=lambda i: -right[i])[:_MOST_FIELDS]:
        if right[place] + given[place] == 0:
            continue
        shares = [
            _share(hits[place], given[place]),
            _share(hits[place], right[place]),
            _share(2 * hits[place], right[place] + given[place]),
        ]
        counts = [str(int(right[place])), str(int(given[place]))]
        cells = "".join(f"<td class=num>{cell}</td>" for cell in (*counts, *shares))
        lines += f"<tr><th scope=row>{data_text(one_line(names[place] or '(the whole)', 60))}</th>{cells}</tr>"
    head = "".join(f"<th scope=col>{title}</th>" for title in ("field", "right", "given", "precision", "recall", "F1"))
    body = f'<div class="scroll"><table class="plain">{head}{lines}</table></div>'
    return figure(
        "Fields",
        body,
        "How often each field should stand in an answer, how often it was given, and percent right.",
        kind="wide",
    )


def _share(part: float, whole: float) -> str:
    return percent(part / whole) if whole else "–"


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
        f"{len(wrong)} of {len(tests.rows)} rows count as wrong. Struck out: should be there. Underlined: was written instead."
    )
    return figure("Rows that are worth least", f'<ol class="mistakes">{lines}</ol>', note, kind="wide")


def _marked(tests: AnsweredRows, row: AnsweredRow, arm: str) -> str:
    tags = {"-": "del", "+": "ins"}
    pieces = written_changes(tests, row, arm)
    if not pieces:
        return data_text(tests.labels[row.gold])
    return "".join(
        f"<{tags[op]}>{esc(text)}</{tags[op]}>" if op in tags else f"<span>{esc(text)}</span>" for op, text in pieces
    )
