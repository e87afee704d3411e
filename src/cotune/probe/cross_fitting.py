"""Cross-fitted probes: how well each layer's hidden states separate the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cotune.errors import InputError
from cotune.probe.fields import (
    MOST_LOGITS,
    alike,
    by_field,
    by_row,
    log_softmax_by_field,
    row_correct,
    row_losses,
    spans,
    strata_of,
)
from cotune.probe.folds import fold_numbers
from cotune.probe.logistic import Axes, fit_logistic

Floats = NDArray[np.float64]

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse penalties to try on standardised states; for states of width 576 the best one was never the first or the last."""
FOLDS = 5
"""Number of folds; fewer if there are fewer rows or groups."""
FEW_ROWS = 200
"""Number of rows below which folds are drawn three times, because the loss of one draw depends on which rows share a fold."""
REPEATS = 3
LAYERS_KEPT = 4
"""Layers that logistic regression is fitted on, chosen by the leave-one-out error of ridge regression."""
CROSS_TOLERANCE = 3e-3
"""Tolerance of the solver during cross-fitting, a third of the time of 1e-4. The cross-fitted log-loss is off by a thousandth
on most problems, and too low by a hundredth if the weakest penalty wins.
"""
_MANY_LOGITS = 20_000
"""Rows times labels from which one fold tries all penalties and the others only those near its best: half of the time on 347
and on 2,000 rows with 77 labels, with the same result. Smaller problems are solved at once, where a penalty more costs little.
"""
WORD_SCALES = (0.3, 1.0)
"""Factors of the label words' logits that are tried as an offset of the last layer's probe, if these logits are given."""
ADDED_ROWS = 2.0
"""Number of rows that are added when a temperature is fitted (docs/probe-measurements.md)."""
LEAST_SPREAD = 1e-6
ONE_ERROR = 1.0
"""Number of standard errors of the paired difference within which a lower layer is preferred (Breiman et al., 1984)."""


@dataclass(frozen=True, eq=False)
class LayerFit:
    """A layer's cross-fitted probe at its best penalty.

    Attributes:
        layer: number of the layer, from 1.
        strength: inverse of the penalty.
        losses: ``[rows]`` log-loss of each row in nats, averaged over repeats, and over fields if there are several.
        correct: ``[rows]`` share of repeats, and of fields, in which the likeliest label was right.
        log_probs: ``[rows, classes]`` of the first repeat; no row was predicted by weights that had seen it.
        word_scale: factor of the label words' logits that are added to the probe's; 0 without them.
    """

    layer: int
    strength: float
    losses: Floats
    correct: Floats
    log_probs: Floats
    word_scale: float = 0.0

    @property
    def log_loss(self) -> float:
        """Mean log-loss in nats."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of right labels."""
        return float(self.correct.mean())


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Result of :func:`cross_fit`.

    Attributes:
        best: the chosen layer's fit.
        by_layer: fits of all layers that logistic regression was fitted on, the lowest first.
        ridge: mean squared leave-one-out error of ridge regression on one-hot labels, by layer, for every layer.
        temperature: divisor of the logits, fitted to the cross-fitted logits of the chosen layer.
        sizes: number of classes of each field; empty with a single one.
    """

    best: LayerFit
    by_layer: tuple[LayerFit, ...]
    ridge: Mapping[int, float]
    temperature: float
    sizes: tuple[int, ...] = ()

    @property
    def layer(self) -> int:
        """The chosen layer."""
        return self.best.layer

    @property
    def log_probs(self) -> Floats:
        """``[rows, classes]`` cross-fitted log-probabilities of the chosen layer, after temperature."""
        return tempered(self.best.log_probs, self.temperature, self.sizes)


def cross_fit(
    states: NDArray[np.float32] | NDArray[np.float16],
    labels: Sequence[int] | NDArray[np.int64],
    *,
    classes: int | None = None,
    sizes: Sequence[int] = (),
    layers: Sequence[int] | None = None,
    groups: Sequence[object] | None = None,
    owners: NDArray[np.int64] | None = None,
    words: NDArray[np.float32] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    repeats: int | None = None,
    keep: int = LAYERS_KEPT,
    also: Sequence[int] = (),
    seed: int = 0,
) -> CrossFit:
    """Choose a layer and a penalty for a probe, and predict every row by a probe that has not seen it.

    Use it to find out how well hidden states separate labels, and at which layer. States are standardised by the mean and
    standard deviation of all rows, which uses no labels. Ridge regression preselects layers by its leave-one-out error;
    multinomial logistic regression then decides by cross-fitted log-loss. The lowest layer within a standard error of the best
    one is chosen.

    With several fields, such as the truth values of a JSON object, each field has a probe, and all share layer and penalty: the
    mean of their losses decides, of which few rows tell more than of each.

    The logits of label words are a linear map of the last layer's state. If given as ``words``, they are also tried as an
    offset of that layer's probe, which then only has to learn what they lack.

    Args:
        states: ``[layers, rows, width]``, or ``[rows, width]`` of a single layer.
        labels: ``[rows]`` numbers from 0; with several fields, ``[rows, fields]`` places among the classes of all fields.
        classes: number of labels; None takes the largest label plus one, or the sum of ``sizes``.
        sizes: number of classes of each of several fields; empty for a single one. Folds are not stratified with several.
        layers: the layers' numbers, increasing; None counts them from 1.
        groups: group of each row; rows of one group are always in the same fold. None treats rows as independent.
        owners: if several states are read of each row, such as those of its words, the number of each state's row. ``states``
            and ``labels`` then have an entry for each state, and so have log-probabilities; losses are means over a row's
            states. All of them are in one fold. A label of -1 says that a field is not read off a state.
        words: ``[rows, classes]`` logits of the label words at the last of the layers, optional.
        strengths: inverse penalties to choose from.
        repeats: number of random draws of the :data:`FOLDS` folds; None takes three below 200 rows, otherwise one.
        keep: number of layers that logistic regression is fitted on.
        also: numbers of layers that it is fitted on besides these.
        seed: seed of the folds.

    Raises:
        InputError: there are fewer than two rows, groups or labels, shapes do not fit, or a number is not finite.
    """
    stack = states[None] if states.ndim == 2 else states
    y = np.asarray(labels, dtype=np.int64)
    sizes = tuple(sizes)
    count = sum(sizes) or (int(y.max(initial=0)) + 1 if classes is None else classes)
    numbers = list(range(1, len(stack) + 1)) if layers is None else list(layers)
    strata = strata_of(y) if owners is None else np.zeros(int(owners.max(initial=-1)) + 1, dtype=np.int64)
    _check(stack, y, count, sizes, numbers, groups, words, len(strata), several=owners is not None)
    units = len(strata) if groups is None else len(set(map(str, groups)))
    repeats = (REPEATS if len(strata) < FEW_ROWS else 1) if repeats is None else repeats
    held = [fold_numbers(strata, min(FOLDS, units), groups=groups, seed=seed + 1000 * repeat) for repeat in range(repeats)]
    held = held if owners is None else [fold_of[owners] for fold_of in held]
    hot = np.zeros((len(y), count))
    for span, own in by_field(y, sizes, count):
        hot[own >= 0, span.start + own[own >= 0]] = 1
    ridge: dict[int, float] = {}
    chosen = list(numbers)
    # Computing the axes of a layer takes as long as its fits, so those of the leading layers are kept.
    axes_of: dict[int, Axes] = {}
    if len(numbers) > keep:
        chosen = []
        for number, layer in zip(numbers, stack, strict=True):
            axes_of[number] = Axes(standardised(layer)[0])
            ridge[number] = float(axes_of[number].ridge_loss(hot, strengths).min())
            chosen = sorted([*chosen, number], key=lambda n: (ridge[n], n))
            for worse in chosen[keep:]:
                if worse not in also:
                    del axes_of[worse]
            chosen = chosen[:keep]
        chosen = [*chosen, *(number for number in numbers if number in also and number not in chosen)]
    fits = []
    for number in sorted({*chosen, *([] if words is None else numbers[-1:])}):
        axes = axes_of.pop(number, None) or Axes(standardised(stack[numbers.index(number)])[0])
        if number in chosen:
            fits.append(_fit_layer(axes, number, y, count, held, strengths, sizes=sizes, owners=owners))
        if words is None or number != numbers[-1]:
            continue
        for scale in WORD_SCALES:
            offsets = (scale * words).astype(np.float32)
            fits.append(replace(_fit_layer(axes, numbers[-1], y, count, held, strengths, offsets), word_scale=scale))
    best = as_good(fits, groups=groups)[0]
    return CrossFit(best, tuple(fits), ridge, best_temperature(best.log_probs, y, sizes), sizes)


def standardised(
    states: NDArray[np.float32] | NDArray[np.float16],
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Standardise each column; returns the states, the means and the standard deviations."""
    wide = states.astype(np.float64)
    mean, spread = wide.mean(axis=0), wide.std(axis=0) + LEAST_SPREAD
    return ((wide - mean) / spread).astype(np.float32), mean, spread


def tempered(log_probs: Floats, temperature: float, sizes: Sequence[int] = ()) -> Floats:
    """Log-probabilities whose logits are divided by a temperature; of several fields if ``sizes`` are given."""
    return log_softmax_by_field(log_probs / temperature, sizes)


def best_temperature(log_probs: Floats, labels: NDArray[np.int64], sizes: Sequence[int] = ()) -> float:
    """The temperature, between 1/4 and 8, with the lowest log-loss on held-out rows and :data:`ADDED_ROWS` added ones.

    The added rows have the two likeliest labels of each row in equal parts. Without them, few rows that are all classified
    correctly would ask for probabilities close to 1 (Platt, 1999, smooths targets for the same reason).

    ``log_probs`` ``[rows, classes]`` are by weights that have not seen the rows. Several fields have one temperature.
    """
    from scipy.optimize import minimize_scalar

    two = [np.argsort(log_probs[:, span], axis=1)[:, -2:] + span.start for span in spans(sizes, log_probs.shape[1])]
    likeliest = np.concatenate(two, axis=1)

    def loss(power: float) -> float:
        table = tempered(log_probs, float(np.exp(power)), sizes)
        added = np.take_along_axis(table, likeliest, axis=1)
        return float(row_losses(table, labels).sum() - ADDED_ROWS * added.mean())

    optimum = minimize_scalar(loss, bounds=(-np.log(4), np.log(8)), method="bounded")
    return float(np.exp(optimum.x))


def _fit_layer(
    axes: Axes,
    number: int,
    y: NDArray[np.int64],
    classes: int,
    held: Sequence[NDArray[np.int64]],
    strengths: Sequence[float],
    offsets: NDArray[np.float32] | None = None,
    sizes: Sequence[int] = (),
    owners: NDArray[np.int64] | None = None,
) -> LayerFit:
    log_probs = np.zeros((len(held), len(strengths), len(y), classes))
    # Not a number until the row is predicted with the penalty.
    losses = np.full(log_probs.shape[:3], np.nan)
    left_out = [(repeat, fold_of == fold) for repeat, fold_of in enumerate(held) for fold in range(int(fold_of.max()) + 1)]

    def predict(folds: Sequence[tuple[int, NDArray[np.bool_]]], places: Sequence[int]) -> None:
        """Predict the rows of some folds with the penalties at some places."""
        # Small problems take as long as their calls do, so the folds of all draws, and fields, are fitted together.
        at_once, some = max(1, MOST_LOGITS // (len(places) * len(y) * classes)), [strengths[place] for place in places]
        for first in range(0, len(folds), at_once):
            part = folds[first : first + at_once]
            masks = np.stack([~held_out for _, held_out in part])
            for own_places, own in alike(y, sizes, classes, len(part) * len(some)):
                read = np.flatnonzero(own[0] >= 0)
                used, square = axes.of_rows(read)
                fitted = fit_logistic(
                    used,
                    own[:, read],
                    own_places[0].stop - own_places[0].start,
                    strengths=[strength / square for strength in some],
                    masks=masks[:, read],
                    offsets=offsets,
                    tolerance=CROSS_TOLERANCE,
                )
                for number, (span, (repeat, held_out)) in enumerate(product(own_places, part)):
                    inside = np.flatnonzero(held_out[read])
                    out = read[inside]
                    logits = fitted.logits_within(inside, slice(number * len(some), (number + 1) * len(some)))
                    given = logits if offsets is None else logits + offsets[out]
                    log_probs[repeat, :, :, span][np.ix_(np.asarray(places), out)] = log_softmax_by_field(given, ())
            for repeat, held_out in part:
                out = np.flatnonzero(held_out)
                for place in places:
                    losses[repeat, place, out] = row_losses(log_probs[repeat, place, out], y[out])

    def best_of(places: Sequence[int]) -> int:
        """The place with the lowest mean loss on the rows predicted so far."""
        return places[int(np.argmin(np.nanmean(losses[:, places], axis=(0, 2))))]

    tried = list(range(len(strengths)))
    if len(y) * classes < _MANY_LOGITS:
        predict(left_out, tried)
    else:
        predict(left_out[:1], tried)
        near = best_of(tried)
        tried = [place for place in tried if abs(place - near) <= 1]
        predict(left_out[1:], tried)
        # All folds together may prefer a penalty beyond these.
        while (beyond := _beyond(tried, best_of(tried), len(strengths))) is not None:
            predict(left_out[1:], [beyond])
            tried = sorted([*tried, beyond])
    best = best_of(tried)
    correct = np.mean([row_correct(table, y, sizes) for table in log_probs[:, best]], axis=0)
    by_state = losses[:, best].mean(axis=0)
    return LayerFit(number, float(strengths[best]), by_row(by_state, owners), by_row(correct, owners), log_probs[0, best])


def _beyond(tried: Sequence[int], best: int, count: int) -> int | None:
    """The next place to try if the best one is the first or the last of those tried; None if there is none beyond it."""
    if best == tried[0] and best > 0:
        return best - 1
    return best + 1 if best == tried[-1] and best < count - 1 else None


def as_good(
    fits: Sequence[LayerFit], errors: float = ONE_ERROR, *, groups: Sequence[object] | NDArray[np.str_] | None = None
) -> list[LayerFit]:
    """The fits whose mean loss is within standard errors of the paired difference to the best, in the given order.

    Rows of a group, ``groups`` ``[rows]``, count as one; None treats rows as independent.
    """
    best = min(fits, key=lambda fit: fit.log_loss)
    rows = len(best.losses)
    unit = np.arange(rows) if groups is None else np.unique([str(group) for group in groups], return_inverse=True)[1]

    def near(fit: LayerFit) -> bool:
        gap = fit.losses - best.losses
        sums = np.bincount(unit, weights=gap - gap.mean())
        return bool(gap.mean() <= errors * np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)) / rows)

    return [fit for fit in fits if near(fit)]


def _check(
    stack: NDArray[np.float32] | NDArray[np.float16],
    y: NDArray[np.int64],
    classes: int,
    sizes: Sequence[int],
    numbers: Sequence[int],
    groups: Sequence[object] | None,
    words: NDArray[np.float32] | None,
    rows: int,
    *,
    several: bool,
) -> None:
    if stack.ndim != 3 or stack.shape[1] != len(y) or len(numbers) != len(stack):
        raise InputError(
            f"states of shape {stack.shape} do not fit {len(y)} labels and {len(numbers)} layers",
            where="states",
            hint="Give [layers, rows, width] and one label per row.",
        )
    if groups is not None and len(groups) != rows:
        raise InputError(f"{len(groups)} groups do not fit {rows} rows", where="groups", hint="Give one group per row.")
    if words is not None and words.shape != (len(y), classes):
        raise InputError(
            f"logits of words of shape {words.shape} do not fit {len(y)} rows and {classes} labels",
            where="words",
            hint="Give [rows, classes].",
        )
    if sizes and (y.ndim != 2 or y.shape[1] != len(sizes)):
        raise InputError(
            f"classes of shape {y.shape} do not fit {len(sizes)} fields", where="labels", hint="Give [rows, fields]."
        )
    differ = len(y) > 1 and len(np.unique(y, axis=0)) > 1
    if not differ or rows < 2 or (groups is not None and len(set(map(str, groups))) < 2):
        raise InputError("a probe needs at least two rows, two labels and two groups", where="labels", hint="Label more rows.")
    least = -1 if several else 0
    if any(own.min() < least or own.max() >= span.stop - span.start for span, own in by_field(y, sizes, classes)):
        raise InputError(f"labels must be numbers from 0 to {classes - 1}", where="labels", hint="Number the labels from 0.")
    if not np.isfinite(stack).all():
        raise InputError("a hidden state is not finite", where="states", hint="Use engine.dtype=float32.")
    if words is not None and not np.isfinite(words).all():
        raise InputError("a word's logit is not finite", where="words", hint="Give finite numbers.")
