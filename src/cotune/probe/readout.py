"""The read-out of a probe: one linear map from hidden states to label logits, and the layer whose states it reads.

Logits of TF-IDF of the row's text may be added to those of the states.

Standardisation and temperature are folded into the weights. The file is stored in the adapter's folder, or alone in a folder if
the model's weights are not tuned. It is part of the adapter, so an adapter has another id with a probe than without.
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
from cotune.probe.fields import log_softmax_by_field
from cotune.probe.terms import TermWeights
from cotune.task.values.chain import ARRAYS, Chain

PROBE = "probe.safetensors"
ABOUT = "cotune"
"""Key of the file's metadata with labels and layer as JSON."""
_MOST_BYTES = 2**30
_MOST_LAYERS = 10_000
_HINT = "Save the adapter again."

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of hidden states that are divided by their root mean square.

    Attributes:
        labels: its classes, at least two.
        weight: ``[labels, 2 x width]`` in fp32, for the state at the last prompt token and the mean over a row's own tokens;
            ``[labels, width]`` if it reads words.
        bias: ``[labels]`` in fp32.
        layer: number of the layer whose output is read, from 1.
        terms: TF-IDF whose logits are added, in the order of the labels; None if the states answer alone.
        sizes: number of classes of each field if it answers several at once; empty if there is one.
        words: whether it reads each word of a row, see :meth:`cotune.prompt.render.Renderer.render_twice`, not the whole row.
        chain: how the tags of words follow each other; None decides by the words alone.
    """

    labels: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    layer: int
    terms: TermWeights | None = None
    sizes: tuple[int, ...] = ()
    words: bool = False
    chain: Chain | None = None

    @property
    def width(self) -> int:
        """Width of the model's hidden states."""
        return int(self.weight.shape[1]) // (1 if self.words else 2)

    def log_probs(self, states: NDArray[np.float32], labels: Sequence[str]) -> Floats:
        """Log-probabilities ``[rows, labels]`` by the states alone, in the order of ``labels``.

        Args:
            states: ``[rows, 2 x width]`` after :attr:`layer` layers, divided by their root mean square, with the mean appended.
            labels: all labels of the probe, in any order; those of several fields in the probe's own.

        Raises:
            CotuneError: the labels are not those of the probe.
        """
        order = self._order(labels)
        logits = states.astype(np.float64) @ self.weight[order].T.astype(np.float64) + self.bias[order]
        return log_softmax_by_field(logits, self.sizes)

    def to_bytes(self) -> bytes:
        """The content of its file; equal probes give equal bytes."""
        from safetensors.numpy import save

        said: dict[str, Any] = {"labels": self.labels, "layer": self.layer, **({"sizes": self.sizes} if self.sizes else {})}
        said |= {"words": True} if self.words else {}
        arrays: dict[str, NDArray[Any]] = {"bias": self.bias, "weight": self.weight}
        if self.terms is not None:
            said["terms"] = {"size": self.terms.size, "fields": self.terms.fields}
            arrays |= self.terms.arrays()
        if self.chain is not None:
            said["chain"] = True
            arrays |= self.chain.arrays()
        about = json.dumps(said, ensure_ascii=False, sort_keys=True)
        return save(arrays, metadata={ABOUT: about})

    def with_terms(self, log_probs: Floats, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> Floats:
        """Log-probabilities by states and TF-IDF, given those by the states alone, ``[rows, labels]``."""
        if self.terms is None:
            return log_probs
        return log_softmax_by_field(log_probs + self.terms.logits(rows)[:, self._order(labels)], self.sizes)

    def _order(self, labels: Sequence[str]) -> list[int]:
        if sorted(labels) != sorted(self.labels) or (self.sizes and tuple(labels) != self.labels):
            raise CotuneError("the probe was fitted to other labels")
        place = {label: i for i, label in enumerate(self.labels)}
        return [place[label] for label in labels]


def load_probe(folder: Path) -> Probe | None:
    """Load the probe in an adapter's folder; None if there is none.

    Raises:
        InputError: it cannot be read, or its parts do not fit together.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / PROBE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        with safe_open(path, framework="numpy") as stored:
            about = json.loads((stored.metadata() or {})[ABOUT])
            weight, bias = stored.get_tensor("weight"), stored.get_tensor("bias")
            labels, layer = tuple(map(str, about["labels"])), about["layer"]
            terms = TermWeights.read(stored, about["terms"]) if "terms" in about else None
            sizes, words = tuple(about.get("sizes", ())), about.get("words", False)
            chain = Chain.read({name: stored.get_tensor(name) for name in ARRAYS}) if about.get("chain") else None
        fits = weight.ndim == 2 and bias.shape == weight.shape[:1] == (len(labels),) and len(set(labels)) == len(labels) > 1
        if not fits or weight.dtype != np.float32 or bias.dtype != np.float32:
            raise ValueError("its parts do not fit together")
        if terms is not None and len(terms.bias) != len(labels):
            raise ValueError("its terms have other labels")
        if sizes and (any(type(size) is not int or size < 2 for size in sizes) or sum(sizes) != len(labels)):
            raise ValueError("its fields do not fit its labels")
        if type(words) is not bool or (words and terms is not None):
            raise ValueError("it does not say what it reads")
        if chain is not None and not (words and sizes and sizes[0] == 1 + chain.parts):
            raise ValueError("its chain does not fit its fields")
        if weight.shape[1] % 2 and not words:
            raise ValueError("its width is invalid")
        if type(layer) is not int or not 1 <= layer <= _MOST_LAYERS:
            raise ValueError("its layer is invalid")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError("it contains numbers that are not finite")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"the probe cannot be read ({error})", where=str(path), hint=_HINT) from error
    return Probe(labels, weight, bias, layer, terms, sizes, words, chain)


def probed_id(adapter_id: str, data: bytes) -> str:
    """Id of an adapter with a probe of these bytes; for ``base``, the id of a probe on the untuned model."""
    return content_hash({"adapter": adapter_id, "probe": content_hash(data, 64)})
