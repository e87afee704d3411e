"""Probes of prompts on labelled rows: cross-fitted for comparison, or fitted to all rows for answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fit_task import FitTask
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.workers.fits import PendingFit
from cotune.cycle.workers.pending import Pending
from cotune.cycle.workers.pool import WorkerPool
from cotune.model.adapters.slots import BASE
from cotune.probe.cross_fitting import LAYERS_KEPT, STRENGTHS, CrossFit, as_good, standardised
from cotune.probe.fields import alike
from cotune.probe.logistic import Axes, fit_logistic
from cotune.probe.readout import Probe
from cotune.prompt.prompt import Prompt
from cotune.refine import not_shown
from cotune.task.example import Example
from cotune.task.split import count_units, fold_units
from cotune.tune.window import StartHead

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PromptFit:
    """A prompt's cross-fitted probe.

    Attributes:
        prompt: the prompt.
        rows: labelled rows that it was fitted on, which the prompt does not show.
        places: ``[rows]`` their indices among all requested rows.
        found: layer, penalty and cross-fitted predictions.
    """

    prompt: Prompt
    rows: tuple[Example, ...]
    places: NDArray[np.int64]
    found: CrossFit

    @property
    def losses(self) -> Floats:
        """Log-loss of each row in nats."""
        return self.found.best.losses

    @property
    def mean(self) -> float:
        """Mean log-loss in nats."""
        return float(self.losses.mean())


class Fitting:
    """Fits the probes of a race's prompts on states of the base model, by workers if the run has any.

    A fit for ``screening`` only decides which prompts continue: it takes fewer layers and draws folds once.
    """

    def __init__(self, context: RunContext, embedding: Embedding) -> None:
        self._context, self._embedding = context, embedding
        self._pending = Pending[PendingFit](context.workers)

    def ahead(self, prompt: Prompt, rows: Sequence[Example], *, screening: bool = False) -> None:
        """Let workers fit a prompt's probe when they are idle; does nothing without workers."""
        embedding = self._embedding

        def request(workers: WorkerPool) -> PendingFit | None:
            if (stored := embedding.stored(prompt, BASE, rows, embedding.layers)) is None:
                return None
            places, task = task_of(self._context, prompt, rows, embedding.layers, screening=screening)
            return PendingFit(workers, task, stored.of(places.tolist()))

        self._pending.submit(prompt.id, request)

    def fit(self, prompt: Prompt, rows: Sequence[Example], *, screening: bool = False) -> PromptFit:
        """A prompt's cross-fitted probe.

        Raises:
            DivergedError: a state is not finite.
        """
        request = self._pending.pop(prompt.id)
        found = None if request is None else request.result()
        if found is not None:
            places = usable_places(prompt, rows)
            return PromptFit(prompt, tuple(rows[i] for i in places), places, found)
        states = self._embedding.states(prompt, BASE, rows, "race")
        return fit_prompt(self._context, prompt, rows, states, self._embedding.layers, screening=screening)

    def cancel_ahead(self) -> None:
        """Cancel the fits of :meth:`ahead` that were not used."""
        self._pending.cancel()


def fit_prompt(
    context: RunContext,
    prompt: Prompt,
    rows: Sequence[Example],
    states: NDArray[np.float16],
    layers: Sequence[int],
    *,
    screening: bool = False,
) -> PromptFit:
    """Cross-fit a prompt's probe on ``states`` ``[layers, states, width]`` of the rows that it does not show."""
    places, task = task_of(context, prompt, rows, layers, screening=screening)
    chosen = context.choosing.states_of(rows, places)
    return PromptFit(prompt, tuple(rows[i] for i in places), places, task.fit(context.model, states[:, chosen]))


def task_of(
    context: RunContext, prompt: Prompt, rows: Sequence[Example], layers: Sequence[int], *, screening: bool
) -> tuple[NDArray[np.int64], FitTask]:
    """Indices of the rows that a prompt's probe is fitted to, and the fitting task without their states."""
    places = usable_places(prompt, rows)
    chosen = tuple(rows[i] for i in places)
    groups, depth = fold_units(chosen), context.model.depth
    # Ridge regression may not choose the layer that few rows are tuned for.
    also = () if screening or len(rows) >= HEURISTICS.few_rows else (_closest_to_usual(layers, depth),)
    return places, FitTask(
        context.choosing.targets(chosen),
        len(context.choosing.labels),
        context.choosing.sizes,
        tuple(layers),
        None if groups is None else groups.tolist(),
        first_words(context, prompt) if layers[-1] == depth else None,
        HEURISTICS.early_layers if screening else LAYERS_KEPT,
        also,
        1 if screening else None,
        context.seed,
        context.choosing.owners(chosen),
        HEURISTICS.tag_strengths if context.choosing.reads_words else STRENGTHS,
    )


def usable_places(prompt: Prompt, rows: Sequence[Example]) -> NDArray[np.int64]:
    """Indices of the rows that a prompt does not show with their labels."""
    usable = {row.id for row in not_shown(prompt, rows)}
    return np.array([i for i, row in enumerate(rows) if row.id in usable], dtype=np.int64)


def can_fit(prompt: Prompt, rows: Sequence[Example]) -> bool:
    """Whether the rows that a prompt does not show with their labels have two labels and two groups, as a probe needs."""
    usable = not_shown(prompt, rows)
    return len({row.output for row in usable}) > 1 and count_units(usable) > 1


def difference(first: PromptFit, second: PromptFit) -> tuple[Floats, NDArray[np.str_] | None]:
    """Log-loss of ``first`` minus that of ``second`` on each row that both were fitted on, and the fold units of these rows."""
    _, mine, other = np.intersect1d(first.places, second.places, return_indices=True)
    return first.losses[mine] - second.losses[other], fold_units([first.rows[place] for place in mine.tolist()])


def tuned_layer(found: CrossFit, rows: Sequence[Example], layers: Sequence[int]) -> int:
    """The layer at which the window ends and tuned states are read.

    Few rows hardly tell layers apart. Of those at which the frozen probe is hardly worse than at its best, this is then the one
    closest to :attr:`~cotune.cycle.probe_search.heuristics.SearchHeuristics.tuned_depth`. With more rows it is the frozen
    probe's up to that depth, and halfway down to it above. Label words need the last layer.

    Args:
        found: the prompt's cross-fitted probe on frozen states.
        rows: the labelled rows that it was fitted on.
        layers: all layers with stored states, ascending; the last one is the model's depth.
    """
    depth = layers[-1]
    if found.best.word_scale:
        return found.layer
    if len(rows) >= HEURISTICS.few_rows:
        usual = HEURISTICS.tuned_depth * depth
        # Not measured for several fields.
        if found.sizes or found.layer <= usual:
            return found.layer
        return min(layers, key=lambda layer: abs(layer - (found.layer + usual) / 2))
    errors = HEURISTICS.layer_errors(fields=bool(found.sizes))
    near = as_good(found.by_layer, errors, groups=fold_units(rows))
    return _closest_to_usual(sorted({found.layer, *(one.layer for one in near if not one.word_scale)}), depth)


def _closest_to_usual(layers: Sequence[int], depth: int) -> int:
    return min(layers, key=lambda layer: abs(layer - HEURISTICS.tuned_depth * depth))


def first_words(context: RunContext, prompt: Prompt) -> tuple[int, ...] | None:
    """First token of each label word; None if there are too many labels, or two words begin with the same token."""
    labels = context.choosing.labels
    # Values of fields are not the words of an answer.
    if len(labels) > HEURISTICS.most_words or context.choosing.sizes:
        return None
    first = [completion[0] for completion in context.answering.render(prompt, context.train_sample[:1])[0].completions]
    return tuple(first) if len(set(first)) == len(labels) else None


def head_of(
    states: NDArray[np.float32] | NDArray[np.float16],
    truth: NDArray[np.int64],
    classes: int,
    strength: float,
    words: NDArray[np.float32] | None = None,
    sizes: Sequence[int] = (),
) -> StartHead:
    """A read-out that is fitted to all states ``[rows, width]``, with a regression for each of several fields.

    The logits of ``words``, weights ``[labels, width]``, are an offset of the fit and part of the result.
    """
    features, mean, spread = standardised(states)
    offsets = None if words is None else states.astype(np.float32) @ words.T
    axes, weight, bias = Axes(features, double=True), np.empty((classes, features.shape[1])), np.empty(classes)
    for places, own in alike(truth, sizes, classes):
        read, size = np.flatnonzero(own[0] >= 0), places[0].stop - places[0].start
        used, square = axes.of_rows(read)
        fitted = fit_logistic(used, own[:, read], size, strengths=[strength / square], offsets=offsets)
        for number, span in enumerate(places):
            weight[span], bias[span] = fitted.weight[number], fitted.bias[number]
    if words is not None:
        weight, bias = weight + words * spread, bias + words @ mean
    return StartHead(weight, bias, mean, spread)


def head_from(probe: Probe, states: NDArray[np.float16]) -> StartHead:
    """A probe as a head to continue tuning from, in the coordinates of the frozen ``states`` ``[rows, width]``."""
    _, mean, spread = standardised(states)
    weight = probe.weight.astype(np.float64)
    return StartHead(weight * spread, probe.bias + weight @ mean, mean, spread)
