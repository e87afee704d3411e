"""Read a run's folder leniently, since a report must also work for an incomplete journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cotune.errors import no_run
from cotune.evaluate.frozen_arms import EVERY_ARM
from cotune.files import decode_json, load_json
from cotune.plain import fields, items, number
from cotune.report.html.intervals import share_interval
from cotune.report.html.measure import DevMeasure, dev_measure
from cotune.report.html.plot import Point
from cotune.run_files import CONFIG, DEV_ROWS, JOBS, JOURNAL, SUMMARY, TEST_ROWS, WORKERS


@dataclass(frozen=True)
class AnsweredRow:
    """A row with the answers of each arm or candidate, by its name.

    Attributes:
        reference: index of the right label or answer text.
        answers: index of the label or generated text of each arm.
        probabilities: one probability per label, after the arm's decision rule; arms may be missing.
        values: the metric's score of a generated answer; empty for labels.
    """

    id: str
    text: str
    reference: int
    answers: Mapping[str, int]
    probabilities: Mapping[str, tuple[float, ...]]
    right: Mapping[str, bool]
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AnsweredRows:
    """Rows of the test or of dev, with the labels or answer texts that their indices refer to.

    Attributes:
        written: whether answers are generated texts.
        names: names of arms or candidates, in the order of display.
        candidates: description of each name that is not an arm's.
    """

    labels: tuple[str, ...] = ()
    rows: tuple[AnsweredRow, ...] = ()
    written: bool = False
    names: tuple[str, ...] = EVERY_ARM
    candidates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Names with an answer to every row."""
        return tuple(name for name in self.names if self.rows and all(name in row.answers for row in self.rows))


@dataclass(frozen=True)
class RunRecord:
    """A run as read from its folder; what it does not hold is empty.

    Attributes:
        events: the journal's lines, each with ``kind`` and ``value``.
        identity: hashes of data and prompts.
        tests: answers to the test rows.
        devs: answers of the best prompts to the dev rows.
        remarks: sentences on what could not be read.
    """

    folder: Path
    events: tuple[Mapping[str, Any], ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    tests: AnsweredRows = field(default_factory=AnsweredRows)
    devs: AnsweredRows = field(default_factory=AnsweredRows)
    remarks: tuple[str, ...] = ()
    command: str = ""
    workers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def metric(self) -> str:
        return str(self.summary.get("metric") or self.value("start").get("metric") or self.config.get("metric") or "score")

    @cached_property
    def arms(self) -> Mapping[str, Mapping[str, Any]]:
        """The tested arms by name: those of the summary, else their last results in the journal with their candidates."""
        tested = {str(value.get("name")): value for value in self.values("arm")}
        known = {name: {**self.confirmed(name), **value} for name, value in tested.items()}
        return {**known, **{str(name): fields(arm) for name, arm in fields(self.summary.get("arms")).items()}}

    @cached_property
    def dev_groups(self) -> tuple[int, ...]:
        """Group number of each dev row, in scoring order; empty if rows are not grouped."""
        groups = map(number, items(self.value("start").get("dev_groups")))
        return tuple(int(group) for group in groups if group is not None)

    @cached_property
    def dev_measure(self) -> DevMeasure:
        """The measure of candidates on dev that the page shows."""
        return dev_measure(self.events, self.metric, self.dev_groups, by_probe=self.by_probe)

    def dev_interval(self, score: float, rows: int) -> Point | None:
        """95% interval of a score by the metric on dev; None if not known."""
        return share_interval(score, rows, self.metric, self.dev_groups)

    def test_interval(self, score: float, rows: int) -> Point | None:
        """95% interval of a score on the test before the summary tells it; None if not known."""
        # The journal does not record the groups of test rows.
        return None if self.dev_groups else share_interval(score, rows, self.metric)

    def values(self, *kinds: str) -> Iterator[Mapping[str, Any]]:
        """The values of events of these kinds, in order."""
        for event in self.events:
            if event.get("kind") in kinds:
                yield fields(event.get("value"))

    def value(self, kind: str) -> Mapping[str, Any]:
        """The value of the last event of a kind; empty if there is none."""
        return next(reversed(list(self.values(kind))), {})

    @cached_property
    def frozen_held_out(self) -> dict[str, Mapping[str, Any]]:
        """Each prompt's event of its frozen probe on held-out rows, by prompt id: what its tuned weights compare with.

        A probe is judged again with names of labels or TF-IDF, and on all rows after a cut race; the last event counts, except
        for a trial of names that are not used.
        """
        found: dict[str, Mapping[str, Any]] = {}
        before: tuple[str, Mapping[str, Any] | None] = ("", None)
        for event in self.events:
            kind, value = event.get("kind"), fields(event.get("value"))
            if kind == "tuned" and value.get("stage") == "frozen":
                prompt_id = str(value.get("prompt_id"))
                before = prompt_id, found.get(prompt_id)
                found[prompt_id] = event
            elif kind == "label_names" and value.get("used") is False and before[1] is not None:
                found[before[0]] = before[1]
        return found

    def confirmed(self, arm: str) -> Mapping[str, Any]:
        """An arm's candidate as fixed before the test; empty if none was."""
        return fields(fields(self.value("confirm").get("arms")).get(arm))

    @cached_property
    def by_probe(self) -> bool:
        """Whether the search was by probes, so that its measurements are of probes on held-out rows."""
        return any("layers" in value for value in self.values("race"))


def whole(value: object) -> int | None:
    """A layer's number, also from a key of a JSON object."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 6 else None
    finite = number(value)
    return None if finite is None or finite < 0 else int(finite)


def window_of(value: Mapping[str, Any]) -> tuple[int, int] | None:
    """The lower and upper edge of the window of layers that an event tuned; None if all layers were tuned."""
    low, high = [*map(whole, items(value.get("window"))), None, None][:2]
    return None if low is None or high is None else (low, high)


def window_text(window: tuple[int, int] | None) -> str:
    """Format a window as `` in layers 11 to 20``; empty without one."""
    return "" if window is None else f" in layers {window[0] + 1} to {window[1]}"


def read_record(folder: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        InputError: if it is not a run's folder.
    """
    if not (folder / JOURNAL).is_file() and not (folder / SUMMARY).is_file():
        raise no_run(folder)
    remarks: list[str] = []
    events = tuple(_events(folder / JOURNAL, remarks))
    stored = fields(_json(folder / CONFIG, remarks))
    # The report is written before the run's last event; the cost event is the last one that a summary needs.
    ended = any(event.get("kind") in ("cost", "done") for event in events) or not events
    summary = fields(_json(folder / SUMMARY, remarks)) if ended else {}
    tests, devs = (_answered(name, _json(folder / name, remarks), remarks) for name in (TEST_ROWS, DEV_ROWS))
    config, identity, command = fields(stored.get("config")), fields(stored.get("identity")), str(stored.get("command") or "")
    # During a run, this file is stored with the results of its jobs.
    workers = fields(fields(summary.get("cost")).get("workers")) or fields(_json(folder / JOBS / WORKERS, remarks))
    return RunRecord(folder, events, summary, config, identity, tests, devs, tuple(remarks), command, workers)


def _events(path: Path, remarks: list[str]) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    *lines, torn = path.read_bytes().split(b"\n")
    unreadable = 0
    for line in (*lines, torn):
        if not line.strip():
            continue
        try:
            event = decode_json(line)
        except ValueError:
            # A run in progress, or one that was killed, may have an incomplete last line.
            unreadable += line is not torn and line is not lines[-1]
            continue
        if isinstance(event, dict):
            yield event
    if unreadable:
        remarks.append(f"{unreadable} line(s) of the journal cannot be read and are left out.")


def _json(path: Path, remarks: list[str]) -> object:
    if not path.is_file():
        return None
    try:
        return load_json(path)
    except ValueError:
        remarks.append(f"{path.name} cannot be read and is left out.")
        return None


def _answered(name: str, data: object, remarks: list[str]) -> AnsweredRows:
    if data is None:
        return AnsweredRows()
    candidates = {str(read["id"]): read for read in map(fields, items(fields(data).get("candidates"))) if read.get("id")}
    names = tuple(candidates) if name == DEV_ROWS else EVERY_ARM
    labels = tuple(str(label) for label in items(fields(data).get("labels")))
    rows = [fields(item) for item in items(fields(data).get("rows"))]
    written = not labels and any("right" in row for row in rows)
    texts: dict[str, int] = {}
    read = [_written_row(row, texts) if written else _row(row, len(labels)) for row in rows]
    kept = tuple(row for row in read if row is not None)
    if len(kept) < len(rows) or not (labels or written):
        remarks.append(f"{len(rows) - len(kept)} row(s) of {name} do not have the expected form and are left out.")
    return AnsweredRows(tuple(texts) if written else labels, kept, written, names, candidates)


def _written_row(item: Mapping[str, Any], texts: dict[str, int]) -> AnsweredRow | None:
    """Read a row with generated answers; new texts are added to ``texts``."""
    answers, right, reference = fields(item.get("answers")), fields(item.get("right")), item.get("gold")
    if not isinstance(reference, str) or set(answers) != set(right):
        return None
    said = {arm: texts.setdefault(str(text or ""), len(texts)) for arm, text in answers.items()}
    values = {arm: value for arm, v in fields(item.get("values")).items() if (value := number(v)) is not None}
    place = texts.setdefault(reference, len(texts))
    correct = {arm: bool(ok) for arm, ok in right.items()}
    return AnsweredRow(str(item.get("id", "")), _shown(item), place, said, {}, correct, values)


def _row(item: Mapping[str, Any], labels: int) -> AnsweredRow | None:
    def index(value: object) -> int | None:
        finite = number(value)
        return int(finite) if finite is not None and finite == int(finite) and 0 <= finite < labels else None

    reference, given = index(item.get("gold")), fields(item.get("answers"))
    answers = {arm: place for arm, answer in given.items() if (place := index(answer)) is not None}
    if reference is None or len(answers) < len(given):
        return None
    probabilities = {}
    for arm, values in fields(item.get("probabilities")).items():
        numbers = tuple(p for p in map(number, items(values)) if p is not None and -1e-9 <= p <= 1 + 1e-6)
        if len(numbers) == labels == len(items(values)):
            probabilities[arm] = numbers
    right = {arm: answer == reference for arm, answer in answers.items()}
    return AnsweredRow(str(item.get("id", "")), _shown(item), reference, answers, probabilities, right)


def _shown(item: Mapping[str, Any]) -> str:
    """A row's input as one text."""
    text = item.get("input")
    named = text if isinstance(text, dict) else {"": text or ""}
    return "\n".join(f"{name}: {value}" if len(named) > 1 else str(value) for name, value in named.items())
