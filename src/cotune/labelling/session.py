"""A person's answers to the rows that were picked, on disk after every one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotune.bundle.rows import said
from cotune.errors import InputError, counted
from cotune.files import write_json
from cotune.labelling.picking import Pick
from cotune.task.reading.field_names import column_of
from cotune.task.reading.sheet import Sheet, read_sheet, write_sheet

_FORMAT = 1


@dataclass(frozen=True)
class Earlier:
    """Rows that the file of labels held before.

    Attributes:
        columns: of the file; none where it is not there.
        rows: of the file.
        known: what they say (:func:`cotune.bundle.rows.said`).
        delimiter: what separates its cells.
        marked: whether it began with a byte order mark.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    known: frozenset[str] = frozenset()
    delimiter: str = ","
    marked: bool = False

    @classmethod
    def read(cls, out: Path, input_fields: Sequence[str], label: str) -> Earlier:
        """Read the file that labels are to be added to.

        Raises:
            InputError: it is there and is no file of labelled rows of the task.
        """
        if not out.is_file() or not out.stat().st_size:
            return cls()
        sheet = read_sheet(out)
        columns = {name: column_of(name, sheet.columns) for name in (*input_fields, label)}
        if lost := [name for name, column in columns.items() if column is None]:
            raise InputError(
                f"the file is there already and has no column {lost[0]!r}",
                where=str(out),
                hint="Labels are added to a file of labelled rows of this task; choose another --out.",
            )
        known = {said({name: str(row.get(columns[name] or name) or "") for name in input_fields}) for row in sheet.rows}
        return cls(sheet.columns, tuple(sheet.rows), frozenset(known), sheet.delimiter, sheet.marked)


class Session:
    """What was picked and what was said to it.

    Two files are kept, each replaced whole after every answer: the labelled rows at ``out``, and beside them
    ``out.session.json`` with the picks and the answers, by which the same command goes on after a quit, a crash or kill -9. The
    second is removed when all is answered.

    Args:
        out: file of labelled rows: CSV, TSV, JSONL or Parquet.
        label: name of the label column.
        labels: that may be given.
        picks: rows to ask about, in order.
        earlier: what the file held before.
        identity: what the session belongs to: bundle, pool and settings.
        actions: place of a pick and its label, None where it was skipped, in the order in which they were given.
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
    ) -> None:
        self.out, self.label, self.labels = out, label, tuple(labels)
        self.picks, self.earlier, self.identity = tuple(picks), earlier, dict(identity)
        self.actions = list(actions)

    @property
    def at(self) -> int:
        """How many picks were answered or skipped: the place of the next one."""
        return len(self.actions)

    @property
    def current(self) -> Pick | None:
        """The row to ask about; None where all are done."""
        return self.picks[self.at] if self.at < len(self.picks) else None

    @property
    def labelled(self) -> int:
        """Picks with a label."""
        return sum(label is not None for _, label in self.actions)

    @property
    def skipped(self) -> int:
        """Picks that were passed over."""
        return self.at - self.labelled

    @property
    def agreed(self) -> int:
        """Picks whose label is the model's own answer."""
        return sum(label == self.picks[place].guess for place, label in self.actions)

    def give(self, label: str | None) -> None:
        """Label the current row, or skip it with None; on disk when this returns.

        Raises:
            InputError: the label is none of the task's, nothing is left to label, or the files cannot be written.
        """
        if self.current is None:
            raise InputError("all rows are done", where=str(self.out))
        if label is not None and label not in self.labels:
            raise InputError(f"{label!r} is none of the labels", where=str(self.out), hint="Give one of the bundle's labels.")
        self.actions.append((self.at, label))
        try:
            self.save()
        except BaseException:
            self.actions.pop()
            raise

    def undo(self) -> bool:
        """Take the last answer back; whether there was one."""
        if not self.actions:
            return False
        last = self.actions.pop()
        try:
            self.save()
        except BaseException:
            self.actions.append(last)
            raise
        return True

    def save(self) -> None:
        """Write the labelled rows, then how far the session is."""
        self._write_rows()
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
        """Forget how far the session is where nothing is left to go on with."""
        if self.current is None:
            session_file(self.out).unlink(missing_ok=True)

    def _write_rows(self) -> None:
        column = column_of(self.label, self.earlier.columns) or self.label
        given = [(self.picks[place], label) for place, label in self.actions if label is not None]
        rows: list[Mapping[str, Any]] = list(self.earlier.rows)
        rows += [{**pick.row, column: label} for pick, label in given]
        if not rows:
            # A file with a header alone is none that anything reads.
            self.out.unlink(missing_ok=True)
            return
        names = dict.fromkeys(self.earlier.columns)
        # The label column stands last where the pool brings none.
        names |= dict.fromkeys(name for pick in self.picks for name in pick.row if name != column)
        names[column] = None
        form: dict[str, Any] = {"delimiter": self.earlier.delimiter, "marked": self.earlier.marked}
        sheet = Sheet(tuple(names), rows, str(self.out), range(1, len(rows) + 1), **form)
        write_sheet(sheet, {}, self.out)


def session_file(out: Path) -> Path:
    """Where it stands how far the labelling of a file is."""
    return out.with_name(f"{out.name}.session.json")


def read_session(out: Path, identity: Mapping[str, Any], input_fields: Sequence[str]) -> Session | None:
    """The session that was left unfinished; None where there is none.

    Raises:
        InputError: it belongs to another bundle, pool or setting, or cannot be read.
    """
    path = session_file(out)
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != _FORMAT:
            raise ValueError("another format")
        picks = [Pick.from_json(one) for one in data["picks"]]
        actions = [(int(place), None if label is None else str(label)) for place, label in data["actions"]]
        if [place for place, _ in actions] != list(range(len(actions))) or len(actions) > len(picks):
            raise ValueError("answers without rows")
        before, count = dict(data["identity"]), int(data["earlier"])
        label, labels = str(data["label"]), tuple(map(str, data["labels"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"the unfinished session cannot be read ({type(error).__name__}: {error})",
            where=str(path),
            hint=f"What was labelled stands in {out.name}. Remove this file to begin anew; rows there are not asked again.",
        ) from error
    if other := [name for name in identity if before.get(name) != identity[name]]:
        raise InputError(
            f"there is an unfinished session with another {' and '.join(other)}",
            where=str(path),
            hint=f"Give the command that began it to go on, or remove this file: what was labelled stands in {out.name}.",
        )
    earlier = Earlier.read(out, input_fields, label)
    if len(earlier.rows) < count:
        raise InputError(
            f"the file has {counted(len(earlier.rows), 'row')}, and had {count} before the session that is unfinished",
            where=str(out),
            hint=f"Put the file back, or remove {path.name} to begin anew.",
        )
    return Session(out, label, labels, picks, replace(earlier, rows=earlier.rows[:count]), before, actions)
