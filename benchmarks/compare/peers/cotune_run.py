"""cotune: one ``cotune run`` with a budget, then its bundle answers; every bundle that lay on disk on the way is kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contract import Answers, Job, Row, Trained, most_likely, serve

_LOOK_S = 0.25


class Watch:
    """Copies a run's bundle each time that it is replaced, with the seconds at which it lay there.

    Args:
        bundle: the run's ``best``.
        folder: for the copies.
    """

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.copies: list[tuple[float, Path]] = []
        self._bundle, self._folder, self._seen = bundle, folder, 0
        self._start, self._stop = time.perf_counter(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """No more copies, but of what lies there now."""
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        manifest = self._bundle / "manifest.json"
        place = self._folder / f"bundle-{len(self.copies)}"
        try:
            stamp = manifest.stat().st_mtime_ns
            if stamp == self._seen:
                return
            at = time.perf_counter() - self._start
            shutil.copytree(self._bundle, place)
            # Replaced while it was copied: the next look has it whole.
            if manifest.stat().st_mtime_ns != stamp:
                raise FileNotFoundError(str(manifest))
        except (FileNotFoundError, shutil.Error):
            shutil.rmtree(place, ignore_errors=True)
            return
        self._seen = stamp
        self.copies.append((at, place))


def train(job: Job) -> Trained:
    """Run until the budget is spent."""
    import yaml

    folder, out = job.folder, job.folder / "run"
    rows = [{**row.fields, "output": row.output} for row in job.train]
    _write(folder / "labelled.jsonl", rows)
    # The run seals it: nothing before its end but checks for repeated rows reads these labels.
    _write(folder / "sealed.jsonl", job.extra["sealed_test"])
    task: dict[str, Any] = {
        "name": "compare",
        "data": {"train": "labelled.jsonl", "test": "sealed.jsonl", "input": list(job.train[0].fields), "output": "output"},
        # The run infers the schema of JSON from the same labelled rows. If it were given, every test row would have to fit it.
        "output": {"type": job.kind, **({"labels": job.labels} if job.kind == "label" else {})},
        **({"metric": "r2"} if job.kind == "number" else {}),
        "model": "smollm2-135m",
        "budget": job.options["budget"],
        "seed": job.seed,
        "engine": {"device": "cpu"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    watch = Watch(out / "best", folder)
    command = [sys.executable, "-m", "cotune.cli", "run", str(folder / "task.yaml"), "--out", str(out), "--quiet"]
    done = subprocess.run(command, cwd=folder, check=False)
    watch.end()
    if done.returncode:
        raise SystemExit(f"error: cotune run ended with {done.returncode}")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))

    loaded: list[Any] = []

    def prepare() -> None:
        loaded.append(load(out / "best", job))

    def answer(rows: Sequence[Row]) -> Answers:
        return answered(loaded[0], rows, job)

    def after(rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [
            {"seconds": round(at, 2), "what": "first bundle" if not i else "better bundle", **_kept(bundle, rows, job)}
            for i, (at, bundle) in enumerate(watch.copies)
        ]

    told = {
        "command": "cotune run task.yaml",
        "task": {key: task[key] for key in ("model", "budget", "engine")},
        "first_verdict": summary.get("first_verdict"),
        "arms": summary.get("arms"),
        "gains": summary.get("gains"),
        "page": "docs/configuration.md: defaults",
    }
    arms = answers_by_arm(out, job)
    return Trained(answer, shipped=[out / "best"], base=[Path(job.model)], told=told, arms=arms, prepare=prepare, after=after)


def answers_by_arm(run: Path, job: Job) -> dict[str, Any]:
    """What each arm of a run answered to the test rows; empty if it did not test all of them, or has no labels."""
    if job.kind != "label":
        return {}
    told = json.loads((run / "test_rows.json").read_text(encoding="utf-8"))
    labels, rows = told["labels"], told["rows"]
    # Rows of a test file are named by its lines.
    if [row["id"] for row in rows] != [f"test:{line}" for line in range(1, len(job.test) + 1)]:
        return {}
    return {
        arm: {
            "predictions": [labels[row["answers"][arm]] for row in rows],
            "probabilities": [row["probabilities"][arm] for row in rows],
            "labels": labels,
        }
        for arm in rows[0]["answers"]
    }


def load(bundle: Path, job: Job) -> Any:
    """A bundle, ready to answer."""
    import cotune

    return cotune.load(bundle, device="cpu", threads=job.threads)


def answered(predictor: Any, rows: Sequence[Row], job: Job) -> Answers:
    """What a bundle answers."""
    asked = [dict(row.fields) for row in rows]
    if job.kind != "label":
        return Answers([str(text) for text in predictor.predict(asked)])
    found = predictor.predict(asked, probabilities=True)
    labels = [str(label) for label in predictor.labels]
    answers = most_likely([list(one.probabilities.values()) for one in found], labels)
    # The bundle's decision rule has the last word, not the largest probability.
    return Answers([str(one.answer) for one in found], answers.probabilities, labels)


def _kept(bundle: Path, rows: Sequence[Row], job: Job) -> dict[str, Any]:
    predictor = load(bundle, job)
    return {"bundle": predictor.bundle_id, **asdict(answered(predictor, rows, job))}


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    serve(train, ["cotune", "torch", "transformers", "peft"])
