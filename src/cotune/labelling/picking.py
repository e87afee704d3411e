"""Picking the rows to label from a file of unlabelled rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.bundle.answer_sheet import Checked
from cotune.bundle.predictor import Prediction, Predictor, ending_error
from cotune.bundle.rows import said
from cotune.bundle.unfinished import stored_answers
from cotune.errors import InputError, RowError
from cotune.labelling.acquisition import ACQUISITIONS, Pool
from cotune.probe.cross_fitting import standardised
from cotune.task.reading.read import Sheet
from cotune.task.reading.sheet import escaped, plain_json
from cotune.task.words import text_of

_log = logging.getLogger(__name__)

DEFAULT = "diverse_margin"
"""The default acquisition function."""
WITHOUT_STATES = ("random", "margin")
"""Acquisition functions that need no hidden states and therefore work for models behind endpoints."""
_BATCH = 64


@dataclass(frozen=True)
class Pick:
    """A row that was picked for labelling.

    Attributes:
        number: number of its line or row in the pool's file.
        row: its columns as in the file.
        shares: label to probability by the model, the likeliest first; of JSON the likeliest answer alone.
    """

    number: int
    row: dict[str, Any]
    fields: dict[str, str]
    shares: dict[str, float]

    @property
    def guess(self) -> str:
        return next(iter(self.shares))

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number, "row": self.row, "fields": self.fields, "shares": self.shares}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pick:
        """Inverse of :meth:`to_json`; KeyError, TypeError or ValueError if the object is not valid."""
        shares = {str(label): float(share) for label, share in data["shares"].items()}
        if not shares:
            raise ValueError("a row has no labels")
        return cls(int(data["number"]), dict(data["row"]), {str(k): str(v) for k, v in data["fields"].items()}, shares)


def pick_rows(
    predictor: Predictor,
    sheet: Sheet,
    checked: Checked,
    count: int,
    *,
    way: str,
    look: int,
    seed: int,
    known: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, size: None,
) -> list[Pick]:
    """Pick the rows whose labels would help most, the best first.

    Rows that an endpoint refuses are left out, with a warning. If the endpoint fails, its answers so far are stored
    (:func:`cotune.bundle.unfinished.stored_answers`).

    Args:
        predictor: the model that will learn from the labels.
        checked: the pool's input fields from :func:`cotune.bundle.answer_sheet.check_sheet`; invalid rows and duplicates are
            skipped.
        count: number of rows to pick; fewer if the pool has fewer.
        way: name of the acquisition function, from :data:`cotune.labelling.acquisition.ACQUISITIONS`.
        look: most rows of the pool that the model reads, drawn at random.
        known: texts of rows that already have a label (:func:`cotune.bundle.rows.said`); they are not picked.
        progress: called with the number of rows read and the number of all rows to read.

    Raises:
        InputError: if no row is left, or the function needs hidden states and the model is behind an endpoint.
        DivergedError: if a score is NaN.
        EndpointError: if the endpoint failed, or refused all of the first batch.
    """
    if way not in WITHOUT_STATES and not predictor.scorer.capabilities.hidden_states:
        raise InputError(
            f"{way!r} picks rows by hidden states, which a model behind an endpoint does not return",
            where="--by",
            hint=f"Use one of {', '.join(WITHOUT_STATES)}.",
        )
    first: dict[str, int] = {}
    for place, fields in enumerate(checked):
        if not isinstance(fields, RowError) and (words := said(fields)) not in known:
            first.setdefault(words, place)
    places, rng = list(first.values()), np.random.default_rng([seed, 31])
    if not places:
        raise InputError(
            "the pool has no row left to label",
            where=sheet.source,
            hint="Give rows that have no label yet; rows with the text of a row of the run or of the --out file are skipped.",
        )
    if len(places) > look:
        places = sorted(places[int(i)] for i in rng.permutation(len(places))[:look])
    rows = [fields for place in places if not isinstance(fields := checked[place], RowError)]
    if predictor.scorer.capabilities.hidden_states:
        found, log_probs, answers = _seen(predictor, rows, progress)
        states = standardised(found)[0]
    else:
        answers = []
        log_probs, answered = _answered(predictor, rows, progress)
        if refused := len(rows) - len(answered):
            _log.warning("%d of %d rows were refused by the endpoint and are left out", refused, len(rows))
        places, rows = [places[i] for i in answered], [rows[i] for i in answered]
        states = np.zeros((len(rows), 1), dtype=np.float32)
    chosen = ACQUISITIONS[way](Pool(log_probs, states), min(count, len(rows)), rng)

    def shares(i: int) -> dict[str, float]:
        if answers:
            return {answers[i][0]: round(answers[i][1], 6)}
        likeliest = np.argsort(-log_probs[i], kind="stable")
        return {predictor.labels[int(label)]: round(float(np.exp(log_probs[i, label])), 6) for label in likeliest}

    # A file may hold values that JSON cannot: dates, NaN, halves of characters.
    own = [_writable(plain_json(sheet.rows[places[i]])) for i in chosen]
    return [Pick(sheet.numbers[places[i]], row, rows[i], shares(i)) for i, row in zip(chosen, own, strict=True)]


def _seen(
    predictor: Predictor, rows: Sequence[Mapping[str, str]], progress: Callable[[int, int], None]
) -> tuple[NDArray[np.float32], NDArray[np.float64], list[tuple[str, float]]]:
    """Hidden states and log-probabilities of rows, and their answers with confidence, which labels do not need.

    An answer of several fields has log-probabilities whose margin is its confidence.
    """
    states, log_probs, answers = [], [], list[tuple[str, float]]()
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        found, logs = predictor.states(part)
        if predictor.fields is not None:
            judged = predictor.fields.judged(logs, [text_of(row) for row in part])
            assert judged.confidence is not None
            answers += zip(judged.outputs, judged.confidence.tolist(), strict=True)
            shares = (1 + judged.confidence) / 2
            logs = np.log(np.maximum(np.stack([shares, 1 - shares], axis=1), 1e-12))
        states.append(found)
        log_probs.append(logs)
        progress(min(start + _BATCH, len(rows)), len(rows))
    return np.concatenate(states), np.concatenate(log_probs), answers


def _answered(
    predictor: Predictor, rows: Sequence[Mapping[str, str]], progress: Callable[[int, int], None]
) -> tuple[NDArray[np.float64], list[int]]:
    """Log-probabilities from an endpoint, and the indices of the rows that they belong to: those that it did not refuse."""
    shares: list[list[float]] = []
    answered: list[int] = []
    with stored_answers(predictor, rows):
        for start in range(0, len(rows), _BATCH):
            part = predictor.each(rows[start : start + _BATCH], probabilities=True)
            if (why := ending_error(part, first=not answered)) is not None:
                raise why
            for place, one in enumerate(part, start):
                if isinstance(one, Prediction):
                    shares.append(list(one.probabilities.values()))
                    answered.append(place)
            progress(min(start + _BATCH, len(rows)), len(rows))
        if not answered:
            raise next(one for one in part if not isinstance(one, Prediction))
    return np.log(np.maximum(np.array(shares), 1e-12)), answered


def _writable(value: Any) -> Any:
    """JSON values with halves of characters, which no file can hold, as escapes."""
    if isinstance(value, dict):
        return {_writable(name): _writable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_writable(inner) for inner in value]
    return escaped(value) if isinstance(value, str) else value
