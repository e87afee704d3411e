"""What was exported has to answer as the bundle does, or is not handed over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

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
_PROBE_TEXTS = ("Where is it?", "It does not work, please help.", "a", "12 of 30 were right, and nobody knew why that was so.")


def check_weights(predictor: Predictor, manifest: Manifest, folder: Path, dtype: str, head: Probe | None = None) -> None:
    """Refuse to hand over weights that answer otherwise than the bundle.

    Args:
        predictor: the bundle as it answers by words, in float32.
        manifest: its manifest.
        folder: a model that needs no adapter any more.
        dtype: that its weights were rounded to.
        head: what answers in cotune, where that is a classification head: it is to say the same of the states.

    Raises:
        CotuneError: they do.
    """
    from cotune.model.engine_settings import EngineSettings
    from cotune.model.local import LocalModel

    settings = EngineSettings("cpu", "float32", max_tokens=manifest.max_tokens)
    other = LocalModel.load(folder, settings=settings)
    rows = [dict.fromkeys(manifest.input_fields, text) for text in _PROBE_TEXTS]
    # Written answers part for good where one token does, so the likelihood of fixed ones is compared.
    asked = (predictor.prompt, rows, manifest.labels or _PROBE_TEXTS)
    _compare(predictor.model.score(*asked, adapter=predictor.adapter_id).log_probs, other.score(*asked).log_probs, dtype)
    if head is not None:
        model = cast("LocalModel", predictor.model)
        ids = [row.prompt_ids for row in model.renderer.render(*asked)]
        wanted, found = model.last_states(ids, adapter=predictor.adapter_id), other.last_states(ids)
        _compare(head.log_probs(wanted, manifest.labels), head.log_probs(found, manifest.labels), dtype)


def _compare(wanted: NDArray[np.float64], found: NDArray[np.float64], dtype: str) -> None:
    # Relative to the best label: how unlikely a very unlikely label is matters to nobody.
    near = wanted > wanted.max(axis=1, keepdims=True) - 5
    difference = float(np.abs(np.where(near, found - wanted, 0.0)).max())
    if not difference <= _TOLERANCE.get(dtype, 1.0):
        raise CotuneError(
            "the exported weights answer otherwise than the bundle: log-probabilities differ by "
            f"{difference:.3f} nats at most; nothing was written"
        )
