"""Checks that an export gives the same answers as the bundle; each raises a :class:`CotuneError` if answers differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.bundle.predictor import Predictor
from cotune.errors import CotuneError
from cotune.probe.fields import spans
from cotune.task.words import text_of

# Tolerance of log-probabilities: weights are rounded to the stored dtype, and bfloat16 changes them by about this much.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.6, "float16": 0.15}
_LEAST_SHARE = 1e-30
_TEXTS = ("Where is it?", "It does not work, please help.", "a", "12 of 30 were right, and nobody knew why that was so.")


def check_weights(predictor: Predictor, folder: Path, dtype: str, adapter: Path | None = None) -> None:
    """Check weights that are stored in ``dtype``, with an adapter's folder if there is one, against the bundle in float32."""
    from cotune.model.adapters.files import BASE
    from cotune.model.engine.settings import EngineSettings
    from cotune.model.local import LocalModel

    model, probe = predictor.model, predictor.probe
    settings = EngineSettings("cpu", "float32", max_tokens=model.settings.max_tokens, truncate=model.settings.truncate)
    other = LocalModel.load(folder, settings=settings)
    own = BASE if adapter is None else other.adapters.register(adapter)
    # One different token changes the rest of a generated answer, so compare the likelihood of fixed answers.
    asked = (predictor.prompt, _rows(predictor), predictor.labels or _TEXTS)
    if probe is None:
        wanted = model.score(*asked, adapter=predictor.adapter_id).log_probs
        _compare(wanted, other.score(*asked, adapter=own).log_probs, dtype)
        return
    rendered = model.renderer.render(*asked)
    ids, reads = [row.prompt_ids for row in rendered], [row.start for row in rendered]
    states = model.layer_states(ids, [probe.layer], reads=reads, adapter=predictor.adapter_id)[0]
    found = other.layer_states(ids, [other.depth], reads=reads, adapter=own)[0]
    _compare(probe.log_probs(states, predictor.labels), probe.log_probs(found, predictor.labels), dtype)


def check_classifier(predictor: Predictor, folder: Path, dtype: str) -> None:
    """Check a transformers classifier with its pipeline, in one batch."""
    from cotune.bundle.export.pipeline import load

    rows = _rows(predictor)
    wanted = _wanted(predictor, rows)
    classify = load(folder, batch_size=len(rows))
    _check_long_row(predictor, classify.prompt_ids)
    told = classify(rows, top_k=None)
    # Python leaves compiled files in the folder, which would be exported too.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    by_label = [{each["label"]: each["score"] for each in row} for row in told]
    found = np.log(np.maximum([[row[label] for label in predictor.labels] for row in by_label], _LEAST_SHARE))
    _compare(wanted, found, dtype)


def check_fields(predictor: Predictor, folder: Path, dtype: str) -> None:
    """Check a model with the Python file that reads several fields: log-probabilities, and the answers made from them."""
    from cotune.bundle.export.answer import load

    assert predictor.fields is not None
    rows = _rows(predictor)
    wanted, answer = _wanted(predictor, rows), load(folder)
    _check_long_row(predictor, lambda row: answer.asked(row).ids)
    found = answer.log_probs(rows, batch_size=len(rows))
    for span in spans(predictor.fields.sizes, len(predictor.labels)):
        _compare(wanted[:, span], np.maximum(found[:, span], np.log(_LEAST_SHARE)), dtype)
    told = [json.loads(text) for text in predictor.fields.answers(found, [text_of(row) for row in rows])]
    read = answer.read(found, rows)
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    if read != told:
        raise CotuneError(f"the exported code answers {read}, but the bundle answers {told}; nothing was written")


def check_pyfunc(predictor: Predictor, model: Any) -> None:
    """Check an MLflow pyfunc through its public interface."""
    rows = _rows(predictor)
    wanted, found = predictor.predict(rows), list(model.predict(rows))
    if wanted != found:
        raise CotuneError(f"the exported model answers {found}, but the bundle answers {wanted}; nothing was written")


def check_graph(predictor: Predictor, folder: Path) -> None:
    """Check an ONNX graph with its Python file, with rows one by one and in one batch."""
    from cotune.bundle.export.classify import load

    rows = _rows(predictor)
    wanted = _wanted(predictor, rows)
    classify = load(folder, threads=1)
    _check_long_row(predictor, lambda row: classify.ids([row])[0])
    order = [classify.labels.index(label) for label in predictor.labels]
    for batch_size in (1, len(rows)):
        found = classify.probabilities(rows, batch_size)[:, order]
        _compare(wanted, np.log(np.maximum(found, _LEAST_SHARE)), "float32")


def _rows(predictor: Predictor) -> list[dict[str, str]]:
    return [dict.fromkeys(predictor.input_fields, text) for text in _TEXTS]


def _check_long_row(predictor: Predictor, read: Callable[[dict[str, str]], list[int]]) -> None:
    """Check that a row that is longer than the limit on prompts has the token ids of the bundle in the exported code."""
    long = " ".join(f"{_TEXTS[1]} {number}" for number in range(predictor.model.renderer.max_tokens // 8))
    row = dict.fromkeys(predictor.input_fields, long)
    if read(row) != list(predictor.rendered([row])[0].prompt_ids):
        raise CotuneError("the exported code shortens a long row to other tokens than the bundle; nothing was written")


def _wanted(predictor: Predictor, rows: list[dict[str, str]]) -> NDArray[np.float64]:
    """The bundle's log-probabilities of the labels, those of very unlikely ones raised to what a share can express."""
    scored = predictor.scorer.score(predictor.prompt, rows, predictor.labels, adapter=predictor.adapter_id)
    return np.maximum(scored.log_probs, np.log(_LEAST_SHARE))


def _compare(wanted: NDArray[np.float64], found: NDArray[np.float64], dtype: str) -> None:
    # Relative to the best label, since the exact probability of a very unlikely label does not matter.
    near = wanted > wanted.max(axis=1, keepdims=True) - 5
    difference = float(np.abs(np.where(near, found - wanted, 0.0)).max())
    if not difference <= _TOLERANCE.get(dtype, 1.0):
        raise CotuneError(
            "the exported weights give other answers than the bundle: log-probabilities differ by up to "
            f"{difference:.3f} nats; nothing was written"
        )
