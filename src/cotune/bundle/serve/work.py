"""Kinds of work (:class:`Kind`) of the model's thread: answers to rows of a bundle, and embeddings by a base model."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cotune.bundle.collect import Collector
from cotune.bundle.predictor import Prediction, Predictor
from cotune.embed.standardize import Vectors
from cotune.embed.text import EmbedSettings, TextEmbedder
from cotune.model.base import Model, Sampling


@dataclass(frozen=True)
class Answered:
    """A row's answer with its numbers of tokens; those of the answer include a stop token."""

    prediction: Prediction
    prompt_tokens: int
    completion_tokens: int

    def cut(self) -> Answered:
        """The same answer, marked as truncated."""
        return replace(self, prediction=replace(self.prediction, truncated=True))


class Scoring:
    """Answers rows of a bundle, exactly as its :class:`Predictor` does.

    Rows with and without probabilities are not batched together, since answers alone cost less.
    """

    def __init__(
        self, predictor: Predictor, *, probabilities: bool, unsure: float | None = None, collector: Collector | None = None
    ) -> None:
        self._predictor, self._probabilities, self._unsure, self._collector = predictor, probabilities, unsure, collector

    def size(self, item: Mapping[str, str]) -> int:
        return sum(map(len, item.values()))

    def shortened(self, item: Mapping[str, str]) -> Mapping[str, str] | None:
        return self._predictor.shortened(item)

    def run(self, items: Sequence[Mapping[str, str]]) -> list[Answered]:
        predictor = self._predictor
        found = list(predictor.answers(items, probabilities=self._probabilities, unsure=self._unsure))
        if self._collector is not None:
            self._collector.saw(items)
        if predictor.writing is not None:
            return _written(predictor, items, found)
        rendered = predictor.rendered(items)
        if predictor.fields is not None:
            # Nothing is generated.
            return [Answered(one, len(row.prompt_ids), 0) for one, row in zip(found, rendered, strict=True)]
        place = {label: i for i, label in enumerate(predictor.labels)}
        return [
            Answered(one, len(row.prompt_ids), len(row.completions[place[one.possible[0] if one.possible else one.answer]]))
            for one, row in zip(found, rendered, strict=True)
        ]


@dataclass(frozen=True)
class Draw:
    """A row whose answer is sampled, at a temperature above 0; without a seed it gets a different answer each time."""

    row: Mapping[str, str]
    temperature: float
    seed: int | None


class Drawing:
    """Samples answers of a bundle that generates text; rows with the same temperature and seed run together."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def size(self, item: Draw) -> int:
        return sum(map(len, item.row.values()))

    def shortened(self, item: Draw) -> Draw | None:
        row = self._predictor.shortened(item.row)
        return None if row is None else replace(item, row=row)

    def run(self, items: Sequence[Draw]) -> list[Answered]:
        answers: dict[int, Answered] = {}
        waiting = list(range(len(items)))
        while waiting:
            first, together, rows = items[waiting[0]], [], set()
            for place in waiting:
                item = items[place]
                # Samples depend only on the seed and the row's tokens, so equal rows with one seed would get equal answers.
                key = tuple(item.row.items()) if first.seed is None else place
                if (item.temperature, item.seed) == (first.temperature, first.seed) and key not in rows:
                    rows.add(key)
                    together.append(place)
            waiting = [place for place in waiting if place not in set(together)]
            sampling = Sampling(first.temperature, secrets.randbits(63) if first.seed is None else first.seed)
            asked = [items[place].row for place in together]
            found = list(self._predictor.answers(asked, sampling=sampling))
            answers.update(zip(together, _written(self._predictor, asked, found), strict=True))
        return [answers[place] for place in range(len(items))]


def _written(predictor: Predictor, items: Sequence[Mapping[str, str]], found: Sequence[Prediction]) -> list[Answered]:
    tokenizer, rendered = predictor.model.tokenizer, predictor.rendered(items)
    lengths = [len(ids) for ids in tokenizer([one.answer for one in found], add_special_tokens=False)["input_ids"]]
    return [
        Answered(one, len(row.prompt_ids), length + one.ended)
        for one, row, length in zip(found, rendered, lengths, strict=True)
    ]


@dataclass(frozen=True)
class Embedded:
    """A text's vector, ``[width]``, and its number of tokens."""

    vector: Vectors
    tokens: int


class Embedding:
    """Embeds texts with a base model, without adapter, as :class:`TextEmbedder` does by default."""

    def __init__(self, model: Model) -> None:
        self._embedder = TextEmbedder(model, EmbedSettings())
        self._tokenizer = model.tokenizer

    def size(self, item: str) -> int:
        """Number of characters that are read, which are a text's beginning."""
        return min(len(item), self._embedder.settings.max_chars)

    def shortened(self, item: str) -> None:
        """None, since only a text's beginning is read."""

    def run(self, items: Sequence[str]) -> list[Embedded]:
        vectors = self._embedder.embed(items)
        cut = [text[: self._embedder.settings.max_chars] for text in items]
        tokens = [len(ids) for ids in self._tokenizer(cut, add_special_tokens=False)["input_ids"]]
        return [Embedded(vector, count) for vector, count in zip(vectors, tokens, strict=True)]
