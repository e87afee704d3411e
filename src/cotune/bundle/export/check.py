"""Checks that an export answers as the bundle does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from cotune.bundle.manifest import Manifest
from cotune.bundle.predictor import Predictor
from cotune.errors import CotuneError
from cotune.probe.readout import Probe

if TYPE_CHECKING:
    from cotune.model.local import LocalModel

# Weights are stored rounded, which in bfloat16 moves log-probabilities by about this much.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.6, "float16": 0.15}
_LEAST_SHARE = 1e-30
_TEXTS = ("Where is it?", "It does not work, please help.", "a", "12 of 30 were right, and nobody knew why that was so.")


def check_weights(
    predictor: Predictor, manifest: Manifest, folder: Path, dtype: str, probe: Probe | None = None, adapter: Path | None = None
) -> None:
    """Check exported weights against the bundle.

    Args:
        predictor: the bundle, in float32.
        manifest: its manifest.
        folder: the model.
        dtype: that its weights were rounded to.
        probe: what answers, where that is a probe: the model ends after its layer, and it is to say the same of the states.
        adapter: of the model; None where it needs none.

    Raises:
        CotuneError: they do.
    """
    from cotune.model.adapters.files import BASE
    from cotune.model.engine.settings import EngineSettings
    from cotune.model.local import LocalModel

    settings = EngineSettings("cpu", "float32", max_tokens=manifest.max_tokens)
    other = LocalModel.load(folder, settings=settings)
    own = BASE if adapter is None else other.adapters.register(adapter)
    rows = _rows(manifest)
    # Written answers part for good where one token does, so the likelihood of fixed ones is compared.
    asked = (predictor.prompt, rows, manifest.labels or _TEXTS)
    if probe is None:
        wanted = predictor.model.score(*asked, adapter=predictor.adapter_id).log_probs
        _compare(wanted, other.score(*asked, adapter=own).log_probs, dtype)
        return
    model = cast("LocalModel", predictor.model)
    rendered = model.renderer.render(*asked)
    ids, starts = [row.prompt_ids for row in rendered], [row.start for row in rendered] if probe.pooled else None
    states = model.layer_states(ids, [probe.layer], starts=starts, adapter=predictor.adapter_id)[0]
    found = other.layer_states(ids, [other.depth], starts=starts, adapter=own)[0]
    _compare(probe.log_probs(states, manifest.labels), probe.log_probs(found, manifest.labels), dtype)


def check_classifier(predictor: Predictor, manifest: Manifest, folder: Path, dtype: str) -> None:
    """Check a transformers classifier, by its own pipeline in one batch.

    Raises:
        CotuneError: it answers otherwise.
    """
    from cotune.bundle.export.pipeline import load

    rows = _rows(manifest)
    wanted = predictor.scorer.score(predictor.prompt, rows, manifest.labels, adapter=predictor.adapter_id).log_probs
    told = load(folder, batch_size=len(rows))(rows, top_k=None)
    # Python leaves the compiled class there, which would be shipped with the export.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    by_label = [{each["label"]: each["score"] for each in row} for row in told]
    found = np.log(np.maximum([[row[label] for label in manifest.labels] for row in by_label], _LEAST_SHARE))
    _compare(np.maximum(wanted, np.log(_LEAST_SHARE)), found, dtype)


def check_pyfunc(predictor: Predictor, manifest: Manifest, model: Any) -> None:
    """Check an MLflow pyfunc through its public interface.

    Raises:
        CotuneError: it answers otherwise.
    """
    rows = _rows(manifest)
    wanted, found = predictor.predict(rows), list(model.predict(rows))
    if wanted != found:
        raise CotuneError(f"the exported model answers {found} and the bundle {wanted}; nothing was written")


def check_graph(predictor: Predictor, manifest: Manifest, folder: Path) -> None:
    """Check an ONNX graph, by its own Python file, one by one and in one batch.

    Raises:
        CotuneError: it answers otherwise.
    """
    from cotune.bundle.export.classify import load

    rows = _rows(manifest)
    wanted = predictor.scorer.score(predictor.prompt, rows, manifest.labels, adapter=predictor.adapter_id).log_probs
    classify = load(folder, threads=1)
    order = [classify.labels.index(label) for label in manifest.labels]
    for batch_size in (1, len(rows)):
        found = classify.probabilities(rows, batch_size)[:, order]
        _compare(np.maximum(wanted, np.log(_LEAST_SHARE)), np.log(np.maximum(found, _LEAST_SHARE)), "float32")


def _rows(manifest: Manifest) -> list[dict[str, str]]:
    return [dict.fromkeys(manifest.input_fields, text) for text in _TEXTS]


def _compare(wanted: NDArray[np.float64], found: NDArray[np.float64], dtype: str) -> None:
    # Relative to the best label: how unlikely a very unlikely label is matters to nobody.
    near = wanted > wanted.max(axis=1, keepdims=True) - 5
    difference = float(np.abs(np.where(near, found - wanted, 0.0)).max())
    if not difference <= _TOLERANCE.get(dtype, 1.0):
        raise CotuneError(
            "the exported weights answer otherwise than the bundle: log-probabilities differ by "
            f"{difference:.3f} nats at most; nothing was written"
        )
