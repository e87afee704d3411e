"""Makes the splits of a task from tables: validate, remove leaks, subsample, split, check."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from cotune.errors import InputError, counted, shortened, shown_names
from cotune.files import content_hash
from cotune.task.checks import DataChecks, Finding, Removed, check_data
from cotune.task.example import Example, group_of
from cotune.task.guessed_type import guessed_type
from cotune.task.known import Known
from cotune.task.metrics.metric import METRICS, Metric, metric_for
from cotune.task.output_columns import EMPTY, NOT_JSON, NOT_JSON_HINT, joins, listed_columns, types_in, types_of, with_joined
from cotune.task.reading.cells import column_of, has_half_character
from cotune.task.reading.field_names import RESERVED, field_names, fields_for, with_fields, with_headers
from cotune.task.reading.table import Table
from cotune.task.rehearsal import ROLE, Replay, choose_replay
from cotune.task.sealed import SealedTest, rows_hash
from cotune.task.split import Rows, Stratum, cut, dev_size, duplicate_key, stratum_of, subsample, test_size
from cotune.task.values.json_value import json_text
from cotune.task.values.kinds.registry import KINDS, OutputType
from cotune.task.values.label_type import label_type, one_spelling, spelled_as
from cotune.task.values.number import parse_number
from cotune.task.values.number_style import NumberStyle, number_style
from cotune.task.values.output import Output

LEAST_ROWS = 10
"""Least number of labelled rows beside the test; with as many test rows at least if the test is cut from them."""
OnBlank = Literal["error", "skip"]
"""Handling of rows with a blank input or output."""
_NAME_ONCE = "Name each column once."
_LIKE_MISSING = frozenset({"nan", "na", "<na>", "n/a", "#n/a", "null", "none"})
"""Texts that spreadsheets, databases and pandas write for a missing value, in lower case."""
_TEST_CUT, _TEST_LIMIT, _TRAIN_LIMIT, _DEV_CUT, _DEV_LIMIT, _REPLAY = range(6)


@dataclass(frozen=True)
class Source:
    """Tables and settings of a task; None means cut (dev, test), take from the data (type, labels, schema), all (limits).

    ``replay`` holds rows of an earlier run, ``known`` the output of its bundle: its type and labels are the defaults, its
    schema is kept if all rows fit it, and rows whose answers its prompt shows stay out of dev. For columns that the user did
    not name, ``asked_by`` says who did, and ``options`` which command-line option changes them. Without ``checked``, checks
    that change no split are skipped; without ``run_metric`` a metric's file is read but not executed. ``on_blank`` says what to
    do with blank rows. ``style`` is the number format, found by :func:`with_style`.
    """

    train: Table
    dev: Table | None
    test: Table | None
    input_fields: tuple[str, ...]
    output_field: str
    group: str | None = None
    type: OutputType | None = None
    labels: tuple[str, ...] | None = None
    schema: Mapping[str, Any] | None = None
    limit: Mapping[str, int | None] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    replay: Table | None = None
    replay_ratio: float = 1.0
    known: Known | None = None
    asked_by: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    checked: bool = True
    run_metric: bool = True
    on_blank: OnBlank = "error"
    style: NumberStyle | None = None


@dataclass(frozen=True)
class Parts:
    """The parts of a task; see :class:`cotune.config.task.Task`."""

    input_fields: tuple[str, ...]
    output_field: str
    output: Output
    measure: Metric
    train: Rows
    dev: Rows
    test: SealedTest
    checks: DataChecks
    fingerprint: str
    replayed: bool


def assemble(source: Source, metric: str | None) -> Parts:
    """Validate the tables and make the splits.

    Steps, in order: determine the output's type; validate the rows; cut a missing test from the labelled rows; remove labelled
    rows that repeat the test; subsample the rest by ``limit.train``; cut a missing dev from it; balance replayed rows against
    the result and add them to train and dev. Splits are stratified by label. Other outputs hardly recur, so their splits are
    not stratified.

    Args:
        metric: name of the metric; None for that which suits the outputs.

    Raises:
        InputError: a column is missing, a cell is empty or of another type, a label unknown, there are too few rows or labels,
            or the metric is unknown or does not fit.
    """
    source, joined = _with_output_columns(source)
    source, renamed = _with_fields(source)
    _check_request(source)
    source = _with_truth_values(source)
    kind, guess = _type(source)
    source, styled = with_style(source, kind, source.known.output.style if source.known is not None else None)
    named = None if metric is None else metric_for(metric, Output(kind), run=source.run_metric)
    typed = not KINDS[kind].written and not any(source.output_field in table.texts for table in _tables(source))
    known = {*(source.labels or ()), *(source.known.output.labels if source.known is not None else ())} if typed else set()
    if typed and not known:
        known |= one_spelling(source.train.filled(source.output_field))
    labelled = examples_from(source.train, "train", source, kind, known)
    known |= {example.output for example in labelled} if typed else set()
    dev = examples_from(source.dev, "dev", source, kind, known) if source.dev is not None else None
    test = examples_from(source.test, "test", source, kind, known) if source.test is not None else None
    # Old rows may have labels that are no longer used.
    old = examples_from(source.replay, ROLE, replace(source, labels=None), kind, known) if source.replay is not None else ()
    for table, rows in ((source.dev, dev), (source.test, test)):
        if table is not None and not rows:
            _refuse_unlabelled(table, source)
    labels = _labels(source, kind, labelled, dev or (), test or (), old)
    read = {"train_read": len(labelled), "dev_read": len(dev or ()), "test_read": len(test or ())}

    missing = _like_missing(source, labels, (*labelled, *(dev or ())))
    blank = _skipped(source, labelled, dev, test, old)
    read |= {"blank_rows_skipped": blank[0].count} if blank else {}
    stratum = stratum_of(KINDS[kind])

    def generator(stage: int) -> np.random.Generator:
        # a random stream for each stage, so that one limit does not change another cut
        return np.random.default_rng([source.seed, stage])

    if test is None:
        size = test_size(len(labelled), source.limit.get("test"))
        labelled, test = _cut("test", source, labelled, size, generator(_TEST_CUT), stratum)
    shown: frozenset[str] = source.known.keys(source.input_fields) if source.known is not None else frozenset()
    labelled, dev, removed = _without_leaks(labelled, dev, test, shown)
    given, test = test, subsample(test, source.limit.get("test"), generator(_TEST_LIMIT), stratum, every_label=False)
    labelled = subsample(labelled, source.limit.get("train"), generator(_TRAIN_LIMIT), stratum)
    _check_enough(source, kind, labelled, dev, removed)
    if dev is None:
        size = dev_size(len(labelled), source.limit.get("dev"))
        train, dev = _cut("dev", source, labelled, size, generator(_DEV_CUT), stratum, shown)
    else:
        train, dev = labelled, subsample(dev, source.limit.get("dev"), generator(_DEV_LIMIT), stratum, every_label=False)
    # An inferred schema has to fit old rows too.
    schema = _schema(source, kind, (*train, *dev, *old))
    read_schema = _read_schema(source, kind, schema, (*train, *dev, *old))
    schema_text, read_text = ("" if one is None else json_text(one) for one in (schema, read_schema))
    answers, texts = [row.output for row in (*train, *dev)], [row.text for row in (*train, *dev)]
    known_parts = source.known.output.copied if source.known is not None else ()
    copied = KINDS[kind].copied(schema if read_schema is None else read_schema, answers, texts, known_parts)
    output = Output(kind, labels, schema_text, label_type(labels) if typed else "text", copied, read_text, source.style)
    train, dev, test, old = (_in_one_form(rows, output) for rows in (train, dev, test, old))
    sealed = SealedTest(test, rows_hash(_in_one_form(given, output)) if len(given) > len(test) else None)
    replay = Replay()
    if source.replay is not None:
        drawn = generator(_REPLAY)
        ratio = source.replay_ratio
        replay = choose_replay(old, train, dev, sealed, labels, stratum=stratum, shown=shown, ratio=ratio, generator=drawn)
        train, dev = (*train, *replay.train), (*dev, *replay.dev)
    read |= replay.counts
    checks = DataChecks((), read)
    if source.checked:
        also = (*guess, *joined, *renamed, *styled, *missing, *blank, *_shown_lists(source), *replay.findings)
        checks = check_data(train, dev, sealed, labels, removed=removed, counts=read, also=also)
    columns = (source.input_fields, source.output_field)
    description = output.to_json() if output.kind.written else output.labels
    judged = named or METRICS[output.kind.usual_metric([row.output for row in (*train, *dev)])]
    metric_parts = [judged.name, *([judged.fingerprint] if judged.fingerprint else [])]
    view = [rows_hash(train), rows_hash(dev), sealed.content_hash, *columns, description, *metric_parts]
    return Parts(*columns, output, judged, train, dev, sealed, checks, content_hash(view), source.replay is not None)


def _type(source: Source) -> tuple[OutputType, tuple[Finding, ...]]:
    """The type of the output, and a finding if it was guessed to be anything but labels."""
    if source.type is not None:
        return source.type, ()
    if source.labels is not None:
        return "label", ()
    if source.known is not None:
        return source.known.output.type, ()
    if source.schema is not None:
        return "json", ()
    return guessed_type(source.train, source.output_field)


def _schema(source: Source, kind: OutputType, rows: Rows) -> Mapping[str, Any] | None:
    """The given JSON Schema, else that of the earlier bundle if all outputs fit it, else one inferred from them."""
    schema, outputs = source.schema, [row.output for row in rows]
    if schema is None and source.known is not None:
        schema = source.known.output.kind.kept_schema(source.known.output.schema, outputs)
    return KINDS[kind].schema_of(outputs, schema, [row.text for row in rows])


def _read_schema(source: Source, kind: OutputType, schema: Mapping[str, Any] | None, rows: Rows) -> Mapping[str, Any] | None:
    """The narrower schema by which outputs are read; None with a given one, which says what is possible."""
    if source.schema is not None:
        return None
    outputs = [row.output for row in rows]
    if source.known is not None and source.known.output.read_text:
        known = source.known.output
        if (kept := known.kind.kept_schema(known.reading, outputs)) is not None:
            return kept
    return KINDS[kind].read_schema(schema, outputs, [row.text for row in rows])


def _in_one_form(rows: Rows, output: Output) -> Rows:
    """The rows with normalized outputs; JSON gets the schema's order of keys."""
    written = (output.kind.in_one_form(row.output, output.schema) for row in rows)
    return tuple(row if text == row.output else replace(row, output=text) for row, text in zip(rows, written, strict=True))


def _like_missing(source: Source, labels: Sequence[str], rows: Rows) -> tuple[Finding, ...]:
    """A warning where labels that the user has not listed look like missing values."""
    known = {*(source.labels or ()), *(source.known.output.labels if source.known is not None else ())}
    alike = {label for label in labels if label.lower() in _LIKE_MISSING and label not in known}
    counts = Counter(row.output for row in rows if row.output in alike)
    if not counts:
        return ()
    listed = ", ".join(f"{label!r} in {counted(count, 'row')}" for label, count in counts.most_common())
    message = (
        f"some labels look like missing values: {listed}. If they are, empty these cells and set data.on_blank=skip; if not, "
        "list all labels under output.labels"
    )
    return (Finding("labels_like_missing", "warning", message, counts.total()),)


def examples_from(table: Table, role: str, source: Source, type: OutputType = "label", known: Collection[str] = ()) -> Rows:
    """The table's rows as examples, ids ``role:number``.

    Outputs that equal one of the ``known`` labels in value, such as ``1.0`` beside ``1``, become that label.

    Raises:
        InputError: a column is missing, an output or an input is empty, or a cell is of the wrong type.
    """
    kind = KINDS[type]
    others = (source.output_field, *((source.group,) if source.group is not None else ()))
    for column in source.input_fields:
        table.need_input(column, source.asked_by.get(column, ""), source.options.get(column, ""))
    for column in others:
        # Only the user can name a group column.
        asked_by = source.asked_by.get(column, "") if column != source.group else ""
        option = source.options.get(column, "")
        table.need(column, asked_by, nested=kind.nested_cells and column == source.output_field, option=option)
    read_output = kind.cell_reader(labels=source.labels or (), schema=source.schema, style=source.style)
    spelled = spelled_as(known)
    for index in table.nested.get(source.output_field, ()):
        if table.rows[index].get(source.output_field) is None:
            raise InputError(NOT_JSON, where=table.where(index, source.output_field), hint=NOT_JSON_HINT)
    examples = []
    for index, row in enumerate(table.rows):
        fields = {name: table.shown(index, name) or "" for name in source.input_fields}
        for column in (*source.input_fields, *others):
            _check_text(fields.get(column, row.get(column)), table, index, column)
        cell = row.get(source.output_field) or ""
        if source.on_blank == "skip" and not (cell.strip() and any(text.strip() for text in fields.values())):
            continue
        if not any(text.strip() for text in fields.values()):
            _refuse_empty(table, index, source.input_fields, "the input is empty or missing", "Fill it")
        if not cell.strip():
            what = f"the {kind.output_noun} is empty or missing"
            _refuse_empty(table, index, (source.output_field,), what, kind.fill_hint)
        output = read_output(spelled(cell), table.where(index, source.output_field))
        group = None if source.group is None else group_of(row.get(source.group))
        examples.append(Example(f"{role}:{table.numbers[index]}", fields, output, group))
    return tuple(examples)


def _tables(source: Source) -> tuple[Table, ...]:
    return tuple(table for table in (source.train, source.dev, source.test, source.replay) if table is not None)


def _each_table(source: Source, change: Callable[[Table], Table]) -> Source:
    dev, test, replay = (None if table is None else change(table) for table in (source.dev, source.test, source.replay))
    return replace(source, train=change(source.train), dev=dev, test=test, replay=replay)


def _with_output_columns(source: Source) -> tuple[Source, tuple[Finding, ...]]:
    """The source with several output columns joined to one of JSON objects, and a finding about rows without any value."""
    name, columns = source.output_field, listed_columns(source.output_field)
    if not joins(source.train, name):
        return source, ()
    if doubled := next((column for column in columns if column in source.input_fields or columns.count(column) > 1), None):
        raise InputError(f"the column {doubled!r} is named twice", where="data.input, data.output", hint=_NAME_ONCE)
    if source.labels is not None or source.type not in (None, "json"):
        raise InputError(
            f"the output columns {shown_names(columns)} are the properties of JSON objects, which are not of type "
            f"{source.type or 'label'}",
            where="output.type",
            hint="Leave output.type and output.labels out, or name one output column.",
        )
    types = {**types_in(source.train, name), **types_of(source.schema)}
    asked_by, option = source.asked_by.get(name, ""), source.options.get(name, "")
    empty = source.on_blank == "error"

    def join(table: Table) -> Table:
        if not joins(table, name):
            return table
        return with_joined(table, name, types, empty=empty, asked_by=asked_by, option=option)

    source = replace(_each_table(source, join), type="json")
    count = sum(row.get(name) == EMPTY for table in (source.train, source.dev) if table is not None for row in table.rows)
    message = (
        f"in {counted(count, 'row')} all output columns are blank, so the right answer there is that there is no value; "
        "data.on_blank=skip leaves such rows out"
    )
    return source, (Finding("empty_outputs", "warning", message, count),) if count else ()


def _with_fields(source: Source) -> tuple[Source, tuple[Finding, ...]]:
    """The source with input columns renamed to names that prompts can show, and a finding about that."""
    source = _each_table(source, lambda table: with_headers(table, (source.output_field, source.group)))
    fields = fields_for(source.input_fields, source.train.columns)
    columns_of = {name: column for column, name in field_names(source.train.columns).items()}
    columns = [columns_of.get(field) or column_of(field, source.train.columns) or field for field in fields]
    renamed = {field: column for field, column in zip(fields, columns, strict=True) if field != column}
    if fields == source.input_fields and not renamed:
        return source, ()
    if len(set(fields)) < len(fields):
        # A column named twice is reported elsewhere.
        return replace(source, input_fields=fields), ()
    listed = ", ".join(f"{column!r} is {{{field}}}" for field, column in renamed.items())
    message = f"some input columns have other names in prompts: {listed}"
    called = dict(zip(fields, columns, strict=True))
    source = replace(_each_table(source, lambda table: with_fields(table, called)), input_fields=fields)
    # The group's column may be an input too.
    source = replace(source, group=next((field for field, column in renamed.items() if column == source.group), source.group))
    return source, (Finding("renamed_columns", "info", message, len(renamed)),)


def _with_truth_values(source: Source) -> Source:
    """The source with the labels ``true`` and ``false``, if they are all, spelled as in the data, such as ``True``."""
    if source.labels is None or {label.strip() for label in source.labels} != {"true", "false"}:
        return source
    cells = {cell.strip() for table in _tables(source) for cell in table.filled(source.output_field)}
    spelled = {cell.lower(): cell for cell in cells if cell.lower() in ("true", "false")}
    # Cells in several spellings are several labels, of which one is refused.
    if label_type([cell for cell in cells if cell.lower() in spelled]) != "bool":
        return source
    return replace(source, labels=tuple(spelled.get(label.strip(), label) for label in source.labels))


def with_style(source: Source, kind: OutputType, known: NumberStyle | None = None) -> tuple[Source, tuple[Finding, ...]]:
    """The source with its number format, if numbers are not plain, and a finding about that.

    Args:
        source: where the cells come from.
        kind: type of the output.
        known: format of the rows that a bundle was made from. It holds if it fits all cells: a few cells such as ``1.234``
            alone do not tell whether the point separates thousands.
    """
    cells = source.train.filled(source.output_field)
    if not KINDS[kind].styled or not cells:
        return source, ()
    style = known if known is not None and known.fits(cells) else number_style(cells)
    if style is None:
        return source, ()
    # A cell that shows the style.
    example = next((cell for cell in cells if parse_number(cell) is None), cells[0])
    message = f"the output {source.output_field!r} is read as {style.told(example)}"
    return replace(source, style=style), (Finding("number_style", "info", message, len(cells)),)


def _skipped(source: Source, labelled: Rows, dev: Rows | None, test: Rows | None, old: Rows) -> tuple[Finding, ...]:
    """Number of rows left out because their input or output is blank."""
    read = ((source.train, labelled), (source.dev, dev), (source.test, test), (source.replay, old))
    counts: Counter[str] = Counter()
    for table, rows in read:
        if table is not None:
            # Two tables may come from one file.
            counts[table.source] += len(table) - len(rows or ())
    listed = ", ".join(f"{count:,} of {name}" for name, count in counts.items() if count)
    total = sum(counts.values())
    message = f"rows without input or output were left out: {listed}"
    return (Finding("blank_rows", "warning", message, total),) if total else ()


def _shown_lists(source: Source) -> tuple[Finding, ...]:
    """The input columns that hold lists or objects in train or dev, and how they are shown."""
    tables = [table for table in (source.train, source.dev) if table is not None]
    findings = []
    for name in source.input_fields:
        if count := sum(len(table.nested.get(name, ())) for table in tables):
            message = (
                f"the input column {source.train.header(name)!r} holds lists or objects in {counted(count, 'row')}: a list is "
                "shown as 'a, b', an empty one as 'none', an object or a list of lists as JSON"
            )
            findings.append(Finding("list_inputs", "info", message, count))
    return tuple(findings)


def _check_request(source: Source) -> None:
    names = source.input_fields
    if not names:
        raise InputError("no input column is named", where="data.input", hint="Name at least one column.")
    for name in names:
        if name == RESERVED:
            raise InputError(
                "an input column may not be called 'labels', since {labels} in a prompt stands for the list of labels",
                where=f"{source.train.source}, column 'labels'",
                hint="Rename the column.",
            )
    columns = (*names, source.output_field)
    if doubled := [name for name, count in Counter(columns).items() if count > 1]:
        raise InputError(f"the column {doubled[0]!r} is named twice", where="data.input, data.output", hint=_NAME_ONCE)
    if source.labels is not None and not source.labels:
        raise InputError("the list of labels is empty", where="labels", hint="Name all labels, or leave the list out.")
    for key, given, known in (("type", source.type or "label", KINDS), ("on_blank", source.on_blank, get_args(OnBlank))):
        if given not in known:
            raise InputError(f"{key} must be one of {', '.join(known)}, not {given!r}", where=key, hint=f"Correct {key}.")
    if isinstance(source.seed, bool) or not isinstance(source.seed, (int, np.integer)) or not 0 <= source.seed < 2**32:
        raise InputError(f"seed must be a whole number from 0, not {source.seed!r}", where="seed", hint="Give one below 2**32.")
    if unknown := sorted({*source.limit} - {"train", "dev", "test"}):
        raise InputError(f"unknown limit {unknown[0]!r}", where="limit", hint="Known limits: train, dev, test.")
    for key, value in source.limit.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"limit.{key} must be a whole number above 0, not {value!r}", where=f"limit.{key}",
                             hint="Give a number of rows.")  # fmt: skip


def _check_text(text: str | None, table: Table, index: int, column: str) -> None:
    if text is None or (text.isascii() and "\0" not in text):
        return
    if "\0" in text:
        raise InputError(
            "there is a NUL character in the text", where=table.where(index, column), hint="Remove it from the cell."
        )
    if has_half_character(text):
        raise InputError(
            "there is half a character (a lone surrogate) in the text",
            where=table.where(index, column),
            hint="Write the file again as UTF-8; something cut an emoji in two.",
        )


def _refuse_empty(table: Table, index: int, columns: Sequence[str], what: str, hint: str) -> None:
    alike = sum(1 for row in table.rows if not any((row.get(column) or "").strip() for column in columns))
    more = f" ({alike:,} rows are like this)" if alike > 1 else ""
    skip = "data.on_blank=skip at the end of the command (on_blank='skip' in Python)"
    hint = f"{hint}, take the row out, or leave such rows out: {skip}."
    raise InputError(what + more, where=table.where(index, ", ".join(map(table.header, columns))), hint=hint)


def _refuse_unlabelled(table: Table, source: Source) -> None:
    columns = f"column {table.header(source.output_field)!r}"
    raise InputError(
        "no row has both an input and an output" if len(table) else "there are no rows",
        where=f"{table.source}, {columns}",
        hint="Fill the outputs of this file, or leave the file out: its rows are then cut from the train file.",
    )


def _labels(source: Source, kind: OutputType, labelled: Rows, dev: Rows, test: Rows, old: Rows) -> tuple[str, ...]:
    """All labels; none for other outputs."""
    where = f"{source.train.source}, column {source.output_field!r}"
    total, least = len(labelled) + len(dev), LEAST_ROWS if test else 2 * LEAST_ROWS
    if total < least:
        raise InputError(
            f"there {'is' if total == 1 else 'are'} only {counted(total, 'labelled row')}",
            where=source.train.source,
            hint=f"Label at least {least}; a few hundred are better.",
        )
    counts = Counter(example.output for example in (*labelled, *dev))
    if KINDS[kind].written:
        if len(counts) < 2:
            raise InputError(
                f"every row has the same output, {shortened(next(iter(counts)))!r}",
                where=where,
                hint="Name another output column, or add rows with other outputs.",
            )
        return ()
    expected = {*(source.known.output.labels if source.known is not None else ()), *(example.output for example in old)}
    if len({*counts, *expected}) < 2:
        raise InputError(
            f"every row has the same label, {shortened(next(iter(counts)))!r}",
            where=where,
            hint="Name another output column, or add rows with other labels.",
        )
    if sum(1 for count in counts.values() if count >= 2) < (1 if expected else 2):
        raise InputError(
            f"only {sum(1 for count in counts.values() if count >= 2)} of {counted(len(counts), 'label')} has two rows or more",
            where=where,
            hint="Name a column that holds labels, or add rows.",
        )
    if source.labels is not None:
        return tuple(sorted({label.strip() for label in source.labels}))
    if len(counts) > max(2, total // 2):
        raise InputError(
            f"there are {len(counts):,} different labels in {total:,} rows, so this looks like free text",
            where=where,
            hint="Leave output.type out or set it to text, or name a column with a few repeated values.",
        )
    seen_in_train = Counter([*(example.output for example in labelled), *expected])
    for role, table, rows in (("test", source.test, test), ("dev", source.dev, dev)):
        for example in rows:
            if table is not None and example.output not in seen_in_train:
                near = difflib.get_close_matches(example.output, seen_in_train, n=1, cutoff=0.5)
                raise InputError(
                    f"the {role} label {shortened(example.output)!r} has no train row"
                    + (f", did you mean {near[0]!r}?" if near else ""),
                    # The row's number in the file, because blank rows before it may have been left out.
                    where=table.place(example.id.rpartition(":")[2], source.output_field),
                    hint="Correct the row, add train rows of it, or list all labels under output.labels.",
                )
    return tuple(sorted({*counts, *expected}))


def _without_leaks(labelled: Rows, dev: Rows | None, test: Rows, shown: frozenset[str]) -> tuple[Rows, Rows | None, Removed]:
    """Remove rows that repeat a row of a later split: train and dev yield to test, train yields to dev.

    Dev also loses rows that the earlier bundle's prompt shows, because the bundle can read their answers.
    """
    sealed = SealedTest(test)
    in_test = sealed.leaking_train_ids(labelled)
    repeated, exactly = sealed.rows_repeated_by(labelled), sealed.rows_repeated_by(labelled, exactly=True)
    labelled = _without(labelled, in_test)
    if dev is None:
        return labelled, None, Removed(in_test, test_rows_repeated=repeated, test_rows_repeated_exactly=exactly)
    dev_in_test = sealed.leaking_train_ids(dev)
    dev = _without(dev, dev_in_test)
    dev_in_prompt = tuple(example.id for example in dev if duplicate_key(example) in shown)
    dev = _without(dev, dev_in_prompt)
    dev_keys = {duplicate_key(example) for example in dev}
    in_dev = tuple(example.id for example in labelled if duplicate_key(example) in dev_keys)
    return _without(labelled, in_dev), dev, Removed(in_test, dev_in_test, in_dev, repeated, exactly, dev_in_prompt)


def _without(rows: Rows, ids: Sequence[str]) -> Rows:
    gone = set(ids)
    return tuple(example for example in rows if example.id not in gone)


def _check_enough(source: Source, kind: OutputType, labelled: Rows, dev: Rows | None, removed: Removed) -> None:
    if dev is not None and not dev:
        raise InputError(
            f"every dev row is also in the test{' or in the prompt of the bundle' if removed.dev_in_prompt else ''}",
            where=source.dev.source if source.dev else "dev",
            hint="Give another dev file, or omit data.dev to cut dev from train.",
        )
    limit = source.limit.get("train")
    limited = limit is not None and limit <= len(labelled)
    # Old labels count too, so new rows may all have a single label.
    outputs = 1 if not KINDS[kind].written and (source.known is not None or source.replay is not None) else 2
    if len(labelled) < LEAST_ROWS or len({example.output for example in labelled}) < outputs:
        judging = [name for name, gone in (("the test", removed.train_in_test), ("dev", removed.train_in_dev)) if gone]
        left = (
            f"without those that also occur in {' or '.join(judging)}" if judging else "beside those cut for dev and the test"
        )
        left = "under limit.train" if limited else left
        different = counted(len({example.output for example in labelled}), KINDS[kind].output_noun)
        said = f"{KINDS[kind].output_noun}s"
        raise InputError(
            f"{counted(len(labelled), 'labelled row')} with {different} {'remains' if len(labelled) == 1 else 'remain'} {left}",
            where="limit.train" if limited else source.train.source,
            hint=f"At least {LEAST_ROWS} rows{f' with two {said}' if outputs == 2 else ''} are needed.",
        )


def _cut(
    role: str,
    source: Source,
    rows: Rows,
    size: int,
    generator: np.random.Generator,
    stratum: Stratum,
    keep: frozenset[str] = frozenset(),
) -> tuple[Rows, Rows]:
    """As :func:`cut`, but with an error if too many rows or none can be cut."""
    if size >= len(rows) - 1:
        raise InputError(
            f"limit.{role} asks for {size} of the {len(rows)} labelled rows, which leaves nothing to learn from",
            where=f"limit.{role}",
            hint=f"Ask for fewer, or name a file under data.{role}.",
        )
    left, taken = cut(rows, size, generator, stratum, keep)
    limit = source.limit.get("train")
    if not taken and role == "dev" and limit == len(rows) and len(set(map(stratum, rows))) == len(rows):
        raise InputError(
            f"limit.train={limit} leaves a single row of each label, so that no dev row can be cut from them",
            where="limit.train",
            hint="Raise it, or name a file under data.dev.",
        )
    if not taken:
        raise InputError(
            f"no {role} split can be cut: all rows of each label are linked by equal inputs"
            + (f" or equal {source.group!r}" if source.group is not None else ""),
            where=source.train.source,
            hint=f"Name a file under data.{role}, or a finer group column.",
        )
    return left, taken
