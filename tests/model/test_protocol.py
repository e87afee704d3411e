"""What only scores is enough to predict and to embed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.bundle import Predictor
from cotune.embed import TextEmbedder
from cotune.evaluate.decision import RAW
from cotune.model.base import Capabilities, LabelScores, Model, Progress
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer
from tiny import tiny_local, tiny_tokenizer

LABELS = ("one", "two", "three")


class OnlyScores:
    """Nothing but the protocol: no weights, no adapters, no engine."""

    name, fingerprint = "only scores", "0" * 64
    capabilities = Capabilities(hidden_states=True, generation=False)

    def __init__(self) -> None:
        self.tokenizer = tiny_tokenizer()
        self.renderer = Renderer(self.tokenizer)

    def score(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        labels: Sequence[str],
        *,
        adapter: str = "base",
        top: int | None = None,
        progress: Progress | None = None,
    ) -> LabelScores:
        rendered = self.renderer.render(prompt, rows, labels)
        return LabelScores(np.array([[-float(len(r.prompt_ids) % 3 != i) for i in range(len(labels))] for r in rendered]))

    def facts(self) -> dict[str, str]:
        return {"engine": "none"}

    def last_states(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        adapter: str = "base",
        layer: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        return np.array([[len(s), s[-1]] for s in sequences], dtype=np.float32)


def test_a_model_that_only_scores_predicts_and_embeds() -> None:
    model: Model = OnlyScores()
    prompt, rows = Prompt(instruction="Count."), [{"text": "a" * n} for n in (1, 2, 3)]
    lengths = [len(row.prompt_ids) for row in model.renderer.render(prompt, rows, LABELS)]
    predictor = Predictor(model, prompt, LABELS, ("text",), decision=RAW)
    assert predictor.predict(rows) == [LABELS[n % 3] for n in lengths]
    assert "only scores" in repr(predictor)
    embedder = TextEmbedder(model)
    assert embedder.embed(["x", "y"]).shape == (2, 2)
    # What its vectors depend on is up to the model, not to its class.
    assert embedder.identity("x")["engine"] == embedder.facts["engine"] == "none"


def test_embedding_tells_the_tokens_that_run() -> None:
    """What sequences share runs once."""
    told: list[int] = []
    local: Any = tiny_local("llama")
    local.last_states([[5, 6, 7, 8], [5, 6, 7, 9, 10], [5, 6, 7]], progress=told.append)
    assert local.shared
    assert sum(told) == 2 + 2 + 3 + 1
