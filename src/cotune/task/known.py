"""The output type and demonstrations of the bundle that a run starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cotune.task.example import Example
from cotune.task.split import duplicate_key
from cotune.task.values.output import Output


class Shown(Protocol):
    """A row that a prompt shows, see :class:`cotune.prompt.prompt.Demonstration`."""

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """Pairs of input field and text."""
        ...


@dataclass(frozen=True)
class Known:
    """The output type of an earlier bundle, and the rows whose answers its prompt shows.

    Attributes:
        output: output type of the bundle.
        shown: rows that its prompt shows with their answers.
    """

    output: Output
    shown: Sequence[Shown] = ()

    def keys(self, input_fields: Sequence[str]) -> frozenset[str]:
        """Keys (:func:`cotune.task.split.duplicate_key`) of the shown rows, for fields in this order."""
        rows = [dict(one.fields) for one in self.shown]
        return frozenset(duplicate_key(Example("", {name: row.get(name, "") for name in input_fields}, "")) for row in rows)


class Start(Protocol):
    """The bundle that a run starts from, as far as the task depends on it."""

    @property
    def folder(self) -> Path:
        """The bundle's folder."""
        ...

    @property
    def known(self) -> Known:
        """Its output type and shown rows. Raises :class:`cotune.errors.InputError` if it is damaged."""
        ...

    @property
    def columns(self) -> tuple[tuple[str, ...], str]:
        """The input columns and the output column of its task."""
        ...

    @property
    def metric(self) -> str | None:
        """The metric's name; None if the metric is a function in a file."""
        ...

    @property
    def asked_by(self) -> Mapping[str, str]:
        """The source of each column's name, for messages."""
        ...
