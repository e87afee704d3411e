"""Errors on the test: confusions of labels and calibration of probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cotune.errors import counted
from cotune.evaluate.words import arm_groups
from cotune.plain import decimal, items, one_line, shipped_arm
from cotune.report.html.markup import data_text, esc, figure, percent, plain_table
from cotune.report.html.plot import Plot
from cotune.report.html.sections.record import AnsweredRows, RunRecord
from cotune.report.html.sections.written import written_errors

_MOST_LABELS = 24
_BESIDE = 6
"""Most labels for which a confusion table fits next to another figure."""
_SHOWN_MISTAKES = 8
_DRAWS = 400
_BINS = 10
NO_ROWS = "<p class=empty>The run’s folder holds no answers to single test rows{}.</p>"


def errors_section(record: RunRecord) -> str:
    """Confusions, reliability diagram and most confident errors of each arm."""
    tests = record.tests
    if not tests.arms:
        return NO_ROWS.format(" yet" if not record.finished else "")
    summed, ships = record.arms, shipped_arm(record.summary)
    # Arms with the same prompt and weights make the same errors.
    groups = {group.names[0]: group for group in arm_groups({arm: summed.get(arm, {}) for arm in tests.arms})}
    shown = ships if ships in tests.arms else tests.arms[-1]
    chosen = next(arm for arm, group in groups.items() if shown in group.names)
    options = "".join(
        f'<option value="{arm}"{" selected" if arm == chosen else ""}>{esc(group.title)}</option>'
        for arm, group in groups.items()
    )
    content = ""
    for arm in groups:
        listed = items(summed.get(arm, {}).get("fields"))
        view = written_errors(tests, arm, listed) if tests.written else _arm_errors(tests, arm)
        content += f'<div data-choice="{arm}"{"" if arm == chosen else " hidden"}>{view}</div>'
    return (
        f'<div class="controls"><label>Arm <select data-switch="errors">{options}</select></label></div>'
        f'<div data-choices="errors">{content}</div>'
    )


def _arm_errors(tests: AnsweredRows, arm: str) -> str:
    references = np.array([row.reference for row in tests.rows])
    answers = np.array([row.answers[arm] for row in tests.rows])
    table = _confusion(tests.labels, references, answers)
    reliable = _reliability(tests, arm, references, answers)
    stacked = " stacked" if _BESIDE < len(tests.labels) <= _MOST_LABELS else ""
    return f'<div class="pair{stacked}">{table}{reliable}</div>{_mistakes(tests, arm)}'


def _confusion(labels: tuple[str, ...], references: NDArray[np.int64], answers: NDArray[np.int64]) -> str:
    from cotune.evaluate.shares import confusion_matrix

    counts = confusion_matrix(references, answers, len(labels))
    wrong = sorted(((int(counts[i, j]), i, j) for i, j in np.argwhere(counts) if i != j), reverse=True)
    right = f"{int(np.trace(counts))} of {counted(len(references), 'row')} right."
    caption = f"{right} Rows: right label. Columns: answer. Shade: share of the row."
    if len(labels) > _MOST_LABELS:
        lines = "".join(
            f"<tr><td>{data_text(labels[i])}</td><td>{data_text(labels[j])}</td><td class=num>{n}</td></tr>"
            for n, i, j in wrong[:24]
        )
        return figure("Most frequent confusions", plain_table(("right label", "answer", "rows"), lines), right)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th scope="col"><span>{data_text(one_line(label, 24))}</span></th>' for label in labels)
    lines = ""
    for i, label in enumerate(labels):
        cells = "".join(
            f'<td class="{"hit" if i == j else "miss"} c{_shade(shares[i, j])}">{int(n) if n else "·"}</td>'
            for j, n in enumerate(counts[i])
        )
        name = data_text(one_line(label, 24))
        lines += f'<tr><th scope="row">{name}</th>{cells}<td class="sum">{int(counts[i].sum())}</td></tr>'
    head = f'<tr><td></td>{head}<th scope="col"><span>rows</span></th></tr>'
    body = f'<div class="scroll"><table class="confusion">{head}{lines}</table></div>'
    return figure("Confusions", body, caption)


def _shade(share: float) -> int:
    return 0 if share == 0 else min(5, 1 + int(share * 5))


def _reliability(tests: AnsweredRows, arm: str, references: NDArray[np.int64], answers: NDArray[np.int64]) -> str:
    from cotune.evaluate.stats.calibration import expected_calibration_error, reliability_bins

    probabilities = [row.probabilities.get(arm) for row in tests.rows]
    if any(p is None for p in probabilities):
        return figure("Reliability", "<p class=empty>This arm’s probabilities are not recorded for every row.</p>")
    sure = np.clip(np.array([p[a] for p, a in zip(probabilities, answers, strict=True) if p is not None]), 0.0, 1.0)
    right = (references == answers).astype(np.float64)
    plot = Plot((0, 1), (0, 1), height=300, label="Reliability diagram")
    marks = [(t, f"{100 * t:.0f}") for t in (0, 0.25, 0.5, 0.75, 1)]
    plot.axes(marks, marks)
    plot.line((0, 0), (1, 1), "diagonal")
    bins = reliability_bins(sure, right)
    most = max(group.count for group in bins)
    for group in bins:
        plot.line((group.confidence, group.ci.low), (group.confidence, group.ci.high), "whisker tuned")
        tip = (
            f"{counted(group.count, 'row')}, confidence {percent(group.low, 0)} to {percent(group.high, 0)}%\n"
            f"mean confidence {percent(group.confidence)}%, right {percent(group.accuracy)}% "
            f"({percent(group.ci.low)} to {percent(group.ci.high)})"
        )
        plot.dot((group.confidence, group.accuracy), "dot tuned", radius=4 + 7 * (group.count / most) ** 0.5, tip=tip)
    return figure(
        f"Reliability: calibration error {decimal(expected_calibration_error(sure, right))}",
        plot.render(x_title="confidence of the answer, percent", y_title="right, percent"),
        f"On the diagonal, confidence means what it says; larger dots hold more rows; bars are 95% intervals. With "
        f"{counted(len(sure), 'row')}, perfectly calibrated answers of these confidences would show "
        f"an error up to {decimal(_chance_error(sure))} in 19 of 20 tests.",
    )


def _chance_error(confidence: NDArray[np.float64]) -> float:
    """95% quantile of the calibration error that perfectly calibrated answers would have."""
    place = np.clip(np.searchsorted(np.linspace(0, 1, _BINS + 1), confidence, side="right") - 1, 0, _BINS - 1)
    drawn = np.random.default_rng(0).random((_DRAWS, len(confidence))) < confidence
    member = np.eye(_BINS)[place]
    gaps = np.abs((drawn - confidence) @ member).sum(axis=1) / len(confidence)
    return float(np.quantile(gaps, 0.95))


def _mistakes(tests: AnsweredRows, arm: str) -> str:
    wrong = [
        (probabilities[row.answers[arm]], row)
        for row in tests.rows
        if row.answers[arm] != row.reference and (probabilities := row.probabilities.get(arm)) is not None
    ]
    if not wrong:
        return ""
    wrong.sort(key=lambda pair: -pair[0])
    lines = "".join(
        f"<li><span class=sure>{percent(sure, 0)}%</span> <span>said <b>{data_text(tests.labels[row.answers[arm]])}</b>, "
        f"right is <b>{data_text(tests.labels[row.reference])}</b></span><p>{data_text(one_line(row.text, 240))}</p></li>"
        for sure, row in wrong[:_SHOWN_MISTAKES]
    )
    note = "Worth a look: some of these may be wrong labels rather than wrong answers."
    return figure("Most confident mistakes", f'<ol class="mistakes">{lines}</ol>', note)
