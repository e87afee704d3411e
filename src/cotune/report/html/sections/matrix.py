"""Tables of single answers: test rows by arm, and dev rows by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cotune.errors import counted
from cotune.evaluate.words import arm_groups
from cotune.plain import count_of, fields, number, one_line
from cotune.report.html.intervals import share_text
from cotune.report.html.markup import cut
from cotune.report.html.sections.errors import NO_ROWS
from cotune.report.html.sections.prompts import Prompts
from cotune.report.html.sections.record import AnsweredRow, AnsweredRows, RunRecord
from cotune.report.html.sections.written import MOST_COMPARED, written_changes

_TOP = 3
_MOST_ROWS = {"test": 5_000, "dev": 1_000}
"""Most rows of a table. A row of a label task takes about half a kilobyte."""
_MOST_WRITTEN = {"test": 1_000, "dev": 250}
"""Most rows of a table of generated answers, of which each row holds the text and the changes of every arm."""
_BYTES = {"test": 1_200_000, "dev": 400_000}
"""Bytes of a table for the texts of its rows, and as many for the changes of generated answers."""
_LEAST_BYTES = 160
_TITLES = {"test": "test rows, arms", "dev": "dev rows, best prompts"}
_OPTIMISTIC = (
    f" The table “{_TITLES['dev']}” shows each prompt with the weights that it did best with. Both were chosen on these rows, "
    "so its scores are optimistic."
)


def matrix_section(record: RunRecord) -> str:
    """The empty table, which the page's script fills."""
    shown = [name for name, rows in (("test", record.tests), ("dev", record.devs)) if rows.arms]
    if not shown:
        return NO_ROWS.format(" yet: the test split is opened at the end" if not record.finished else "")
    written = record.tests.written or record.devs.written
    tables = "".join(f'<option value="{name}">{_TITLES[name]}</option>' for name in shown)
    left_out = " ".join(filter(None, (_left_out(name, rows) for name, rows in (("test", record.tests), ("dev", record.devs)))))
    # Generated answers rarely repeat, so no filter by answer is offered.
    hidden = " hidden" if written else ""
    return (
        "<p class=intro>Every row against everyone who answered it: ✓ right, ✗ wrong. A pattern below picks the rows that have "
        f"it; open a row for its text{', answers and how they differ' if written else ', answers and probabilities'}."
        f"{_OPTIMISTIC if 'dev' in shown else ''}{f' {left_out}' if left_out else ''}</p>"
        f'<div class="controls" id="matrix-controls"><label{"" if len(shown) > 1 else " hidden"}>Table '
        f'<select id="matrix-which">{tables}</select></label>'
        '<label>Show <select id="matrix-view"><option value="all">all rows</option>'
        '<option value="differ">arms differ</option><option value="wrong">all wrong</option>'
        '<option value="right">all right</option></select></label>'
        f'<label{hidden}>Label <select id="matrix-label"></select></label>'
        '<label>Text <input id="matrix-text" type="search" placeholder="contains…" autocomplete="off"></label>'
        '<span id="matrix-count" role="status"></span></div>'
        '<div id="matrix-patterns" class="patterns" role="group" aria-label="Patterns of right and wrong"></div>'
        '<div class="scroll"><table id="matrix-table"><thead></thead><tbody></tbody></table></div>'
        '<div class="pager" id="matrix-pager"></div>'
        "<noscript><p>The table needs JavaScript.</p></noscript>"
    )


def tables_for_page(record: RunRecord, prompts: Prompts) -> dict[str, Any]:
    """Data of each table for the page's script: columns, labels and rows."""
    summed = fields(record.summary.get("arms"))
    # Arms with the same prompt and weights give the same answers and share a column.
    groups = arm_groups({arm: fields(summed.get(arm)) for arm in record.tests.arms})
    tests = replace(record.tests, names=tuple(group.names[0] for group in groups))
    arms = [{"name": group.title} for group in groups]
    sources = {"test": (tests, arms), "dev": (record.devs, _columns(record.devs, prompts, record))}
    return {name: _table(name, rows, columns) for name, (rows, columns) in sources.items() if rows.arms}


def _table(name: str, rows: AnsweredRows, columns: list[dict[str, Any]]) -> dict[str, Any]:
    """The data of one table, bounded in size."""
    # Names without an answer to a later row have no column.
    shown = replace(rows, rows=rows.rows[: _most_rows(name, rows)], names=rows.arms)
    # Of generated answers, those of the rows left out are not needed.
    used = {place for row in shown.rows for place in (row.reference, *(row.answers[arm] for arm in shown.arms))}
    places = sorted(used) if rows.written else range(len(rows.labels))
    return {
        "labels": [one_line(rows.labels[place], 200 if rows.written else 80) for place in places],
        "columns": columns,
        "rows": rows_for_page(shown, {place: i for i, place in enumerate(places)}, total_bytes=_BYTES[name]),
        "note": f"the first {len(shown.rows):,} of {len(rows.rows):,} {name} rows" if len(shown.rows) < len(rows.rows) else "",
    }


def _most_rows(name: str, rows: AnsweredRows) -> int:
    return (_MOST_WRITTEN if rows.written else _MOST_ROWS)[name]


def _left_out(name: str, rows: AnsweredRows) -> str:
    """A sentence on rows that the page does not hold; empty if it holds all."""
    most = _most_rows(name, rows)
    if not rows.arms or len(rows.rows) <= most:
        return ""
    where = f"{name}_rows.json in the run’s folder has all of them"
    return f"Of {len(rows.rows):,} {name} rows, this page shows the first {most:,}; {where}."


def _columns(devs: AnsweredRows, prompts: Prompts, record: RunRecord) -> list[dict[str, Any]]:
    """Column heads of the best prompts: rank, weights, and the prompt that a click opens."""
    columns = []
    for place, name in enumerate(devs.arms):
        candidate = devs.candidates[name]
        prompt_id, steps = str(candidate.get("prompt_id")), count_of(candidate.get("steps"))
        facts, tag = prompts.by_id.get(prompt_id), prompts.tag(prompt_id)
        score, rows = number(candidate.get("score")), count_of(candidate.get("n"))
        about = [f"tuned {counted(steps, 'step')}" if steps else "base model"]
        about += [share_text(score, rows, record.dev_interval(score, rows))] if score is not None and rows else []
        columns.append(
            {
                "name": f"{_ordinal(place + 1)}{f' ({tag})' if tag else ''}, {'tuned' if steps else 'base'}",
                "about": ", ".join(about),
                "text": facts.name if facts else "",
                "prompt": prompt_id if facts else "",
            }
        )
    return columns


def _ordinal(place: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(place, f"{place}th")


def rows_for_page(rows: AnsweredRows, places: Mapping[int, int], *, total_bytes: int = 1_200_000) -> list[dict[str, Any]]:
    """Rows for the page's script, with texts cut to a total size and probabilities of the likeliest labels only.

    ``places`` holds the index on the page of each label or text that the rows refer to. ``total_bytes`` bounds the rows' texts,
    and the changes of generated answers.
    """
    texts = max(_LEAST_BYTES, min(4_000, total_bytes // max(1, len(rows.rows))))
    changes = max(_LEAST_BYTES, min(6 * MOST_COMPARED, total_bytes // max(1, len(rows.rows) * len(rows.arms))))
    return [_row(rows, row, places, texts, changes) for row in rows.rows]


def _row(rows: AnsweredRows, row: AnsweredRow, places: Mapping[int, int], most_bytes: int, compared: int) -> dict[str, Any]:
    text, missing = cut(row.text, most_bytes)
    return {
        "id": cut(row.id, 80)[0],
        "text": text,
        "missing": missing,
        "gold": places[row.reference],
        "answers": [places[row.answers[arm]] for arm in rows.arms],
        "right": [row.right[arm] for arm in rows.arms],
        "changes": [written_changes(rows, row, arm, compared) for arm in rows.arms] if rows.written else [],
        "likely": [_likely(row, arm) for arm in rows.arms],
    }


def _likely(row: AnsweredRow, arm: str) -> Sequence[Sequence[float]]:
    probabilities = row.probabilities.get(arm)
    if probabilities is None:
        return []
    top = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])[:_TOP]
    kept = dict.fromkeys([*top, row.answers[arm], row.reference])
    return [[i, round(probabilities[i], 3)] for i in sorted(kept, key=lambda i: -probabilities[i])]
