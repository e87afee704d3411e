"""Tuning that starts from the labels' words: how a prompt is read by them, and whether they say anything of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import PromptFit, fit_prompt, read_by_words, word_vectors
from cotune.cycle.probe_search.state import standard_error
from cotune.cycle.probe_search.trial import Trials, held_loss
from cotune.evaluate.responses import label_indices
from cotune.model.adapters.slots import BASE
from cotune.probe.cross_fitting import best_temperature, tempered
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
        """Whether the untuned model's words say more of the labelled rows than how frequent each label is, beyond chance."""
        context, labels = self._context, self._context.task.labels
        vectors = word_vectors(context, fit.prompt)
        if vectors is None:
            return False
        states = self._embedding.states(fit.prompt, BASE, self._rows, "race", layers=[context.model.depth])[0]
        logits = states.astype(np.float64) @ vectors.T
        # A model's liking for some words says nothing of a row.
        table = tempered(logits - logits.mean(axis=0), 1.0)
        truth = label_indices(self._rows, context.task)
        frequency = np.bincount(truth, minlength=len(labels))[truth] / len(truth)
        gain = -np.log(frequency) - held_loss(table, truth, best_temperature(table, truth))
        return float(gain.mean()) > standard_error(gain)
