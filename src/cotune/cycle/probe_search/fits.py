"""Probes of prompts on the labelled rows: cross-fitted to be compared, fitted to rows to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.evaluate.responses import label_indices
from cotune.probe.cross_fitting import CrossFit, cross_fit, standardised
from cotune.probe.logistic import fit_logistic
from cotune.probe.readout import Probe
from cotune.prompt.prompt import Prompt
from cotune.refine import not_shown
from cotune.task.example import Example, groups_of
from cotune.tune.window import StartHead

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PromptFit:
    """A prompt's cross-fitted probe.

    Attributes:
        prompt: how it asks.
        rows: labelled rows that it was fitted on: those that the prompt does not show.
        places: ``[rows]`` where they stand among all rows that were asked for.
        found: layer, penalty and cross-fitted predictions.
    """

    prompt: Prompt
    rows: tuple[Example, ...]
    places: NDArray[np.int64]
    found: CrossFit

    @property
    def losses(self) -> Floats:
        """Log-loss of each of its rows in nats."""
        return self.found.best.losses

    @property
    def mean(self) -> float:
        """Mean log-loss in nats."""
        return float(self.losses.mean())


def fit_prompt(
    context: RunContext,
    prompt: Prompt,
    rows: Sequence[Example],
    states: NDArray[np.float16],
    layers: Sequence[int],
    *,
    keep: int = 4,
    repeats: int | None = None,
) -> PromptFit:
    """Cross-fit a prompt's probe on rows, those aside that the prompt shows with their labels.

    Args:
        context: whose task and seed count.
        prompt: how the states were asked for.
        rows: labelled rows.
        states: ``[layers, rows, 2 x width]``.
        layers: their numbers.
        keep: see :func:`cotune.probe.cross_fit`.
        repeats: see there.
    """
    usable = {row.id for row in not_shown(prompt, rows)}
    places = np.array([i for i, row in enumerate(rows) if row.id in usable], dtype=np.int64)
    chosen = tuple(rows[i] for i in places)
    vectors = word_vectors(context, prompt) if layers[-1] == context.model.depth else None
    groups = groups_of(chosen)
    found = cross_fit(
        states[:, places],
        label_indices(chosen, context.task),
        classes=len(context.task.labels),
        layers=layers,
        groups=None if groups is None else groups.tolist(),
        words=None if vectors is None else states[-1, places].astype(np.float32) @ vectors.T,
        keep=keep,
        repeats=repeats,
        seed=context.seed,
    )
    return PromptFit(prompt, chosen, places, found)


def difference(first: PromptFit, second: PromptFit) -> Floats:
    """Log-loss of ``first`` minus that of ``second``, row by row, on the rows that both were fitted on."""
    _, mine, other = np.intersect1d(first.places, second.places, return_indices=True)
    found: Floats = first.losses[mine] - second.losses[other]
    return found


def word_vectors(context: RunContext, prompt: Prompt) -> NDArray[np.float32] | None:
    """``[labels, 2 x width]`` weights that give the logits of the labels' words from a row's states after the last layer.

    Those of the mean over the row's tokens, which stands behind the state at the last one, are zero.

    They are the output vectors of the words' first tokens, which differ between labels or there are none; their mean over
    labels is taken away, which no comparison of labels sees.
    """
    labels = context.task.labels
    if len(labels) > HEURISTICS.most_words:
        return None
    first = [completion[0] for completion in context.answering.render(prompt, context.train_sample[:1])[0].completions]
    if len(set(first)) < len(labels):
        return None
    found = context.model.output_vectors(first)
    centred: NDArray[np.float32] = np.pad(found - found.mean(axis=0), ((0, 0), (0, found.shape[1])))
    return centred


def head_of(
    states: NDArray[np.float16],
    truth: NDArray[np.int64],
    classes: int,
    strength: float,
    words: NDArray[np.float32] | None = None,
) -> StartHead:
    """The read-out of states ``[rows, width]`` that is fitted to all of them.

    ``words`` are weights ``[labels, width]`` that it is fitted beside and that are part of the result: see
    :func:`word_vectors`.
    """
    features, mean, spread = standardised(states)
    if words is None:
        fitted = fit_logistic(features, truth, classes, strengths=[strength])
        return StartHead(fitted.weight[0], fitted.bias[0], mean, spread)
    offsets = states.astype(np.float32) @ words.T
    fitted = fit_logistic(features, truth, classes, strengths=[strength], offsets=offsets)
    return StartHead(fitted.weight[0] + words * spread, fitted.bias[0] + words @ mean, mean, spread)


def head_from(probe: Probe, states: NDArray[np.float16]) -> StartHead:
    """A probe as a head that is tuned on, in the coordinates of the frozen ``states`` ``[rows, width]``."""
    _, mean, spread = standardised(states)
    weight = probe.weight.astype(np.float64)
    return StartHead(weight * spread, probe.bias + weight @ mean, mean, spread)


def probe_of(context: RunContext, head: StartHead, layer: int) -> Probe:
    """A head as a probe of the task's labels."""
    return Probe(context.task.labels, *head.folded(), layer, pooled=True)
