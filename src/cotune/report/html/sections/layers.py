"""Probes by layer: held-out score and log-loss, on frozen and tuned weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cotune.errors import counted
from cotune.evaluate.words import capitalised
from cotune.plain import count_of, decimal, ends_of, fields, items, number
from cotune.report.html.markup import data_text, figure, legend, percent, plain_table
from cotune.report.html.plot import Plot, Point, nice_ticks, padded, percent_ticks, whole_ticks
from cotune.report.html.sections.prompts import Prompts
from cotune.report.html.sections.record import RunRecord, whole, window_of, window_text

_MOST_PROMPTS = 4
_HEIGHT = 240


@dataclass(frozen=True)
class HeldOutPoint:
    """Score of a prompt's probe on held-out rows, with frozen weights (no steps) or tuned ones."""

    layer: int
    accuracy: float
    log_loss: float
    rows: int
    steps: int
    window: tuple[int, int] | None = None


@dataclass
class LayerCurve:
    """The probes of a prompt by layer.

    Attributes:
        rows: number of labelled rows in the last race of the prompt.
        probes: layer to cross-fitted accuracy and log-loss, for the layers with a logistic regression.
        ridge: layer to leave-one-out squared error of ridge regression, for every embedded layer.
        frozen: result of the frozen probe on the held-out rows that tuned weights are scored on; None if it has none.
    """

    prompt_id: str
    rows: int = 0
    chosen: int | None = None
    probes: dict[int, tuple[float, float]] = field(default_factory=dict)
    ridge: dict[int, float] = field(default_factory=dict)
    frozen: HeldOutPoint | None = None
    tuned: list[HeldOutPoint] = field(default_factory=list)


def read_curves(record: RunRecord, prompts: Prompts) -> list[LayerCurve]:
    """The prompts with recorded layers: the winner, the seed prompt, then the others with the last race first."""
    curves: dict[str, LayerCurve] = {}
    for race in record.values("race"):
        rows, layers, ridge = (fields(race.get(name)) for name in ("rows", "layers", "ridge"))
        for prompt_id, by_layer in fields(race.get("by_layer")).items():
            curve = LayerCurve(str(prompt_id), count_of(rows.get(prompt_id)), whole(layers.get(prompt_id)))
            for layer, pair in fields(by_layer).items():
                at, probe = whole(layer), ends_of(pair)
                curve.probes |= {} if at is None or probe is None else {at: probe}
            for layer, error in fields(ridge.get(prompt_id)).items():
                at, squared = whole(layer), number(error)
                curve.ridge |= {} if at is None or squared is None else {at: squared}
            # Later races overwrite earlier ones.
            curves.pop(curve.prompt_id, None)
            if curve.probes:
                curves[curve.prompt_id] = curve
    windows = {str(value.get("adapter_id")): window_of(value) for value in record.values("train")}
    for value in record.values("tuned"):
        curve_of, point = curves.get(str(value.get("prompt_id"))), _point(value, windows.get(str(value.get("adapter_id"))))
        if curve_of is not None and point is not None and point.steps:
            curve_of.tuned.append(point)
    for prompt_id, event in record.frozen_held_out.items():
        if prompt_id in curves:
            curves[prompt_id].frozen = _point(fields(event.get("value")))
    latest = list(reversed(curves.values()))
    order = {"winner": 0, "seed": 1}
    return sorted(latest, key=lambda curve: order.get(prompts.tag(curve.prompt_id), 2))[:_MOST_PROMPTS]


def layers_section(record: RunRecord, prompts: Prompts) -> str:
    """Plots over the layers; empty if no probe was fitted."""
    curves = read_curves(record, prompts)
    if not curves:
        return ""
    embedded = [whole(layer) or 0 for value in record.values("embed") for layer in items(value.get("layers"))]
    depth = max([*embedded, *(layer for curve in curves for layer in (*curve.probes, *curve.ridge))])
    kinds = prompts.kinds(curve.prompt_id for curve in curves)
    scores = _probes(curves, kinds, prompts, record, depth, place=0)
    loss = _probes(curves, kinds, prompts, record, depth, place=1)
    rows = max(curve.rows for curve in curves)
    lines = [(kind, prompts.named(curve.prompt_id, 90), _read_from(curve)) for curve, kind in zip(curves, kinds, strict=True)]
    note = (
        "Hollow: a probe (multinomial logistic regression) on the frozen model’s state after that layer, cross-fitted, so that "
        "no row is predicted by a fit that has seen it. Filled: after tuning, on rows held out from it; a line joins it to the "
        "frozen probe (small dot) on the same rows. The leading prompt’s tuned layers are shaded. The layer that is read "
        "(larger dot) is chosen by log-loss, the lower one where two are within a standard error; layers above it need not run."
        + (f" Frozen probes are drawn without {without}, but for the small dots." if (without := race_lacks(record)) else "")
    )
    title = f"{_named(record)} by layer, {counted(rows, 'labelled row')}"
    return (
        f'<div class="pair">{figure(title, scores)}'
        f"{figure('Log-loss by layer', loss)}</div>"
        f'{legend(lines)}<p class="intro under">{note}</p>'
        f"{_ridge(curves, kinds, prompts, depth)}{_numbers(curves, prompts, _named(record))}"
    )


def race_lacks(record: RunRecord) -> str:
    """What probes have after the race that those in the race lack, in words; empty if there is nothing."""
    chain = "the chain of tags" if record.value("chain").get("used") is True else ""
    rows = count_of(record.value("further").get("rows"))
    return " and ".join(filter(None, (chain, f"the {counted(rows, 'row')} that prompts were not raced on" if rows else "")))


def _named(record: RunRecord) -> str:
    return capitalised(record.dev_measure.title)


def _probes(curves: list[LayerCurve], kinds: list[str], prompts: Prompts, record: RunRecord, depth: int, *, place: int) -> str:
    """Score (``place`` 0) or log-loss (1) by layer."""
    name = (_named(record), "Log-loss")[place]
    values = [pair[place] for curve in curves for pair in curve.probes.values()]
    values += [(point.accuracy, point.log_loss)[place] for curve in curves if curve.tuned for point in _held_out(curve)]
    plot = Plot((0, depth), padded(values, share=0.12, least=0.05), height=_HEIGHT, label=f"{name} of probes by layer")
    _band(plot, curves)
    ticks = percent_ticks(plot.y_range) if place == 0 else [(t, f"{t:g}") for t in nice_ticks(*plot.y_range, 5)]
    plot.axes(whole_ticks(depth, 6), ticks)
    measure = record.dev_measure
    # Draw the leading prompt last, on top of the others.
    for curve, kind in reversed(list(zip(curves, kinds, strict=True))):
        shown = prompts.named(curve.prompt_id)
        points: list[Point] = [(layer, pair[place]) for layer, pair in sorted(curve.probes.items())]
        plot.path(points, f"line {kind}", shown)
        for layer, (score, loss) in sorted(curve.probes.items()):
            tip = f"{shown}\nfrozen, layer {layer}: {measure.text(score, curve.rows)}\nlog-loss {decimal(loss)}"
            tip += "\nthe layer that is read" if layer == curve.chosen else ""
            plot.dot((layer, (score, loss)[place]), f"dot hollow {kind}", radius=6 if layer == curve.chosen else 4.5, tip=tip)
        for point in _held_out(curve) if curve.tuned else ():
            height = (point.accuracy, point.log_loss)[place]
            frozen = curve.frozen
            if point.steps and frozen is not None and (frozen.layer, frozen.rows) == (point.layer, point.rows):
                before = (frozen.accuracy, frozen.log_loss)[place]
                plot.line((point.layer, before), (point.layer, height), "link")
            tip = f"{shown}\n{_weights(point)}{window_text(point.window)}, layer {point.layer}: "
            tip += f"{measure.text(point.accuracy, point.rows)}\nlog-loss {decimal(point.log_loss)}"
            look, radius = (f"dot {kind}", 6) if point.steps else (f"dot hollow {kind}", 3)
            plot.dot((point.layer, height), look, radius=radius, tip=tip)
    axis = "percent" if place == 0 else "nats a row, less is better"
    return plot.render(x_title="layer", y_title=axis)


def _ridge(curves: list[LayerCurve], kinds: list[str], prompts: Prompts, depth: int) -> str:
    """The ridge regression's error on every embedded layer."""
    drawn = [(curve, kind) for curve, kind in zip(curves, kinds, strict=True) if len(curve.ridge) > 1]
    if not drawn:
        return ""
    errors = padded([error for curve, _ in drawn for error in curve.ridge.values()], share=0.12)
    plot = Plot((0, depth), errors, height=200, label="Error of ridge regression by layer")
    _band(plot, [curve for curve, _ in drawn])
    plot.axes(whole_ticks(depth, 6), [(t, f"{t:g}") for t in nice_ticks(*plot.y_range, 4)])
    for curve, kind in reversed(drawn):
        shown = prompts.named(curve.prompt_id)
        plot.path(sorted(curve.ridge.items()), f"line {kind}", shown)
        for layer, error in sorted(curve.ridge.items()):
            tip = f"{shown}\nlayer {layer}: squared error {decimal(error)}"
            plot.dot((layer, error), f"dot hollow {kind}", radius=4, tip=tip)
    return figure(
        "Every layer, by ridge regression",
        plot.render(x_title="layer", y_title="leave-one-out squared error, less is better"),
        "What chooses the layers above: ridge regression on the labels has its leave-one-out error in closed form, so every "
        "layer can be tried. It ranks layers; its errors cannot be compared with log-losses.",
    )


def _numbers(curves: list[LayerCurve], prompts: Prompts, named: str) -> str:
    """The points of the plots as a table; ``named`` is the name of the score, as trusted markup."""
    lines = ""
    for curve in curves:
        points = [(layer, "frozen", *pair) for layer, pair in sorted(curve.probes.items())]
        points += [(point.layer, _weights(point), point.accuracy, point.log_loss) for point in _held_out(curve)]
        name = f"<th scope=row>{data_text(prompts.named(curve.prompt_id, 60))}</th>"
        for layer, weights, score, loss in points:
            lines += f"<tr>{name}<td>{layer}</td><td>{weights}</td><td>{percent(score)}</td><td>{decimal(loss)}</td></tr>"
    table = plain_table(("prompt", "layer", "weights", f"{named}, percent", "log-loss"), lines)
    return f"<details class=reading><summary>The numbers</summary>{table}</details>"


def _band(plot: Plot, curves: list[LayerCurve]) -> None:
    """The window of layers that was tuned for the leading prompt."""
    window = next((point.window for curve in curves for point in reversed(curve.tuned) if point.window), None)
    if window is None:
        return
    low, high = (float(plot.x(edge).rstrip("%")) for edge in window)
    tip = f"layers {window[0] + 1} to {window[1]} are tuned"
    plot.raw(f'<rect class="band" x="{low:.2f}%" y="0" width="{high - low:.2f}%" height="100%" data-tip="{tip}"/>')


def _read_from(curve: LayerCurve) -> str:
    read = [] if curve.chosen is None else [f"read after layer {curve.chosen}"]
    window = next((point.window for point in reversed(curve.tuned) if point.window), None)
    read += [] if window is None else [f"tuned{window_text(window)}"]
    return f'<span class="quiet">, {", ".join(read)}</span>' if read else ""


def _point(value: Mapping[str, Any], window: tuple[int, int] | None = None) -> HeldOutPoint | None:
    """A ``tuned`` event's score; None if it is incomplete."""
    layer, score, loss = whole(value.get("layer")), number(value.get("score")), number(value.get("log_loss"))
    if layer is None or score is None or loss is None:
        return None
    rows, steps = (count_of(value.get(name)) for name in ("rows", "steps"))
    return HeldOutPoint(layer, score, loss, rows, steps, window)


def _held_out(curve: LayerCurve) -> list[HeldOutPoint]:
    """The points on held-out rows: the frozen probe, then the tuned weights."""
    return ([] if curve.frozen is None else [curve.frozen]) + curve.tuned


def _weights(point: HeldOutPoint) -> str:
    return f"tuned {counted(point.steps, 'step')}" if point.steps else "frozen, held-out rows"
