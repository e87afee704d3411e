"""One cell: rows and settings into a folder, the peer's process, its answers and what it took into a line."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from compare.cells import DONE, FAILED, LIMIT, NOT_INSTALLABLE, Cell, Cells, cell_key
from compare.envs import Environments, NotInstallableError, own_python
from compare.measure import Measured, end_left_over, run_measured
from compare.protocol import Draw, Row, RowSet, fingerprint
from compare.registry import HERE, SERVER, Peer
from cotune.errors import InputError
from cotune.files import write_json, write_text
from cotune.model.hardware.machine import processor_name, usable_cpus

_MEGABYTE = 1e6
_MATRIX_RATE = """
import time
import numpy as np
one = np.ones((1024, 1024), np.float32)
best, end = 0.0, time.perf_counter() + 0.5
while (start := time.perf_counter()) < end:
    one @ one
    best = max(best, 2e-9 * 1024**3 / (time.perf_counter() - start))
print(best)
"""


@dataclass
class Harness:
    """Runs cells.

    Attributes:
        cells: the finished ones.
        out: folder for logs.
        environments: of the peers.
        threads: that each peer computes with.
    """

    cells: Cells
    out: Path
    environments: Environments
    threads: int

    def __post_init__(self) -> None:
        # Peers run in another folder, from which a relative path would lead elsewhere.
        self.out, self.environments = self.out.resolve(), Environments(self.environments.folder.resolve())
        if end_left_over(self._running):
            _say("ended a peer that a killed harness had left at work")
        # What a kill left half done is run anew, and must not find its own traces.
        shutil.rmtree(self.out / "work", ignore_errors=True)

    @property
    def _running(self) -> Path:
        return self.out / "running.json"

    def run(self, rows: RowSet, draw: Draw, train: Sequence[Row], peer: Peer, *, again: Sequence[str] = ()) -> bool:
        """Run a cell unless it is there already; whether it was run.

        Args:
            rows: the set.
            draw: what was drawn.
            train: its labelled rows.
            peer: who learns from them.
            again: statuses whose cells are run once more.

        Raises:
            InputError: the folder holds this cell with other rows.
        """
        key, content = cell_key(rows.name, draw, peer.name), fingerprint(train, rows.test)
        known = self.cells.get(key)
        if known is not None and known.fingerprint != content:
            raise InputError(f"the cell {key} was run with other rows", where=str(self.out), hint="Choose another --out.")
        if known is not None and known.status not in again:
            return False
        plain = Cell(
            set=rows.name,
            kind=rows.kind,
            rows=draw.rows,
            per_class=draw.per_class,
            draw=draw.number,
            peer=peer.name,
            status=DONE,
            fingerprint=content,
            labelled=len(train),
            tested=len(rows.test),
            machine=machine_facts(self.threads),
            day=date.today().isoformat(),
        )
        try:
            python = self.environments.python(peer.environment) if peer.environment else own_python()
            extra = self._extra(rows, train, peer)
        except NotInstallableError as error:
            _say(f"{key}: not installable: {error}")
            self.cells.add(replace(plain, status=NOT_INSTALLABLE, reason=str(error)))
            return True
        before = matrix_rate(self.threads)
        folder = self.out / "work"
        shutil.rmtree(folder, ignore_errors=True)
        _write_job(folder, rows, draw, train, peer, extra, self.threads)
        log = self.out / "logs" / f"{key.replace('/', '--')}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        _say(f"{key}: running, {peer.limit_s / 60:.0f} minutes at most")
        measured = run_measured(
            [str(python), str(HERE / "peers" / peer.script), str(folder)],
            folder=folder,
            environment=environment_of(peer, self.threads),
            limit_s=peer.limit_s,
            log=log,
            running=self._running,
            answered=folder / "answered",
        )
        plain = replace(plain, machine=plain.machine | {"gflops": [before, matrix_rate(self.threads)]})
        cell, answers = _finished(plain, rows, measured, folder, log, peer)
        self.cells.add(cell, answers)
        shutil.rmtree(folder, ignore_errors=True)
        _say(f"{key}: {cell.status} after {measured.seconds:.0f} s{f' ({cell.reason})' if cell.reason else ''}")
        return True

    def _extra(self, rows: RowSet, train: Sequence[Row], peer: Peer) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if peer.served:
            extra["server_python"] = str(self.environments.python(SERVER))
            extra["gguf"] = str(served_model(self.environments.folder))
        if rows.kind == "json":
            extra["schema"], extra["grammar"] = schema_and_grammar(train)
        if peer.sees_test_labels:
            extra["sealed_test"] = [{**row.fields, "output": row.output} for row in rows.test]
        return extra


def schema_and_grammar(train: Sequence[Row]) -> tuple[Any, str]:
    """The JSON Schema that cotune infers from labelled rows, and what llguidance makes a grammar of."""
    from cotune.model.structured.grammar import Grammar
    from cotune.task.values.json_value import parse_json
    from cotune.task.values.schema import infer_schema

    schema = infer_schema([parse_json(row.output) for row in train])
    return schema, Grammar.json(schema).source


def served_model(folder: Path) -> Path:
    """The bundled model as a GGUF file in float16, made once, by another process, so that this one stays small."""
    target = folder / "smollm2-135m.gguf"
    if not target.is_file():
        _say("writing the bundled model as a GGUF file")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            other.submit(_write_served_model, target).result()
    return target


def _write_served_model(target: Path) -> None:
    from cotune.bundle.export.gguf_files import write_model
    from cotune.bundle.export.gguf_layout import Layout
    from cotune.bundle.export.gguf_tokenizer import GgufTokenizer
    from cotune.files import atomic_path
    from cotune.model.loading.by_name import open_model

    base = Path(bundled_model())
    tokenizer = GgufTokenizer.of(open_model("smollm2-135m").renderer)
    with atomic_path(target) as temporary:
        write_model(base, temporary, Layout.of(base), tokenizer, "smollm2-135m")


def bundled_model() -> str:
    """Folder of the small model that cotune, the probe, zero-shot, PEFT and TRL share."""
    from cotune.model.loading.bundled import bundled_model_folder

    return str(bundled_model_folder())


def machine_facts(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": processor_name(),
        "usable_cpus": usable_cpus(),
        "threads": threads,
        "load_at_start": round(os.getloadavg()[0], 2),
        "cotune": _commit(),
    }


def matrix_rate(threads: int) -> float:
    """The machine's rate of float32 matrix products in GFLOP/s, the best of half a second, measured by another process.

    Other work on a shared machine slows a cell down without leaving a trace in its answers.
    """
    environment = dict(os.environ) | {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", _MATRIX_RATE], env=environment, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 1)


def _commit() -> str:
    from cotune.version import __version__

    asked = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return f"{__version__} {done.stdout.strip()}".strip()


def environment_of(peer: Peer, threads: int) -> dict[str, str]:
    """The environment of a peer's process: offline, with the same number of threads for all, without paths to other packages.

    Compiled modules are kept. Without them each start of cotune compiles all that it imports, which takes about 8 s.
    """
    kept = {name: value for name, value in os.environ.items() if peer.environment == "" or not name.startswith("PYTHON")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "WANDB_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUNBUFFERED": "1",
    }


def _write_job(
    folder: Path, rows: RowSet, draw: Draw, train: Sequence[Row], peer: Peer, extra: Mapping[str, Any], threads: int
) -> None:
    folder.mkdir(parents=True)
    for name, part, labelled in (("train", train, True), ("test", rows.test, False)):
        lines = (
            json.dumps(
                {"text": row.text, "fields": dict(row.fields), **({"output": row.output} if labelled else {})},
                ensure_ascii=False,
            )
            for row in part
        )
        write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
    settings = {
        "labels": list(rows.labels),
        "kind": rows.kind,
        "seed": draw.number,
        "threads": threads,
        "options": dict(peer.options),
        "model": bundled_model() if peer.small_model else "",
        "extra": dict(extra),
    }
    write_json(folder / "settings.json", settings)


def _finished(
    plain: Cell, rows: RowSet, measured: Measured, folder: Path, log: Path, peer: Peer
) -> tuple[Cell, dict[str, Any] | None]:
    seconds = {"all": round(measured.seconds, 2)}
    took: dict[str, Any] = {"seconds": seconds, "peak_mb": round(measured.peak_bytes / _MEGABYTE, 1)}
    if measured.timed_out:
        reason = f"not finished after {peer.limit_s / 60:.0f} minutes"
        return replace(plain, status=LIMIT, reason=reason, **took), None
    written = folder / "answers.json"
    if measured.code or not written.is_file():
        return replace(plain, status=FAILED, reason=_last_error(log, measured.code), **took), None
    told = json.loads(written.read_text(encoding="utf-8"))
    if len(told["predictions"]) != len(rows.test):
        reason = f"{len(told['predictions'])} answers to {len(rows.test)} rows"
        return replace(plain, status=FAILED, reason=reason, **took), None
    inside = told["seconds"]
    # The interpreter's start and end count as training.
    seconds |= {
        "train": round(measured.seconds - inside["predict"] - inside["other"], 2),
        "predict": round(inside["predict"], 3),
        "other": round(inside["other"], 2),
    }
    answers = {
        "outputs": [row.output for row in rows.test],
        **{name: told[name] for name in ("predictions", "probabilities", "labels", "curve", "arms")},
    }
    cell = replace(
        plain,
        **took,
        shipped_mb=round(told["shipped_bytes"] / _MEGABYTE, 3),
        base_mb=round(told["base_bytes"] / _MEGABYTE, 1),
        settings=told["settings"],
        versions=told["versions"],
        curve=[{key: bundle[key] for key in ("seconds", "what", "bundle")} for bundle in told["curve"]],
    )
    return cell, answers


def _last_error(log: Path, code: int) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    last = (errors or lines or ["it printed nothing"])[-1]
    return f"ended with {code}: {last}"[:400]


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
