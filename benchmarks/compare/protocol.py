"""Which rows a cell learns from and which it is tested on: seeded draws, stratified where that is possible."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cotune.config import load_config
from cotune.errors import InputError
from cotune.files import content_hash
from cotune.task.values.json_value import parse_json
from cotune.task.values.kinds.registry import guess_type

MOST_TEST_ROWS = 500
OUTPUTS = ("output", "label", "answer", "target", "category", "class", "score")
"""Names of the output column, the likeliest first, of a set without a task.yaml; all its other texts are inputs."""
FURTHER_FIELDS: Mapping[str, tuple[str, ...]] = {"restaurant8k": ("requested_slots",)}
"""Columns that belong to a set's input beside ``input``."""
OUT_OF_SCOPE = frozenset({"oos"})
"""No label of those that a part of a set's labels is drawn from."""

_TEST, _TRAIN, _LABELS = 1, 2, 3
"""Streams of random numbers, so that one choice does not move another."""


@dataclass(frozen=True)
class Row:
    """A row of a set.

    Attributes:
        fields: text of each input column.
        output: the right answer.
    """

    fields: Mapping[str, str]
    output: str

    @property
    def text(self) -> str:
        """The input as one text; where there are several columns each stands on a line behind its name."""
        if len(self.fields) == 1:
            return next(iter(self.fields.values()))
        return "\n".join(f"{name}: {value}" for name, value in self.fields.items())


@dataclass(frozen=True)
class RowSet:
    """A set of rows with its two splits.

    Attributes:
        name: what tables call it.
        kind: ``label``, ``number``, ``json`` or ``text``, which no peer takes.
        pool: rows to draw labelled ones from: none of them repeats another, or a test row.
        test: rows that every cell of the set is tested on.
        labels: of the pool, sorted; empty where answers are written.
    """

    name: str
    kind: str
    pool: tuple[Row, ...]
    test: tuple[Row, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Draw:
    """A seeded draw of labelled rows.

    Attributes:
        rows: labelled rows in all, or a label.
        per_class: whether ``rows`` is meant a label.
        number: which draw; its seed.
    """

    rows: int
    per_class: bool
    number: int

    @property
    def size(self) -> str:
        """``64``, or ``8 a class``."""
        return f"{self.rows} a class" if self.per_class else str(self.rows)


def sets_in(data: Path) -> list[str]:
    """The sets in a folder, by name; of CLINC150 twenty labels, as in the published tables.

    Raises:
        InputError: there is none.
    """
    found = sorted(path.parent.name for path in data.glob("*/train.jsonl") if (path.parent / "test.jsonl").is_file())
    if not found:
        raise InputError("there is no set", where=str(data), hint="A set is a folder with train.jsonl and test.jsonl.")
    return [f"{name}:20" if name == "clinc150" else name for name in found]


def read_set(data: Path, named: str, most_test: int = MOST_TEST_ROWS) -> RowSet:
    """Read a set.

    Args:
        data: folder of sets.
        named: a folder in it or the path of one, with ``train.jsonl`` and ``test.jsonl``; ``:20`` behind it keeps 20 of its
            labels, drawn once.
        most_test: test rows to keep at most, drawn once.

    Raises:
        InputError: there is no such folder or file, or a row lacks a column; says which.
    """
    place, _, part = named.partition(":")
    folder = data / place if (data / place).is_dir() else Path(place)
    name = folder.name
    inputs, output = _columns(folder)
    train, test = (_read(folder / f"{split}.jsonl", inputs, output) for split in ("train", "test"))
    kind = _kind([row.output for row in train])
    if part:
        kept = _some_labels(train, int(part))
        train, test = ([row for row in rows if row.output in kept] for rows in (train, test))
        name = f"{name}-{part}"
    order = np.random.default_rng([_TEST, 0]).permutation(len(test))[:most_test]
    chosen = tuple(test[i] for i in sorted(order))
    pool = _without_repeats(train, {row.text for row in chosen})
    labels = tuple(sorted({row.output for row in pool})) if kind == "label" else ()
    return RowSet(name, kind, pool, chosen, labels)


def draw_rows(rows: RowSet, draw: Draw) -> list[Row]:
    """The labelled rows of a draw, in random order.

    In all: as many of each label as it has in the pool, and one at least where there are enough; written answers are drawn
    plainly. A class: so many of each label, or all where it has fewer.

    Raises:
        InputError: the pool has too few rows.
    """
    rng = np.random.default_rng([_TRAIN, draw.number, draw.rows])
    if not draw.per_class and draw.rows > len(rows.pool):
        raise InputError(
            f"{draw.rows} labelled rows cannot be drawn from {len(rows.pool)}", where=rows.name, hint="Ask for fewer --rows."
        )
    if rows.kind != "label":
        if draw.per_class:
            raise InputError("rows a class need labels", where=rows.name, hint="Leave out --per-class for written answers.")
        return [rows.pool[i] for i in rng.permutation(len(rows.pool))[: draw.rows]]
    by_label: dict[str, list[int]] = {label: [] for label in rows.labels}
    for i in rng.permutation(len(rows.pool)):
        by_label[rows.pool[i].output].append(int(i))
    counts = {label: len(places) for label, places in by_label.items()}
    wanted = dict.fromkeys(counts, draw.rows) if draw.per_class else shares(counts, draw.rows, rng)
    chosen = [place for label, places in by_label.items() for place in places[: wanted[label]]]
    return [rows.pool[chosen[i]] for i in rng.permutation(len(chosen))]


def shares(counts: Mapping[str, int], total: int, rng: np.random.Generator) -> dict[str, int]:
    """``total`` rows spread over labels by their counts: largest remainders, one row at least where there are enough.

    With fewer rows than labels, which labels have one is drawn.
    """
    names = sorted(counts)
    if total < len(names):
        chosen = {names[i] for i in rng.permutation(len(names))[:total]}
        return {name: int(name in chosen) for name in names}
    whole = sum(counts.values())
    exact = {name: total * counts[name] / whole for name in names}
    given = {name: max(1, int(exact[name])) for name in names}
    while (over := sum(given.values()) - total) != 0:
        step = -1 if over > 0 else 1
        movable = [name for name in names if (given[name] > 1 if step < 0 else given[name] < counts[name])]
        given[max(movable, key=lambda name: step * (exact[name] - given[name]))] += step
    return given


def fingerprint(train: Iterable[Row], test: Iterable[Row]) -> str:
    """Content hash of the rows of a cell."""
    return content_hash([[[dict(row.fields), row.output] for row in rows] for rows in (train, test)])


def _columns(folder: Path) -> tuple[tuple[str, ...], str]:
    task = folder / "task.yaml"
    if task.is_file():
        config = load_config(task, [])
        return tuple(config.data.input), config.data.output
    first = _first_row(folder / "train.jsonl")
    output = next((name for name in OUTPUTS if name in first), None)
    inputs = tuple(name for name, value in first.items() if name != output and isinstance(value, str))
    if "input" in first or output is None or not inputs:
        return ("input", *FURTHER_FIELDS.get(folder.name, ())), "output"
    return inputs, output


def _first_row(path: Path) -> dict[str, Any]:
    """The first row of a file; empty if there is none or it is not JSON, which reading the file tells."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as lines, suppress(ValueError):
        row = json.loads(next(iter(lines), "{}"))
        return row if isinstance(row, dict) else {}
    return {}


def _read(path: Path, inputs: Sequence[str], output: str) -> list[Row]:
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), hint="A set is a folder with train.jsonl and test.jsonl.")
    found = []
    # A text may contain characters at which splitlines() would divide it, such as U+2028.
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise InputError(f"line {number} is not JSON ({error})", where=str(path), hint="Write an object a line.") from None
        if missing := [name for name in (*inputs, output) if name not in row]:
            raise InputError(
                f"row {number} has no column {missing[0]!r}",
                where=str(path),
                hint="Name the columns in a task.yaml in the set's folder.",
            )
        found.append(Row({name: _text(row[name]) for name in inputs}, _text(row[output])))
    return found


def _text(value: Any) -> str:
    """A cell as text, lists as cotune shows them."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _kind(outputs: Sequence[str]) -> str:
    """What cotune takes a set's outputs for; JSON that is no object is a label."""
    if all(map(_is_object, outputs[:50])):
        return "json"
    found = guess_type(outputs)[0]
    return found if found in ("number", "text") else "label"


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse_json(text), dict)
    except ValueError:
        return False


def _some_labels(rows: Sequence[Row], count: int) -> frozenset[str]:
    known = sorted({row.output for row in rows} - OUT_OF_SCOPE)
    return frozenset(known[i] for i in np.random.default_rng([_LABELS, 0]).permutation(len(known))[:count])


def _without_repeats(rows: Sequence[Row], tested: set[str]) -> tuple[Row, ...]:
    """Rows whose text is neither a test row's nor labelled in two ways, each text once."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row.text, set()).add(row.output)
    seen = Counter(tested)
    kept = []
    for row in rows:
        seen[row.text] += 1
        if seen[row.text] == 1 and len(answers[row.text]) == 1:
            kept.append(row)
    return tuple(kept)
