"""A labelling session: the picked rows and the labels given so far, saved after each label."""

from __future__ import annotations

import datetime
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from cotune.bundle.rows import said
from cotune.errors import InputError, counted
from cotune.files import load_json, write_json
from cotune.labelling.picking import Pick
from cotune.task.reading.cells import cell_text, column_of, input_text
from cotune.task.reading.read import SEPARATED, Sheet, read_sheet
from cotune.task.reading.sheet import write_sheet
from cotune.task.values.label_type import LabelType, label_value

_FORMAT = 1
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _reader(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def cautious(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, ArithmeticError):
            return text

    return cautious


def _number_reader(kind: type[int] | type[float] | type[Decimal]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        # An id such as 007 or 1_000 would lose characters, and one of 20 digits would be rounded.
        if not _PLAIN_NUMBER.fullmatch(text) or Decimal(text) != Decimal(str(value)):
            raise ValueError("not the same number")
        return value

    return _reader(read)


_READERS: dict[type, Callable[[str], Any]] = {
    int: _number_reader(int),
    float: _number_reader(float),
    bool: lambda text: {"true": True, "false": False}.get(text, text),
    Decimal: _number_reader(Decimal),
    datetime.datetime: _reader(datetime.datetime.fromisoformat),
    datetime.date: _reader(datetime.date.fromisoformat),
    datetime.time: _reader(datetime.time.fromisoformat),
}
"""Readers of a type's values from the texts of a pool or a label; a text that is none stays."""


@dataclass(frozen=True)
class Earlier:
    """The rows that the output file held before the session.

    Attributes:
        columns: columns of the file; empty if the file does not exist.
        rows: rows of the file.
        known: texts of the rows (:func:`cotune.bundle.rows.said`).
        delimiter: delimiter of its cells.
        marked: whether the file begins with a byte order mark.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    known: frozenset[str] = frozenset()
    delimiter: str = ","
    marked: bool = False

    @classmethod
    def read(cls, out: Path, input_fields: Sequence[str], label: str) -> Earlier:
        """Read the file to which labels are added; an :class:`InputError` if it is not one of labelled rows."""
        if not out.is_file() or not out.stat().st_size:
            return cls()
        # Blank lines say nothing, and would be written again as rows without an input.
        sheet = read_sheet(out, keep_blank=False)
        columns = {name: column_of(name, sheet.columns) for name in (*input_fields, label)}
        if lost := [name for name, column in columns.items() if column is None]:
            raise InputError(
                f"the file already exists and has no column {lost[0]!r}",
                where=str(out),
                hint="Labels can only be added to a file of labelled rows of this task; choose another --out.",
            )
        known = {said(_texts(row, input_fields, sheet.columns)) for row in sheet.rows}
        return cls(sheet.columns, tuple(sheet.rows), frozenset(known), sheet.delimiter, sheet.marked)

    def own(self, column: str, value: Any) -> Any:
        """A value in the type that the file's values of a column have, so that the file keeps its types."""
        kind = self.type_of(column)
        # A value that is not a text already has a type.
        reader = _READERS.get(kind) if kind is not None and isinstance(value, str) else None
        return value if reader is None else reader(value)

    def type_of(self, column: str) -> type | None:
        """The type that all of the file's values of a column have; None if there is no such type."""
        return self._types.get(column)

    @cached_property
    def _types(self) -> dict[str, type]:
        """The type of each column whose values have only one."""
        kinds = {name: {type(row[name]) for row in self.rows if row.get(name) is not None} for name in self.columns}
        return {name: found.pop() for name, found in kinds.items() if len(found) == 1}


class Session:
    """The picked rows and the actions of the person who labels them.

    Two files are rewritten atomically after every action: the labelled rows at ``out``, and ``out.session.json`` with picks and
    actions, from which the same command continues after a quit, a crash or kill -9. The second one is removed when all rows are
    done.

    Args:
        out: output file of labelled rows: CSV, TSV, JSONL or Parquet.
        picks: rows to ask about, in order.
        earlier: rows that the file contained before.
        identity: bundle, pool and settings that the session belongs to.
        actions: index of a pick and its label (None if skipped), in order of time.
        label_type: type of the labels in the task's data, which a new file gets if its format has types.
    """

    def __init__(
        self,
        out: Path,
        label: str,
        labels: Sequence[str],
        picks: Sequence[Pick],
        earlier: Earlier,
        identity: Mapping[str, Any],
        actions: Sequence[tuple[int, str | None]] = (),
        *,
        label_type: LabelType = "text",
    ) -> None:
        self.out, self.label, self.labels = out, label, tuple(labels)
        self.picks, self.earlier, self.identity = tuple(picks), earlier, dict(identity)
        self.actions, self.label_type = list(actions), label_type

    @property
    def at(self) -> int:
        """Number of picks that were labelled or skipped, which is the index of the next one."""
        return len(self.actions)

    @property
    def current(self) -> Pick | None:
        """The row to label next; None if all are done."""
        return self.picks[self.at] if self.at < len(self.picks) else None

    @property
    def labelled(self) -> int:
        return sum(label is not None for _, label in self.actions)

    @property
    def skipped(self) -> int:
        return self.at - self.labelled

    @property
    def agreed(self) -> int:
        """Number of picks whose label equals the model's answer."""
        return sum(label == self.picks[place].guess for place, label in self.actions)

    def give(self, label: str | None) -> None:
        """Label the current row, or skip it with None. The files are written when this returns.

        Raises:
            InputError: if the label is not one of the task's, no row is left, or the files cannot be written.
        """
        if self.current is None:
            raise InputError("all rows are labelled or skipped", where=str(self.out))
        if label is not None and label not in self.labels:
            raise InputError(f"{label!r} is not a label", where=str(self.out), hint="Give one of the bundle's labels.")
        self._change([*self.actions, (self.at, label)])

    def undo(self) -> bool:
        """Undo the last action; returns whether there was one."""
        if not self.actions:
            return False
        self._change(self.actions[:-1])
        return True

    def _change(self, actions: list[tuple[int, str | None]]) -> None:
        before, self.actions = self.actions, actions
        try:
            self.save()
        except BaseException:
            self.actions = before
            raise

    def save(self) -> None:
        if (sheet := self.sheet(self.actions)) is None:
            self.out.unlink(missing_ok=True)
        else:
            write_sheet(sheet, {}, self.out)
        write_json(
            session_file(self.out),
            {
                "format": _FORMAT,
                "identity": self.identity,
                "label": self.label,
                "labels": list(self.labels),
                "earlier": len(self.earlier.rows),
                "actions": [list(action) for action in self.actions],
                "picks": [pick.to_json() for pick in self.picks],
            },
        )

    def close(self) -> None:
        """Remove the session file if no row is left."""
        if self.current is None:
            session_file(self.out).unlink(missing_ok=True)

    def sheet(self, actions: Sequence[tuple[int, str | None]]) -> Sheet | None:
        """The content of the output file after some actions; None without any row, since a header could not be read back."""
        column = column_of(self.label, self.earlier.columns) or self.label
        given = [(self.picks[place], label) for place, label in actions if label is not None]
        rows: list[Mapping[str, Any]] = list(self.earlier.rows)
        rows += [{**self._placed(pick.row), column: self._own_label(column, label)} for pick, label in given]
        if not rows:
            return None
        names = dict.fromkeys(self.earlier.columns)
        # The label column comes last if the pool has none.
        names |= dict.fromkeys(name for pick in self.picks for name in self._placed(pick.row) if name != column)
        names[column] = None
        form: dict[str, Any] = {"delimiter": self.earlier.delimiter, "marked": self.earlier.marked}
        return Sheet(tuple(names), rows, str(self.out), range(1, len(rows) + 1), **form)

    def _own_label(self, column: str, label: str) -> Any:
        """A label in the type that the file's labels have."""
        value = label_value(label, self.label_type)
        if not self.earlier.rows:
            return label if self.out.suffix.lower() in SEPARATED else value
        # Truth values have other spellings in the task's data than in the file, such as True.
        return value if type(value) is self.earlier.type_of(column) else self.earlier.own(column, label)

    def _placed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A pool's row in the columns and types of the file; the pool may have the field's name for a column's header."""
        columns = self.earlier.columns
        placed = {(name if name in columns else column_of(name, columns) or name): value for name, value in row.items()}
        return {name: self.earlier.own(name, value) for name, value in placed.items()}


def _places(session: Session, input_fields: Sequence[str]) -> dict[str, int]:
    """The index of each pick by its texts, as a prompt shows them and as they are read back from the file."""
    places = {said(pick.fields): place for place, pick in enumerate(session.picks)}
    following = [(session.at, session.labels[0])] if session.current is not None else []
    with tempfile.TemporaryDirectory(dir=session.out.parent, prefix=".cotune-") as folder:
        # The process may have been killed when one more row was written, but not the session.
        for actions in (session.actions, [*session.actions, *following]):
            given = [place for place, label in actions if label is not None]
            if given and (written := session.sheet(actions)) is not None:
                out = Path(folder) / session.out.name
                write_sheet(written, {}, out)
                sheet = read_sheet(out)
                for place, row in zip(given, sheet.rows[-len(given) :], strict=True):
                    places[said(_texts(row, input_fields, sheet.columns))] = place
    return places


def _texts(row: Mapping[str, Any], fields: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """The texts of a row's input fields, as a prompt shows them."""
    cells = {name: input_text(row.get(column_of(name, columns) or name)) for name in fields}
    return {name: text if isinstance(text, str) else "" for name, text in cells.items()}


def session_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.session.json")


def read_session(
    out: Path, identity: Mapping[str, Any], input_fields: Sequence[str], label_type: LabelType = "text"
) -> Session | None:
    """Load an unfinished session; None if there is none.

    Args:
        identity: bundle, pool and settings that it must belong to.

    Raises:
        InputError: if it belongs to another bundle, pool or setting, or cannot be read.
    """
    path = session_file(out)
    if not path.is_file():
        return None
    try:
        data = load_json(path)
        if data["format"] != _FORMAT:
            raise ValueError("another format")
        picks = [Pick.from_json(one) for one in data["picks"]]
        actions = [(int(place), None if label is None else str(label)) for place, label in data["actions"]]
        if [place for place, _ in actions] != list(range(len(actions))) or len(actions) > len(picks):
            raise ValueError("labels without rows")
        before, count = dict(data["identity"]), int(data["earlier"])
        label, labels = str(data["label"]), tuple(map(str, data["labels"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the unfinished session cannot be read ({type(error).__name__}: {error})",
            where=str(path),
            hint=f"The labels given so far are in {out.name}. Remove this file to start again without losing them.",
        ) from error
    if other := [name for name in identity if before.get(name) != identity[name]]:
        raise InputError(
            f"there is an unfinished session with another {' and '.join(other)}",
            where=str(path),
            hint="Continue it with the command that started it, or remove this file to start again; the labels given so far "
            f"are in {out.name}.",
        )
    earlier = Earlier.read(out, input_fields, label)
    if len(earlier.rows) < count:
        raise InputError(
            f"the file has {counted(len(earlier.rows), 'row')}, but had {count} when the unfinished session started",
            where=str(out),
            hint=f"Restore the file, or remove {path.name} to start again.",
        )
    # Rows that somebody added meanwhile stay, and labels that somebody corrected; the session's own rows are written anew.
    first = replace(earlier, rows=earlier.rows[:count])
    session = Session(out, label, labels, picks, first, before, actions, label_type=label_type)
    places = _places(session, input_fields)
    written = {cell_text(label_value(one, label_type)): one for one in labels} | {one: one for one in labels}
    column, added = column_of(label, earlier.columns) or label, list[Mapping[str, Any]]()
    for row in earlier.rows[count:]:
        place, given = places.get(said(_texts(row, input_fields, earlier.columns))), written.get(cell_text(row.get(column)))
        if place is None:
            added.append(row)
        elif place < len(actions) and session.actions[place][1] is not None and given is not None:
            session.actions[place] = (place, given)
    session.earlier = replace(first, rows=(*first.rows, *added))
    return session
