"""Tasks from a config, a frame or rows, whose run may start from an earlier bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Self

from cotune.config.run import RunConfig
from cotune.errors import InputError, shown_names
from cotune.files import absolute
from cotune.task.assemble import OnBlank, Source, assemble
from cotune.task.columns import guess_columns
from cotune.task.known import Known
from cotune.task.output_columns import joined_name, listed_columns
from cotune.task.reading.cells import NESTED, cell_text
from cotune.task.reading.read import read_table
from cotune.task.reading.table import Table, table_from_rows
from cotune.task.task import Task as _Task
from cotune.task.values.output import OutputType
from cotune.task.values.schema import checked_schema


class Task(_Task):
    """A task that is ready to run.

    Create one with :meth:`from_config`, :meth:`from_frame` or :meth:`from_rows`.

    Attributes:
        name: name of the task.
        input_fields: names of the input fields, in their order; prompts show them as ``{field}``.
        output_field: name of the output column.
        output: type of the answers, with labels or schema.
        measure: the metric.
        train: training rows, in the order of their source.
        dev: rows to choose on, in the order of their source.
        test: rows for the final test, sealed.
        checks: results of the data checks.
        fingerprint: content hash of all rows with their split, the fields, the labels and the metric; 16 hex digits.
        replayed: whether rows of an earlier run are included; their ids begin with ``replay:``.
        start: folder of the bundle that its run starts from; None for the base model.
    """

    @classmethod
    def from_config(
        cls, config: RunConfig, *, known: Known | None = None, checked: bool = True, run_metric: bool = True
    ) -> Self:
        """Read, check and split the data that a config names.

        Args:
            config: names data, columns and limits.
            known: output of the bundle that the run starts from. Its labels stay answers unless the config names all labels;
                its schema is kept if all rows fit it, unless the config gives one. None reads it from the bundle.
            checked: whether to run checks that change no split, such as near-duplicates; not needed when a run is reopened.
            run_metric: whether to execute a metric's file now; otherwise :meth:`run_metric` does it.

        Raises:
            InputError: the data is missing or invalid; the message names file, row and column.
        """
        data = config.data
        if known is None and config.start is not None:
            known = _Bundle(config.start).known
        source = Source(
            train=read_table(data.train),
            dev=read_table(data.dev, default_split="validation") if data.dev is not None else None,
            test=read_table(data.test, default_split="test") if data.test is not None else None,
            input_fields=data.input,
            output_field=data.output,
            group=data.group,
            type=config.output.type,
            labels=config.output.labels,
            schema=config.output.read_schema(),
            limit=config.limit.model_dump(),
            seed=config.seed,
            replay=read_table(data.replay) if data.replay is not None else None,
            replay_ratio=data.replay_ratio,
            checked=checked,
            run_metric=run_metric,
            known=known,
            asked_by={} if config.start is None else _asked_by(config.start),
            options=dict.fromkeys(data.input, "--input") | {data.output: "--output"},
            on_blank=data.on_blank,
        )
        return cls(**vars(assemble(source, config.metric)), name=config.name, start=config.start)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        input: str | Sequence[str] | None = None,
        output: str | Sequence[str] | None = None,
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
        start: str | Path | None = None,
        on_blank: OnBlank = "error",
    ) -> Self:
        """Make a task from a pandas, polars or pyarrow frame, or anything else that :func:`read_table` reads, such as a file.

        Args:
            frame: the labelled rows.
            input: column or columns that the model reads; None takes those of ``start``, else ``input``.
            output: column of the labels, texts, numbers or JSON values that are right; several columns are the properties of
                JSON objects. None takes that of ``start``, else ``output``.
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
        for key, fits, wanted in (
            ("labels", not isinstance(labels, str), "a list of labels"),
            ("limit", isinstance(limit, (Mapping, NoneType)), "a mapping such as {'train': 500}"),
        ):
            if not fits:
                raise InputError(f"{key} must be {wanted}", where=key, hint=f"Correct {key}.")
        bundle = None if start is None else _Bundle(start)
        input_fields, output_field = _columns(input, output, bundle)
        if metric is None and bundle is not None:
            metric = bundle.metric
        train = _table(frame, "train")
        if bundle is None:
            _check_defaults(train, input, output)
        source = Source(
            train=train,
            dev=_table(dev, "dev") if dev is not None else None,
            test=_table(test, "test") if test is not None else None,
            input_fields=input_fields,
            output_field=output_field,
            group=group,
            type=type,
            labels=tuple(filter(str.strip, map(_label_text, labels))) if labels is not None else None,
            schema=checked_schema(schema, "schema"),
            limit=limit or {},
            seed=seed,
            replay=_table(replay, "replay") if replay is not None else None,
            replay_ratio=replay_ratio,
            known=None if bundle is None else bundle.known,
            asked_by={} if bundle is None else bundle.asked_by,
            on_blank=on_blank,
        )
        folder = None if bundle is None else absolute(bundle.folder)
        return cls(**vars(assemble(source, metric)), name=name, start=folder)

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Any],
        *,
        input: str | Sequence[str] | None = None,
        output: str | Sequence[str] | None = None,
        dev: Iterable[Any] | None = None,
        test: Iterable[Any] | None = None,
        replay: Iterable[Any] | None = None,
        start: str | Path | None = None,
        **settings: Any,
    ) -> Self:
        """Make a task from a list of mappings, or of tuples of input texts followed by the output.

        Arguments and errors as in :meth:`from_frame`.
        """
        bundle = None if start is None else _Bundle(start)
        input_fields, output_field = _columns(input, output, bundle)
        listed = listed_columns(output_field) if _several(output) else ()
        columns = (*input_fields, *(listed or (output_field,)))
        train = _named(rows, columns, "train")
        if bundle is None:
            _check_defaults(train, input, output)
        return cls.from_frame(
            train,
            input=input_fields,
            output=output_field,
            dev=None if dev is None else _named(dev, columns, "dev"),
            test=None if test is None else _named(test, columns, "test"),
            replay=None if replay is None else _named(replay, columns, "replay"),
            start=None if bundle is None else bundle.folder,
            **settings,
        )


class _Bundle:
    """The bundle that a run starts from, as far as the task depends on it."""

    def __init__(self, start: str | Path) -> None:
        from cotune.bundle.load import resolve_bundle
        from cotune.bundle.manifest import read_manifest

        self.folder = resolve_bundle(start)
        self._manifest = read_manifest(self.folder)

    @property
    def known(self) -> Known:
        from cotune.bundle.load import OpenedBundle

        return OpenedBundle.read(self.folder).known

    @property
    def columns(self) -> tuple[tuple[str, ...], str]:
        return self._manifest.input_fields, self._manifest.output_field

    @property
    def metric(self) -> str | None:
        return self._manifest.named_metric

    @property
    def asked_by(self) -> Mapping[str, str]:
        return dict.fromkeys((*self._manifest.input_fields, self._manifest.output_field), "the bundle")


def _asked_by(start: str) -> Mapping[str, str]:
    try:
        return _Bundle(start).asked_by
    except InputError:
        # The bundle that a run started from may be gone when its rows are read again.
        return {}


def _several(output: object) -> bool:
    return isinstance(output, Iterable) and not isinstance(output, str)


def _columns(
    input: str | Sequence[str] | None, output: str | Sequence[str] | None, bundle: _Bundle | None
) -> tuple[tuple[str, ...], str]:
    """The named columns, else those of the bundle to start from, else ``input`` and ``output``."""
    single = isinstance(input, str) or not isinstance(input, Iterable)
    names: list[Any] = [] if input is None else [input] if single else [*input]
    names += [] if output is None else [*output] if _several(output) else [output]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise InputError(
            f"{wrong[0]!r} is not a column's name",
            where="input, output",
            hint="Give a text, such as output='label', or a list of them.",
        )
    usual = (("input",), "output") if bundle is None or (input is not None and output is not None) else bundle.columns
    input_fields = usual[0] if input is None else (input,) if isinstance(input, str) else tuple(input)
    return input_fields, usual[1] if output is None else output if isinstance(output, str) else joined_name(tuple(output))


def _check_defaults(table: Table, input: str | Sequence[str] | None, output: str | Sequence[str] | None) -> None:
    """Refuse rows that lack a column ``input`` or ``output`` which the user did not name; the error suggests columns."""
    if all(given is not None or name in table.columns for name, given in (("input", input), ("output", output))):
        return
    guessed = guess_columns(table)
    named = f"input={input or guessed[0] or 'COLUMN'!r}, output={output or guessed[1] or 'COLUMN'!r}"
    raise InputError(
        "the columns to use are not given",
        where=table.source,
        hint=f"The rows have {shown_names(table.columns)}. For example: {named}",
    )


def _table(source: Any, role: str) -> Table:
    if isinstance(source, Table):
        return source
    # names the frame in messages
    return read_table(source, name=None if isinstance(source, (str, Path)) else f"the {role} rows")


def _named(rows: Iterable[Any], columns: Sequence[str], role: str) -> Table:
    if isinstance(rows, (str, Path)):
        raise InputError(
            f"{str(rows)!r} is a file's name and not a list of rows",
            where=f"the {role} rows",
            hint="Read the file's rows first, or make the task with Task.from_frame, which takes files.",
        )
    named = (
        dict(zip(columns, row, strict=True)) if isinstance(row, (tuple, list)) and len(row) == len(columns) else row
        for row in rows
    )
    return table_from_rows(named, f"the {role} rows")


def _label_text(label: object) -> str:
    """A label as a cell of a file holds it, such as ``1`` for the number; empty for a missing value."""
    text = cell_text(label)
    return (text or "") if text is not NESTED else str(label)
