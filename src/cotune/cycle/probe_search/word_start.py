"""Tuning that starts from the labels' words: how a prompt is read by them, and whether they say anything of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import PromptFit, fit_prompt, read_by_words, word_vectors
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.trial import Trials
from cotune.evaluate.responses import label_indices
from cotune.model.adapters.slots import BASE
from cotune.task.example import Example


class WordStart:
    """Reads prompts by the labels' words at the last layer.

    Args:
        context: whose labels and model.
        embedding: embeds and keeps the states.
        trials: whose windows may end below the last layer.
        rows: all labelled rows.
    """

    def __init__(self, context: RunContext, embedding: Embedding, trials: Trials, rows: Sequence[Example]) -> None:
        self._context, self._embedding, self._trials, self._rows = context, embedding, trials, rows

    def read(self, fit: PromptFit) -> PromptFit | None:
        """A prompt read by the words; None where these cannot be told apart or the last layer is not to be read."""
        if not self._trials.reads_words(fit.prompt):
            return None
        if (known := read_by_words(fit)) is not None:
            return known
        # A race leaves the last layer out where its leaders are read from lower ones.
        depth = self._context.model.depth
        states = self._embedding.states(fit.prompt, BASE, self._rows, "race", layers=[depth])
        return read_by_words(fit_prompt(self._context, fit.prompt, self._rows, states, [depth]))

    def tell(self, fit: PromptFit) -> bool:
        """Whether the untuned model's words put the rows of one of two labels before those of the other, beyond chance.

        Only the order counts (Mann and Whitney, 1947): untuned, a model likes one word better than another whatever the row is.
        """
        from scipy.stats import mannwhitneyu

        context = self._context
        vectors = word_vectors(context, fit.prompt)
        if vectors is None:
            return False
        states = self._embedding.states(fit.prompt, BASE, self._rows, "race", layers=[context.model.depth])[0]
        lean = states.astype(np.float64) @ (vectors[1] - vectors[0])
        second = label_indices(self._rows, context.task) == 1
        return float(mannwhitneyu(lean[second], lean[~second], alternative="greater").pvalue) < HEURISTICS.words_alpha
