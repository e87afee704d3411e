"""A classification head: labels read off a model's state where its answer would begin, instead of off the words it would say.

A fine-tuned model's state at that place tells labels apart better than the probabilities of their words do where there are many
labels and each was met a few times only: words share their weights with all of language, a head has weights for each label
alone. It lies in the adapter's folder and belongs to it: the adapter's id is another with it than without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.errors import CotuneError, InputError
from cotune.files import content_hash

HEAD = "classification_head.safetensors"
ABOUT = "cotune"
"""Key of its file's metadata: labels and words, as JSON."""
_MOST_BYTES = 2**30
_MEND = "Save the adapter anew."

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Head:
    """Weights of each label.

    Attributes:
        labels: that it tells apart, at least two.
        weight: ``[labels, width]`` in fp32.
        bias: ``[labels]`` in fp32.
        words: what answers where the head cannot go, such as in other programs: the decision rule, as JSON, that goes with the
            probabilities of the labels' words, and what that reached on dev.
    """

    labels: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    words: Mapping[str, Any]

    def log_probs(self, states: NDArray[np.float32], labels: Sequence[str]) -> Floats:
        """``[rows, labels]`` log-probabilities among the labels, in the order that is asked for.

        Args:
            states: ``[rows, width]``.
            labels: all labels of the head.

        Raises:
            CotuneError: they are others.
        """
        from scipy.special import log_softmax

        if sorted(labels) != sorted(self.labels):
            raise CotuneError("the adapter's classification head was fitted to other labels")
        place = {label: i for i, label in enumerate(self.labels)}
        order = [place[label] for label in labels]
        logits = states.astype(np.float64) @ self.weight[order].T.astype(np.float64) + self.bias[order]
        found: Floats = log_softmax(logits, axis=1)
        return found

    def to_bytes(self) -> bytes:
        """What stands in its file; equal heads give equal bytes."""
        from safetensors.numpy import save

        about = json.dumps({"labels": self.labels, "words": self.words}, ensure_ascii=False, sort_keys=True)
        return save({"bias": self.bias, "weight": self.weight}, metadata={ABOUT: about})


def load_head(folder: Path) -> Head | None:
    """The head in an adapter's folder; None where there is none.

    Raises:
        InputError: it cannot be read, or its parts do not fit together.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / HEAD
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        with safe_open(path, framework="numpy") as stored:
            about = json.loads((stored.metadata() or {})[ABOUT])
            weight, bias = stored.get_tensor("weight"), stored.get_tensor("bias")
        labels, words = tuple(map(str, about["labels"])), about["words"]
        fits = weight.ndim == 2 and bias.shape == weight.shape[:1] == (len(labels),) and len(set(labels)) == len(labels) > 1
        if not fits or weight.dtype != np.float32 or bias.dtype != np.float32 or not isinstance(words, dict):
            raise ValueError("its parts do not fit together")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError("it holds numbers that are not finite")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"the classification head cannot be read ({error})", where=str(path), mend=_MEND) from error
    return Head(labels, weight, bias, words)


def headed_id(adapter_id: str, data: bytes) -> str:
    """Id of an adapter with a head of these bytes."""
    return content_hash({"adapter": adapter_id, "head": content_hash(data, 64)})
