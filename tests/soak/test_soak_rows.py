"""A hundred thousand rows: through the data checks, and through ``cotune predict``."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bundles import LABELS, Bench, loaded

from cotune.bundle.stream import predict_stream
from cotune.config import load_config
from cotune.config.task import Task

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

ROWS = 100_000


def test_a_hundred_thousand_rows_are_checked(tmp_path: Path) -> None:
    lines = (
        json.dumps({"text": f"row {i} of many, told {i * 7919 % 9973} times", "label": LABELS[i % 4]}) for i in range(ROWS)
    )
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "task.yaml").write_text("name: many\ndata: {train: rows.jsonl, input: text, output: label}\n", encoding="utf-8")
    started, before = time.monotonic(), psutil.Process().memory_info().rss
    task = Task.from_config(load_config(tmp_path / "task.yaml"))
    seconds, grown = time.monotonic() - started, (psutil.Process().memory_info().rss - before) / 2**20
    print(f"checked in {seconds:.1f} s, {grown:.0f} MiB more; {task}")
    assert seconds < 300 and grown < 1500


def test_a_hundred_thousand_rows_are_answered_in_order_and_little_memory(bench: Bench, tmp_path: Path) -> None:
    predictor = loaded(bench.save(tmp_path / "best"))
    process, seen, most = psutil.Process(), 0, [0]

    def lines() -> Iterator[str]:
        for i in range(ROWS):
            if i % 5000 == 0:
                most[0] = max(most[0], process.memory_info().rss if i else 0)
            yield json.dumps({"id": i, "text": f"who built tower {i}?"}) + "\n"

    def write(line: str) -> int:
        nonlocal seen
        found = json.load(io.StringIO(line))
        assert found["id"] == seen and found["answer"] in LABELS
        seen += 1
        return len(line)

    started, before = time.monotonic(), process.memory_info().rss
    count = predict_stream(predictor, lines(), write)
    print(f"answered in {time.monotonic() - started:.1f} s, at most {(most[0] - before) / 2**20:.0f} MiB more")
    assert (count.rows, seen) == (ROWS, ROWS)
    assert most[0] - before < 200 * 2**20
