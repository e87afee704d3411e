"""The task of cross-fitting a prompt's probe, which this process or a worker does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.model.engine.state_store import Half
from cotune.model.local import LocalModel
from cotune.probe.cross_fitting import STRENGTHS, CrossFit, cross_fit


@dataclass(frozen=True, eq=False)
class FitTask:
    """Arguments of :func:`cotune.probe.cross_fitting.cross_fit`, except for the states.

    ``truth`` are the right classes, and ``words`` the first token of each label's word, if word logits are combined with the
    last layer's probe; otherwise None.
    """

    truth: NDArray[np.int64]
    classes: int
    sizes: tuple[int, ...]
    layers: tuple[int, ...]
    groups: list[Any] | None
    words: tuple[int, ...] | None
    keep: int
    also: tuple[int, ...]
    repeats: int | None
    seed: int
    owners: NDArray[np.int64] | None = None
    strengths: tuple[float, ...] = STRENGTHS

    def fit(self, model: LocalModel, states: Half) -> CrossFit:
        """Cross-fit probes on states ``[layers, rows, 2 x width]``."""
        options = dict(vars(self))
        truth, first = options.pop("truth"), options.pop("words")
        words = None if first is None else states[-1].astype(np.float32) @ word_weights(model, first).T
        return cross_fit(states, truth, words=words, **options)

    def to_json(self) -> dict[str, Any]:
        """A JSON object for :meth:`from_json`."""
        return {
            **vars(self),
            "truth": self.truth.tolist(),
            "owners": None if self.owners is None else self.owners.tolist(),
            "sizes": list(self.sizes),
            "layers": list(self.layers),
            "also": list(self.also),
            "strengths": list(self.strengths),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FitTask:
        """Inverse of :meth:`to_json`."""
        words = None if data["words"] is None else tuple(data["words"])
        lists = {name: tuple(data[name]) for name in ("sizes", "layers", "also", "strengths")}
        truth, owners = (None if data[name] is None else np.array(data[name], dtype=np.int64) for name in ("truth", "owners"))
        return cls(**{**data, **lists, "truth": truth, "owners": owners, "words": words})


def word_weights(model: LocalModel, first: Sequence[int]) -> NDArray[np.float32]:
    """Weights ``[labels, 2 x width]`` that map a row's states to the logits of label words, by the words' first tokens.

    They are centred over the labels, which changes no comparison of labels. A row's states are the one at its last token and
    the mean over its tokens; the weights of the mean are zero.
    """
    found = model.output_vectors(first)
    centred: NDArray[np.float32] = np.pad(found - found.mean(axis=0), ((0, 0), (0, found.shape[1])))
    return centred
