"""What the model's thread does: answers rows of one bundle, embeds texts with one base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cotune.bundle.predictor import Prediction, Predictor
from cotune.embed.text import EmbedSettings, TextEmbedder, Vectors
from cotune.model.protocol import Model


@dataclass(frozen=True)
class Answered:
    """A row's answer.

    Attributes:
        prediction: the answer itself.
        prompt_tokens: that were read.
        completion_tokens: of the answer, its stop token included.
    """

    prediction: Prediction
    prompt_tokens: int
    completion_tokens: int


class Scoring:
    """Answers rows of a bundle, exactly as its :class:`Predictor` does.

    Args:
        predictor: the bundle.
        probabilities: whether every label's probability is wanted; rows with and without do not mix, since what the answer
            alone needs takes less.
    """

    def __init__(self, predictor: Predictor, *, probabilities: bool) -> None:
        self._predictor, self._probabilities = predictor, probabilities

    def run(self, items: Sequence[Mapping[str, str]]) -> list[Answered]:
        predictor = self._predictor
        found = predictor.answers(items, probabilities=self._probabilities)
        if predictor.writing is not None:
            return self._written(items, list(found))
        rendered = predictor.model.renderer.render(predictor.prompt, items, predictor.labels)
        place = {label: i for i, label in enumerate(predictor.labels)}
        return [
            Answered(one, len(row.prompt_ids), len(row.completions[place[one.answer]]))
            for one, row in zip(found, rendered, strict=True)
        ]

    def _written(self, items: Sequence[Mapping[str, str]], found: Sequence[Prediction]) -> list[Answered]:
        model = self._predictor.model
        rendered = model.renderer.render_answers(self._predictor.prompt, items, None)
        lengths = [
            len(ids) + 1 for ids in model.tokenizer([one.answer for one in found], add_special_tokens=False)["input_ids"]
        ]
        return [Answered(one, len(row.prompt_ids), length) for one, row, length in zip(found, rendered, lengths, strict=True)]


@dataclass(frozen=True)
class Embedded:
    """A text's vector.

    Attributes:
        vector: ``[width]``.
        tokens: of the text.
    """

    vector: Vectors
    tokens: int


class Embedding:
    """Embeds texts with a base model, no adapter, as :class:`TextEmbedder` does by default.

    Args:
        model: who reads.
    """

    def __init__(self, model: Model) -> None:
        self._embedder = TextEmbedder(model, EmbedSettings())
        self._tokenizer = model.tokenizer

    def run(self, items: Sequence[str]) -> list[Embedded]:
        vectors = self._embedder.embed(items)
        cut = [text[: self._embedder.settings.max_chars] for text in items]
        tokens = [len(ids) for ids in self._tokenizer(cut, add_special_tokens=False)["input_ids"]]
        return [Embedded(vector, count) for vector, count in zip(vectors, tokens, strict=True)]
