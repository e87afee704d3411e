"""The Task: labelled rows in splits, with fields, labels, metric and data checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cotune.errors import InputError
from cotune.files import absolute
from cotune.task.assemble import OnBlank, Source, assemble
from cotune.task.checks import DataChecks
from cotune.task.example import Example
from cotune.task.known import Start
from cotune.task.metrics.metric import Metric
from cotune.task.reading.cells import NESTED, cell_text
from cotune.task.reading.read import read_table
from cotune.task.reading.table import Table, table_from_rows
from cotune.task.sealed import SealedTest
from cotune.task.values.output import Output, OutputType
from cotune.task.values.schema import checked_schema


@dataclass(frozen=True, repr=False)
class Task:
    """A task that is ready to run.

    Create one with :meth:`from_frame` or :meth:`from_rows`. Users import its subclass :class:`cotune.config.task.Task`, which
    also reads configs and bundles to start from, and documents the attributes.
    """

    name: str
    input_fields: tuple[str, ...]
    output_field: str
    output: Output
    measure: Metric
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: SealedTest
    checks: DataChecks
    fingerprint: str
    replayed: bool = False
    start: str | None = None

    def __repr__(self) -> str:
        return (
            f"Task({self.name!r}, {', '.join(self.input_fields)} -> {self.output_field} ({self.output.summary}), "
            f"train={len(self.train)}, dev={len(self.dev)}, test={self.test.n})"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, sorted; empty for other outputs."""
        return self.output.labels

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.measure.name

    def run_metric(self) -> None:
        """Execute the metric's file if it was only read, as for a run's folder that may come from elsewhere."""
        from cotune.task.metrics.user import UserMetric

        if isinstance(self.measure.rows, UserMetric):
            self.measure.rows.run()

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        input: str | Sequence[str] | None = None,
        output: str | None = None,
        dev: Any = None,
        test: Any = None,
        group: str | None = None,
        type: OutputType | None = None,
        labels: Sequence[str] | None = None,
        schema: Mapping[str, Any] | None = None,
        metric: str | None = None,
        name: str = "task",
        seed: int = 0,
        limit: Mapping[str, int] | None = None,
        replay: Any = None,
        replay_ratio: float = 1.0,
        start: str | Path | Start | None = None,
        on_blank: OnBlank = "error",
    ) -> Self:
        """Make a task from a pandas, polars or pyarrow frame, or anything else that :func:`read_table` reads, such as a file.

        Args:
            frame: the labelled rows.
            input: column or columns that the model reads; None takes those of ``start``, else ``input``.
            output: column of the labels, texts, numbers or JSON values that are right; None takes that of ``start``, else
                ``output``.
            dev: rows to choose on; None cuts them from ``frame``.
            test: rows for the final test; None cuts them from ``frame``.
            group: column whose equal values mark rows that must stay in one split.
            type: ``label``, ``text``, ``number`` or ``json``; None guesses it from the data.
            labels: all labels; None takes them from the data. Missing values, such as those of ``frame[output].unique()``, are
                left out.
            schema: JSON Schema of the outputs; None infers it from the data.
            metric: a key of ``METRICS``, ``within 0.5``, ``within 1%`` or ``FILE.py:FUNCTION``; None takes the type's default.
            name: name of the task.
            seed: seed of splits and subsamples.
            limit: maximum number of rows, by ``train``, ``dev`` and ``test``.
            replay: rows of the run that made ``start``, to learn from again; see ``data.replay``.
            replay_ratio: how many of them; see ``data.replay_ratio``.
            start: bundle of an earlier run to start from. Its labels stay answers, and type, schema and metric default to the
                bundle's.
            on_blank: what to do with blank rows; see ``data.on_blank``.

        Raises:
            InputError: the rows are invalid (the message names row and column), or ``start`` is not a bundle.
        """
        limits = dict(limit or {})
        if unknown := sorted(set(limits) - {"train", "dev", "test"}):
            raise InputError(f"unknown limit {unknown[0]!r}", where="limit", hint="Known limits: train, dev, test.")
        bundle = cls._start(start)
        known = None if bundle is None else bundle.known
        input_fields, output_field = _columns(input, output, bundle)
        if metric is None and bundle is not None:
            metric = bundle.metric
        return cls._assembled(
            Source(
                train=_table(frame, "train"),
                dev=_table(dev, "dev") if dev is not None else None,
                test=_table(test, "test") if test is not None else None,
                input_fields=input_fields,
                output_field=output_field,
                group=group,
                type=type,
                labels=tuple(filter(str.strip, map(_label_text, labels))) if labels is not None else None,
                schema=checked_schema(schema, "schema"),
                limit_train=limits.get("train"),
                limit_dev=limits.get("dev"),
                limit_test=limits.get("test"),
                seed=seed,
                replay=_table(replay, "replay") if replay is not None else None,
                replay_ratio=replay_ratio,
                known=known,
                asked_by={} if bundle is None else bundle.asked_by,
                on_blank=on_blank,
            ),
            name,
            metric,
            None if bundle is None else absolute(bundle.folder),
        )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Any],
        *,
        input: str | Sequence[str] | None = None,
        output: str | None = None,
        dev: Iterable[Any] | None = None,
        test: Iterable[Any] | None = None,
        replay: Iterable[Any] | None = None,
        start: str | Path | Start | None = None,
        **settings: Any,
    ) -> Self:
        """Make a task from a list of mappings, or of tuples of input texts followed by the output.

        Arguments and errors as in :meth:`from_frame`.
        """
        bundle = cls._start(start)
        input_fields, output_field = _columns(input, output, bundle)
        columns = (*input_fields, output_field)
        return cls.from_frame(
            _named(rows, columns, "train"),
            input=input,
            output=output,
            dev=None if dev is None else _named(dev, columns, "dev"),
            test=None if test is None else _named(test, columns, "test"),
            replay=None if replay is None else _named(replay, columns, "replay"),
            start=bundle,
            **settings,
        )

    @classmethod
    def _start(cls, start: str | Path | Start | None) -> Start | None:
        """The bundle to start from; the subclass in :mod:`cotune.config.task` can read one."""
        if isinstance(start, (str, Path)):
            raise TypeError(f"{cls.__module__}.Task reads no bundles; use cotune.Task")
        return start

    @classmethod
    def _assembled(cls, source: Source, name: str, metric: str | None, start: str | None) -> Self:
        parts = assemble(source, metric)
        return cls(
            name=name,
            input_fields=parts.input_fields,
            output_field=source.output_field,
            output=parts.output,
            measure=parts.metric,
            train=parts.train,
            dev=parts.dev,
            test=parts.test,
            checks=parts.checks,
            fingerprint=parts.fingerprint,
            replayed=parts.replayed,
            start=start,
        )


def _columns(input: str | Sequence[str] | None, output: str | None, start: Start | None) -> tuple[tuple[str, ...], str]:
    """The named columns, else those of the bundle to start from, else ``input`` and ``output``."""
    usual = (("input",), "output") if start is None or (input is not None and output is not None) else start.columns
    input_fields = usual[0] if input is None else (input,) if isinstance(input, str) else tuple(input)
    return input_fields, usual[1] if output is None else output


def _table(source: Any, role: str) -> Table:
    if isinstance(source, Table):
        return source
    # names the frame in messages
    return read_table(source, name=None if isinstance(source, (str, Path)) else f"the {role} rows")


def _named(rows: Iterable[Any], columns: Sequence[str], role: str) -> Table:
    named = (
        dict(zip(columns, row, strict=True)) if isinstance(row, (tuple, list)) and len(row) == len(columns) else row
        for row in rows
    )
    return table_from_rows(named, f"the {role} rows")


def _label_text(label: object) -> str:
    """A label as a cell of a file holds it, such as ``1`` for the number; empty for a missing value."""
    text = cell_text(label)
    return (text or "") if text is not NESTED else str(label)
