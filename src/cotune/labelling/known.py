"""Rows that a run knows already, which nobody is to be asked about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotune.bundle.manifest import MANIFEST, Manifest, bundle_folder
from cotune.bundle.rows import said
from cotune.errors import CotuneError
from cotune.run_files import BUNDLE, CONFIG, DEV_ROWS, TEST_ROWS
from cotune.task.reading.field_names import column_of
from cotune.task.reading.read import read_table


def bundle_of(folder: Path) -> tuple[Path, Path | None]:
    """The bundle that a run's or a bundle's folder means, and the run's folder where that is known."""
    bundle = bundle_folder(folder)
    if not (bundle / MANIFEST).is_file():
        # Reading it as a bundle says what is wrong.
        return bundle, None
    run = bundle.resolve().parent
    return bundle, run if bundle.resolve().name == BUNDLE and (run / CONFIG).is_file() else None


def rows_of_run(run: Path, manifest: Manifest) -> tuple[list[dict[str, str]], set[str], bool]:
    """Rows that a run has labels of, as far as its folder and the files that it names tell.

    A test row that is labelled and learnt from by a later run would spoil that run's test.

    Returns:
        Input fields of the rows with labels but for test rows; what all of them say, the test rows included; and whether the
        file that the run learnt from could be read.
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
    for cells in table.rows:
        fields = {field: cells.get(column or "") or "" for field, column in columns.items()}
        if (key := said(fields)) not in words:
            labelled.append(fields)
            words.add(key)
    return labelled, words, True


def train_source(run: Path) -> str | None:
    """What a run learnt from, as its config names it; None where that cannot be read."""
    try:
        return str(json.loads((run / CONFIG).read_text(encoding="utf-8"))["config"]["data"]["train"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [row["input"] for row in found if isinstance(row["input"], Mapping)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
