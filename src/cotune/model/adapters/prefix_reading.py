"""Interpretation of a trained prefix: how far each token moved in training, and its nearest words.

Only values of the first layer can be compared with words: they depend on a token's embedding alone, so every word of the
vocabulary has such values, and those of an untrained prefix equal those of its words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from cotune.model.adapters.prefix import TrainedPrefix
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel

_WORDS = 5
"""Nearest words of a token."""


@dataclass(frozen=True)
class PrefixToken:
    """A token of a trained prefix.

    Attributes:
        text: the replaced token; None if it replaces none.
        moved: root mean square, over all layers, of the change of its keys and values in units of the layer's scale; None if it
            replaces no token.
        words: nearest words of the vocabulary by the first layer's values, with their cosine; empty if these cannot be
            computed.
    """

    text: str | None
    moved: float | None
    words: tuple[tuple[str, float], ...]


def read_prefix(model: LocalModel, trained: TrainedPrefix) -> list[PrefixToken]:
    """Describe every token of a prefix.

    Args:
        model: the model that it was trained on.
        trained: the prefix.
    """
    nearest = _nearest(model, trained)
    moved = _moved(model, trained)
    texts = [model.tokenizer.decode([i]) for i in trained.ids]
    return [
        PrefixToken(
            texts[place] if texts else None,
            moved[place] if moved else None,
            tuple((model.tokenizer.decode([token]), near) for token, near in nearest[place]) if nearest else (),
        )
        for place in range(trained.length)
    ]


def _moved(model: LocalModel, trained: TrainedPrefix) -> list[float]:
    if not trained.ids:
        return []
    with torch.inference_mode():
        state = model.run_prefix(BASE, trained.ids)
        assert state is not None
        before = TrainedPrefix.of_state(state)
        parts = []
        for old, new in ((before.keys, trained.keys), (before.values, trained.values)):
            old = old.cpu()
            scale = (old[:, 1:] if trained.length > 1 else old).pow(2).mean((1, 2, 3), keepdim=True)
            parts.append(((new.float().cpu() - old).pow(2) / scale).mean((0, 2, 3)))
        found: list[float] = ((parts[0] + parts[1]) / 2).sqrt().tolist()
    return found


def _nearest(model: LocalModel, trained: TrainedPrefix) -> list[list[tuple[int, float]]]:
    model.adapters.use(BASE)
    with torch.inference_mode():
        found = model.runner.first_values(range(len(model.tokenizer))) if model.shared else None
    if found is None:
        return []
    table = normalize(found.float(), dim=1)
    mine = normalize(trained.values[0].float().flatten(1).to(table), dim=1)
    near, place = (mine @ table.T).topk(min(_WORDS, table.shape[0]), dim=1)
    return [list(zip(ids, cosines, strict=True)) for ids, cosines in zip(place.tolist(), near.tolist(), strict=True)]
