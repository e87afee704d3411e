"""Folders of finished runs with what comparing two of them reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotune.run_files import CONFIG, JOURNAL, SUMMARY, TEST_ROWS

LABELS = ("no", "yes")


def finished(
    folder: Path,
    right: Sequence[bool],
    groups: Sequence[str] | None = None,
    *,
    order: Sequence[int] | None = None,
    texts: Sequence[str] = (),
    labels: tuple[str, str] = LABELS,
    **arm: Any,
) -> Path:
    """A run's folder whose answers are right on some rows.

    Args:
        folder: is made.
        right: for each test row.
        groups: of the rows.
        order: in which the rows stand in the file.
        texts: begin the rows, again and again.
        labels: wrong and right one by turns.
        arm: more of what the summary says of the arm that ships.
    """
    folder.mkdir()
    (folder / JOURNAL).write_text(json.dumps({"kind": "done", "value": {}}) + "\n", encoding="utf-8")
    facts = {"score": sum(right) / len(right), "ci": [0.1, 0.9], "n": len(right), "adapter_id": "a" * 16, "steps": 12, **arm}
    summary = {
        "task": "mails",
        "model": "smollm2-135m",
        "budget": "90s",
        "metric": "accuracy",
        "n": {"train": 100, "dev": 40, "test": len(right)},
        "output": {"type": "label", "labels": list(labels)},
        "best": {"arm": "best_tuned", "prompt_text": f"Is it one? {{text}}\n{texts[0] if texts else ''}"},
    }
    (folder / SUMMARY).write_text(json.dumps({**summary, "arms": {"best_tuned": facts}}), encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps({"config": {"name": "mails", "budget": "90s"}}), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {
            "input": {"text": f"{texts[i % len(texts)] if texts else 'row'} {i}"},
            "gold": i % 2,
            "answers": {"best_tuned": i % 2 if ok else 1 - i % 2},
        }
        for i, ok in enumerate(right)
    ]
    rows = [row if groups is None else {**row, "group": groups[i]} for i, row in enumerate(rows)]
    told = {"labels": list(labels), "rows": [rows[i] for i in order or range(len(rows))]}
    (folder / TEST_ROWS).write_text(json.dumps(told), encoding="utf-8")
    return folder
