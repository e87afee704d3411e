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
from cotune.task.output_columns import listed_columns
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
    """The labelled rows of a run, from its folder and its data files.

    Test rows are not returned: a later run that learnt from them would have no independent test.

    Returns:
        Input fields of the labelled rows without the test rows; the texts of all of them, test rows included; and whether all
        of the run's data files could be read.
    """
    tested = [_inputs(row, manifest) for row in _rows(run / TEST_ROWS)]
    labelled = [_inputs(row, manifest) for row in _rows(run / DEV_ROWS)]
    words, all_read = {said(row) for row in (*tested, *labelled)}, True
    data = data_section(run)
    # Before the run has drawn its splits, only its data files tell the rows. The test first: its rows may occur in others.
    for role in ("test", "train", "dev", "replay"):
        if role != "train" and data.get(role) is None:
            continue
        found = _labelled_in(data.get(role), manifest)
        if found is None:
            all_read = False
            continue
        for row in found:
            if (key := said(row)) not in words:
                words.add(key)
                if role != "test":
                    labelled.append(row)
    return labelled, words, all_read


def _labelled_in(source: object, manifest: Manifest) -> list[dict[str, str]] | None:
    """Input fields of a data file's rows that have an answer; None if it cannot be read."""
    if not isinstance(source, str) or source.startswith("hf://"):
        return None
    try:
        table = read_table(source)
    except CotuneError:
        return None
    columns = {field: column_of(field, table.columns) for field in manifest.input_fields}
    if any(column is None for column in columns.values()):
        return None
    output = manifest.output_field
    named = [column_of(name, table.columns) for name in listed_columns(output) or (output,)]
    answers = [column for column in named if column is not None]
    return [
        {field: table.shown(index, column or "") or "" for field, column in columns.items()}
        for index, cells in enumerate(table.rows)
        if not answers or any((cells.get(answer) or "").strip() for answer in answers)
    ]


def replayed_by(run: Path | None) -> str | None:
    """The data file that a run replayed beside its own, as its config names it; None if there is none."""
    source = None if run is None else data_section(run).get("replay")
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


def _inputs(row: Mapping[str, Any], manifest: Manifest) -> dict[str, str]:
    return {field: str(row.get(field, "")) for field in manifest.input_fields}


def _rows(path: Path) -> list[Mapping[str, Any]]:
    rows = items(fields(known_json(path)).get("rows"))
    return [row["input"] for row in map(fields, rows) if isinstance(row.get("input"), Mapping)]
