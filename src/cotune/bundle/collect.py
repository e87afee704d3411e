"""Collecting rows for labelling on a server: undecided rows, and rows far from the training rows.

A row is far from them if the cosine distance of its standardised hidden state to the fifth nearest training row is above the
99th percentile of these distances among the training rows themselves (out-of-distribution detection by nearest neighbours: Sun
et al., arXiv 2204.06507).
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cotune.bundle.predictor import Predictor
from cotune.bundle.rows import said
from cotune.embed.standardize import unit
from cotune.errors import BusyError, CotuneError, InputError
from cotune.evaluate.stats.conformal import label_sets
from cotune.files import cannot_write, content_hash
from cotune.probe.cross_fitting import standardised
from cotune.task.words import text_of

States = NDArray[np.float32]

SHARE = 0.1
"""Default error rate for undecided rows."""
MOST_BYTES, MOST_FILES = 4 * 2**20, 8
_NEIGHBOUR, _NEAR, _MOST_ROWS, _LEAST_ROWS = 5, 0.99, 500, 20
_REMEMBERED, _BATCH = 10_000, 64
_CURRENT = "rows.jsonl"
_NAME = re.compile(r"rows(-\d+)?\.jsonl")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Nearness:
    """States of training rows.

    Attributes:
        mean: ``[width]``.
        spread: ``[width]``.
        states: ``[rows, width]`` of length 1, standardised.
        limit: distance above which a row is far from the training rows.
    """

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    states: States
    limit: float

    @classmethod
    def of(cls, states: States) -> Nearness:
        """Fit to ``[rows, width]`` states, at least seven."""
        alike, mean, spread = standardised(states)
        alike = unit(alike)
        # A row's nearest neighbour is itself.
        gaps = np.sort(1 - alike @ alike.T, axis=1)[:, _NEIGHBOUR]
        return cls(mean, spread, alike, float(np.quantile(gaps, _NEAR)))

    def distances(self, states: States) -> NDArray[np.float64]:
        """Distances to the fifth nearest row, ``[rows]``."""
        gaps = 1 - unit((states - self.mean) / self.spread) @ self.states.T
        found: NDArray[np.float64] = np.sort(gaps, axis=1)[:, _NEIGHBOUR - 1].astype(np.float64)
        return found


class Collector:
    """Stores rows as JSON lines with their input fields, the reason and the answer, and nothing else of the request.

    Rows are appended to ``rows.jsonl``, which is renamed to ``rows-1.jsonl`` and so on at 4 MiB; the newest seven of these are
    kept. Folder and files are readable only by their owner. Rows that repeat one of the last 10,000 are skipped. A full disk
    stops the collector, but no request. The model reads each row a second time, so that answers take about twice as long.

    Args:
        folder: output folder; for one server at a time.
        like: training rows; if there are few or none, no row counts as far from them.
        share: error rate for undecided rows.

    Raises:
        InputError: the bundle supports neither undecided rows nor distances, or the folder cannot be written to.
        BusyError: another server uses the folder.
    """

    def __init__(
        self, folder: Path, predictor: Predictor, like: Sequence[Mapping[str, str]] = (), share: float | None = None
    ) -> None:
        self._predictor, self._folder = predictor, folder
        self._like = list(like)[:: max(1, -(-len(like) // _MOST_ROWS))] if len(like) >= _LEAST_ROWS else []
        self._nearness: Nearness | None = None
        self._highest = None
        if not predictor.has_confidence or (predictor.calibration is None and not self._like):
            raise InputError(
                "the bundle has no scores of held-out rows, and its training rows are not known"
                if predictor.has_confidence
                else "rows are only collected for labels and for JSON that is not generated",
                where="--collect",
                hint="Serve the folder of such a run that was made by this version.",
            )
        if predictor.calibration is not None:
            self._highest = predictor.doubt(share or SHARE)
        self._said: OrderedDict[str, None] = OrderedDict()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The lock is created by one thread and released by another.
            self._lock = FileLock(folder / ".lock", thread_local=False)
            self._lock.acquire(timeout=0)
            self._end_torn_line()
        except Timeout:
            raise BusyError(f"{folder}: another server stores rows there. Choose another folder for --collect.") from None
        except OSError as error:
            raise cannot_write(folder, error) from error

    def prepare(self) -> None:
        """Compute the states of the training rows. Call it from the model's thread."""
        if self._like:
            parts = [self._predictor.states(self._like[i : i + _BATCH])[0] for i in range(0, len(self._like), _BATCH)]
            self._nearness = Nearness.of(np.concatenate(parts))

    def saw(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Store those of the answered rows that should be labelled; never raises."""
        if self._lock.is_locked:
            try:
                self._keep(rows)
            except (OSError, CotuneError) as error:
                # Not the whole message, which could contain the request.
                why = getattr(error, "strerror", type(error).__name__)
                _LOG.warning("no more rows are stored in %s: %s", self._folder, why)
                self.close()

    def close(self) -> None:
        self._lock.release()

    def _keep(self, rows: Sequence[Mapping[str, str]]) -> None:
        new = [row for row in rows if self._is_new(row)]
        if not new:
            return
        states, log_probs = self._predictor.states(new)
        answers, shares, opened = self._answered(new, log_probs)
        gaps = None if self._nearness is None else self._nearness.distances(states)
        lines = []
        for i, row in enumerate(new):
            far = gaps is not None and self._nearness is not None and gaps[i] > self._nearness.limit
            if not (far or opened[i]):
                continue
            told: dict[str, Any] = {
                "row": dict(row),
                "why": [*(["unsure"] if opened[i] else []), *(["far"] if far else [])],
                "answer": answers[i],
                "probability": round(float(shares[i]), 4),
                "distance": None if gaps is None else round(float(gaps[i]), 4),
                "bundle": self._predictor.bundle_id,
                "time": int(time.time()),
            }
            lines.append(json.dumps(told, ensure_ascii=False) + "\n")
        if lines:
            self._append("".join(lines).encode())

    def _answered(
        self, rows: Sequence[Mapping[str, str]], log_probs: NDArray[np.float64]
    ) -> tuple[list[Any], NDArray[np.float64], NDArray[np.bool_]]:
        """The answers of rows, their probabilities, and whether the rows are undecided."""
        predictor, highest = self._predictor, self._highest
        opened = np.zeros(len(rows), dtype=np.bool_)
        if predictor.fields is not None:
            found = predictor.fields.judged(log_probs, [text_of(row) for row in rows])
            assert found.confidence is not None
            answers = [predictor.output.told(answer) for answer in found.outputs]
            return answers, found.confidence, opened
        if highest is not None:
            opened = label_sets(log_probs, highest).sum(axis=1) > 1
        best = [predictor.labels[int(place)] for place in log_probs.argmax(axis=1)]
        return best, np.exp(log_probs.max(axis=1)), opened

    def _is_new(self, row: Mapping[str, str]) -> bool:
        key = content_hash(said(row))
        if key in self._said:
            self._said.move_to_end(key)
            return False
        self._said[key] = None
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        return True

    def _append(self, data: bytes) -> None:
        path = self._folder / _CURRENT
        if path.is_file() and 0 < path.stat().st_size > MOST_BYTES - len(data):
            self._rotate()
        handle = self._open()
        try:
            while data:
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)

    def _end_torn_line(self) -> None:
        """Start a new line after one that a killed server left incomplete."""
        os.close(self._open())
        held = (self._folder / _CURRENT).read_bytes()
        if held and not held.endswith(b"\n"):
            self._append(b"\n")

    def _open(self) -> int:
        return os.open(self._folder / _CURRENT, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def _rotate(self) -> None:
        older = [path for path in collected_files(self._folder) if path.name != _CURRENT]
        following = 1 + max((_number(path) for path in older), default=0)
        (self._folder / _CURRENT).rename(self._folder / f"rows-{following}.jsonl")
        for path in older[: max(0, len(older) + 2 - MOST_FILES)]:
            path.unlink(missing_ok=True)


def collected_files(folder: Path) -> list[Path]:
    """The files of a collecting folder, the oldest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name == _CURRENT, _number(path)))


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2] or 0)
