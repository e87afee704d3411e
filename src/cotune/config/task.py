"""Tasks from a config, and tasks whose run starts from an earlier bundle."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

from cotune.config.run import RunConfig
from cotune.errors import InputError
from cotune.task.assemble import Source
from cotune.task.known import Known, Start
from cotune.task.reading.read import read_table
from cotune.task.task import Task as _Task


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
        data, limit = config.data, config.limit
        if known is None and config.start is not None:
            known = _Bundle(config.start).known
        return cls._assembled(
            Source(
                train=read_table(data.train),
                dev=read_table(data.dev, default_split="validation") if data.dev is not None else None,
                test=read_table(data.test, default_split="test") if data.test is not None else None,
                input_fields=data.input,
                output_field=data.output,
                group=data.group,
                type=config.output.type,
                labels=config.output.labels,
                schema=config.output.read_schema(),
                limit_train=limit.train,
                limit_dev=limit.dev,
                limit_test=limit.test,
                seed=config.seed,
                replay=read_table(data.replay) if data.replay is not None else None,
                replay_ratio=data.replay_ratio,
                checked=checked,
                run_metric=run_metric,
                known=known,
                asked_by={} if config.start is None else _asked_by(config.start),
                options=dict.fromkeys(data.input, "--input") | {data.output: "--output"},
                on_blank=data.on_blank,
            ),
            config.name,
            config.metric,
            config.start,
        )

    @classmethod
    def _start(cls, start: str | Path | Start | None) -> Start | None:
        return _Bundle(start) if isinstance(start, (str, Path)) else start


class _Bundle:
    """The bundle that a run starts from, read on first use; see :class:`cotune.task.known.Start`."""

    def __init__(self, start: str | Path) -> None:
        from cotune.bundle.load import resolve_bundle
        from cotune.bundle.manifest import read_manifest

        self.folder = resolve_bundle(start)
        self._manifest = read_manifest(self.folder)

    @cached_property
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
