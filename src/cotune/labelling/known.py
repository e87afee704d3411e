"""Rows that already have labels in a run, which are not asked about again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cotune.bundle.manifest import MANIFEST, Manifest, bundle_folder
from cotune.bundle.rows import said
from cotune.config.paths import IN_MEMORY
from cotune.errors import CotuneError
from cotune.files import known_json
from cotune.plain import fields, items
from cotune.run_files import BUNDLE, CONFIG, DEV_ROWS, TEST_ROWS, data_section
from cotune.task.reading.cells import column_of
from cotune.task.reading.read import read_table


def bundle_of(folder: Path) -> tuple[Path, Path | None]:
    """The bundle of a run's or a bundle's folder, and the run's folder if it is known."""
    bundle = bundle_folder(folder)
    if not (bundle / MANIFEST).is_file():
        # Opening it as a bundle will report the error.
        return bundle, None
    run = bundle.resolve().parent
    return bundle, run if bundle.resolve().name == BUNDLE and (run / CONFIG).is_file() else None


def rows_of_run(run: Path, manifest: Manifest) -> tuple[list[dict[str, str]], set[str], bool]:
    """The labelled rows of a run, from its folder and its data file.

    Test rows are not returned: a later run that learnt from them would have no independent test.

    Returns:
        Input fields of the labelled rows without the test rows; the texts of all of them, test rows included; and whether the
        run's data file could be read.
    """
    labelled: list[dict[str, str]] = []
    words: set[str] = set()
    for name in (DEV_ROWS, TEST_ROWS):
        for row in _rows(run / name):
            fields = {field: str(row.get(field, "")) for field in manifest.input_fields}
            words.add(said(fields))
            if name == DEV_ROWS:
                labelled.append(fields)
    source = train_source(run)
    try:
        table = None if source is None or source.startswith("hf://") else read_table(source)
    except CotuneError:
        table = None
    if table is None:
        return labelled, words, False
    columns = {field: column_of(field, table.columns) for field in manifest.input_fields}
    if any(column is None for column in columns.values()):
        return labelled, words, False
    answers = column_of(manifest.output_field, table.columns)
    for index, cells in enumerate(table.rows):
        if answers is not None and not (cells.get(answers) or "").strip():
            continue
        fields = {field: table.shown(index, column or "") or "" for field, column in columns.items()}
        if (key := said(fields)) not in words:
            labelled.append(fields)
            words.add(key)
    return labelled, words, True


def train_source(run: Path) -> str | None:
    """The data file that a run learnt from, as its config names it; None if it cannot be read."""
    source = data_section(run).get("train")
    return None if source is None else str(source)


def replay_options(run: Path | None, columns: Collection[str]) -> tuple[str, ...]:
    """Arguments of ``cotune run`` to learn again from a run's rows, which are then read as the run read them.

    Args:
        run: the run; None if it is unknown.
        columns: columns of the new rows, which may lack the group column.
    """
    data = {} if run is None else data_section(run)
    kept = [f"data.on_blank={data['on_blank']}"] if data.get("on_blank", "error") != "error" else []
    kept += [f"data.group={data['group']}"] if data.get("group") in columns else []
    source = data.get("train", IN_MEMORY)
    return ("--replay", "OLD.csv" if source == IN_MEMORY else str(source), *kept)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    rows = items(fields(known_json(path)).get("rows"))
    return [row["input"] for row in map(fields, rows) if isinstance(row.get("input"), Mapping)]
