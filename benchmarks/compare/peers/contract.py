"""What the harness and a peer say to each other: a folder with rows and settings in it, and a file of answers back.

A peer's script is run as ``python SCRIPT FOLDER`` in the peer's environment. The folder holds ``train.jsonl`` (``text``,
``fields``, ``output``), ``test.jsonl`` (``text``, ``fields``, and no answers) and ``settings.json``; the script writes
``answers.json``. Only the standard library is used here, since every environment has that alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row: its input as one text, its input columns apart, and the right answer, which test rows lack."""

    text: str
    fields: dict[str, str]
    output: str = ""


@dataclass(frozen=True)
class Job:
    """What a peer is asked to do.

    Attributes:
        folder: where it works; nothing else uses it.
        train: all labelled rows that it may learn and choose from.
        test: rows to answer.
        labels: the labels there are; empty where answers are written.
        kind: ``label``, ``number`` or ``json``.
        seed: of everything random.
        threads: to compute with.
        options: the peer's own.
        model: folder of the small language model that all share.
        extra: what only some need: ``gguf`` and ``server_python``, ``schema`` and ``grammar``, ``sealed_test``.
    """

    folder: Path
    train: list[Row]
    test: list[Row]
    labels: list[str]
    kind: str
    seed: int
    threads: int
    options: dict[str, Any]
    model: str
    extra: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """Inputs of the labelled rows."""
        return [row.text for row in self.train]

    @property
    def outputs(self) -> list[str]:
        """Their right answers."""
        return [row.output for row in self.train]

    @property
    def seen(self) -> list[str]:
        """Labels that a labelled row has, in the order of ``labels``."""
        known = set(self.outputs)
        return [label for label in self.labels if label in known]


@dataclass(frozen=True)
class Answers:
    """Answers to rows.

    Attributes:
        predictions: one a row.
        probabilities: of each of ``labels`` a row; None where the method has none.
        labels: what the columns of probabilities are.
    """

    predictions: list[str]
    probabilities: list[list[float]] | None = None
    labels: list[str] = field(default_factory=list)


@dataclass
class Trained:
    """What a peer has made of the labelled rows.

    Attributes:
        answer: answers rows.
        shipped: bytes of what it would ship, or files and folders that hold it, without the model that it starts from.
        base: the same of that model.
        told: settings that it was run with, and the pages that recommend them.
        prepare: run before the test rows are answered and timed apart, where a peer has to load again what it has just trained.
        arms: of cotune, predictions, probabilities and labels of each arm of its run for the test rows, by the arm's name.
        after: what only the comparison needs, run and timed apart once the test rows are answered; returns the curve.
    """

    answer: Callable[[Sequence[Row]], Answers]
    shipped: int | Sequence[Path] = 0
    base: int | Sequence[Path] = 0
    told: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    after: Callable[[Sequence[Row]], list[dict[str, Any]]] | None = None


def most_likely(probabilities: Any, labels: Sequence[str]) -> Answers:
    """The answers that ``[rows, labels]`` probabilities give."""
    listed = [[float(share) for share in row] for row in probabilities]
    best = [max(range(len(labels)), key=row.__getitem__) for row in listed]
    return Answers([labels[i] for i in best], listed, list(labels))


def serve(train: Callable[[Job], Trained], packages: Sequence[str]) -> None:
    """Run a peer on the folder that the command line names.

    Args:
        train: makes answers possible; imports its libraries itself, so that this counts.
        packages: whose versions are told.
    """
    folder = Path(sys.argv[1]).resolve()
    job = read_job(folder)
    start = time.perf_counter()
    trained = train(job)
    ready = time.perf_counter()
    if trained.prepare:
        trained.prepare()
    answering = time.perf_counter()
    found = trained.answer(job.test)
    answered = time.perf_counter()
    (folder / "answered").touch()
    curve = trained.after(job.test) if trained.after else []
    told = {
        **asdict(found),
        "seconds": {
            "train": ready - start,
            "predict": answered - answering,
            "other": answering - ready + time.perf_counter() - answered,
        },
        "shipped_bytes": _size(trained.shipped),
        "base_bytes": _size(trained.base),
        "settings": trained.told,
        "versions": _versions(packages),
        "curve": curve,
        "arms": trained.arms,
    }
    written = folder / "answers.json.new"
    written.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    written.replace(folder / "answers.json")
    sys.stdout.flush()
    # Threads that a library left behind must not keep the clock running.
    os._exit(0)


def read_job(folder: Path) -> Job:
    """What stands in the folder."""
    settings: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    train, test = (_read(folder / f"{split}.jsonl") for split in ("train", "test"))
    return Job(folder=folder, train=train, test=test, **settings)


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places of ``size`` rows of like length at a time, the shortest first, so that little is padded."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def trainer_arguments(job: Job) -> dict[str, Any]:
    """What every trainer built on that of transformers is told: to compute here, and to write and to report nothing."""
    return {
        "output_dir": str(job.folder / "trainer"),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": job.seed,
    }


def _read(path: Path) -> list[Row]:
    # Not splitlines(): a text may contain U+2028 and others at which it divides.
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _size(what: int | Sequence[Path]) -> int:
    if isinstance(what, int):
        return what
    files = [file for path in what for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
