"""Standard streams that are ASCII, closed or full: an answer or one sentence, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import Bench

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

ROWS = "".join(json.dumps({"text": text, "more": "ä😀"}, ensure_ascii=False) + "\n" for text in ("who? – ä😀", "where?"))
COMMANDS = {"version": "--version", "doctor": "doctor --json", "predict": "predict {best}"}
STREAMS = {
    "ascii": ("", {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}, (0,)),
    "output closed": (">&-", {}, None),
    "errors closed": ("2>&-", {}, (0,)),
    "both closed": (">&- 2>&-", {}, None),
    "output full": (">/dev/full", {}, (1, 2)),
    "both full": (">/dev/full 2>/dev/full", {}, None),
    "input closed": ("<&-", {}, None),
    "output ends early": ("| head -c 1", {}, None),
}


@pytest.fixture(scope="module")
def best(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench.save(tmp_path_factory.mktemp("streams") / "best")


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_state_of_the_standard_streams_is_a_traceback(best: Path, tmp_path: Path, command: str, streams: str) -> None:
    redirected, environment, codes = STREAMS[streams]
    (tmp_path / "rows").write_text(ROWS, encoding="utf-8")
    asked = COMMANDS[command].format(best=best)
    given = "" if redirected.startswith("<") else f'< "{tmp_path}/rows"'
    line = f'"{sys.executable}" -m cotune.cli {asked} {given} {redirected}'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=environment, timeout=120)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, done.stderr.decode()
    assert done.returncode in range(3), done.stderr.decode()
    assert codes is None or done.returncode in codes, (done.returncode, done.stderr.decode())
    assert done.stderr.count(b"\n") <= 2
