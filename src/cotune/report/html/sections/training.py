"""Training curves: loss and dev by step, best on dev by tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cotune.errors import counted
from cotune.plain import amount, count_of, fields, items, number
from cotune.report.html.markup import data_text, figure, legend
from cotune.report.html.plot import Plot, Point, nice_ticks, padded, whole_ticks
from cotune.report.html.sections.prompts import Prompts
from cotune.report.html.sections.record import RunRecord, window_of, window_text

_MOST_POINTS = 600
_SMOOTHED = 5
_SPENT = {"train": "new_tokens", "score": "tokens", "write": "tokens"}


@dataclass(frozen=True)
class Look:
    """A measurement on dev after optimizer steps; ``decays_from`` is where the learning rate began to decay, if it had."""

    steps: int
    level: float
    rows: int
    log_loss: float | None
    decays_from: int | None = None


@dataclass
class Trial:
    """The training of a prompt from given weights.

    Attributes:
        start: optimizer steps of the initial weights.
        losses: training loss of each step.
        steady: number of these steps at the full learning rate.
        decays_from: step at which the learning rate began to decay; None if it did not.
        failed: the reason if it diverged.
        window: lower and upper edge of the tuned window of layers; None if all layers were tuned.
        rows: number of training rows; 0 if not recorded.
    """

    prompt_id: str
    start: int = 0
    losses: list[float] = field(default_factory=list)
    steady: int = 0
    decays_from: int | None = None
    looks: list[Look] = field(default_factory=list)
    failed: str = ""
    window: tuple[int, int] | None = None
    rows: int = 0


def read_trials(record: RunRecord) -> list[Trial]:
    """Join the training events of a journal into trials: events whose losses begin alike belong to one trial."""
    trials: list[Trial] = []
    by_adapter: dict[str, tuple[Trial, int, int | None]] = {}
    for event in record.events:
        value = fields(event.get("value"))
        if event.get("kind") == "train":
            losses = [v for v in map(number, items(value.get("losses"))) if v is not None]
            prompt_id = str(value.get("prompt_id"))
            trial = next((t for t in trials if t.prompt_id == prompt_id and t.losses[:1] == losses[:1]), None)
            if trial is None:
                trial = Trial(prompt_id)
                trials.append(trial)
            if value.get("decayed"):
                trial.losses, trial.decays_from = losses, trial.steady
            elif len(losses) >= trial.steady:
                trial.losses, trial.steady, trial.decays_from = losses, len(losses), None
            trial.failed = str(value.get("failed") or "")
            trial.window = window_of(value)
            trial.rows = count_of(value.get("rows"))
            falls = trial.steady if value.get("decayed") else None
            by_adapter[str(value.get("adapter_id"))] = (trial, count_of(value.get("steps")), falls)
        elif event.get("kind") == "tuned" and (joined := by_adapter.get(str(value.get("adapter_id")))):
            trial, own_steps, falls = joined
            steps, level = count_of(value.get("steps")), record.dev_measure.of(value)
            trial.start = max(0, steps - own_steps)
            if level is not None:
                decays_from = None if falls is None else trial.start + falls
                rows = count_of(value.get("rows"))
                trial.looks.append(Look(steps, level, rows, number(value.get("log_loss")), decays_from))
    return trials


def training_section(record: RunRecord, prompts: Prompts) -> str:
    """Loss and dev by step, with a line for each tuned prompt."""
    trials = [t for t in read_trials(record) if t.losses]
    if not trials:
        return f"<p class=empty>Nothing was tuned{'' if record.finished else ' yet'}.</p>"
    kinds = prompts.kinds(trial.prompt_id for trial in trials)
    most = max(t.start + len(t.losses) for t in trials)
    ticks = whole_ticks(most, 5)
    drawn = sorted(zip(trials, kinds, strict=True), key=lambda pair: pair[1] in ("winner", "seed"))
    smooth = [v for trial in trials for v in _smooth(trial.losses)]
    loss = Plot((0, most), padded([*smooth, 0.0], share=0.04), height=220, label="Loss by step")
    loss.axes(ticks, [(t, f"{t:g}") for t in nice_ticks(*loss.y_range, 4) if t >= 0])
    for trial, kind in drawn:
        points = [(trial.start + i + 1, v) for i, v in enumerate(_smooth(trial.losses))]
        loss.path(_thinned(points), f"line {kind}", _trial_text(trial, prompts))
    figures = figure(
        "Training loss by step",
        loss.render(x_title="optimizer steps", y_title="loss in nats, running mean of five steps"),
        "Each line is a separate tuning: one for each split of the labelled rows, and the last ones on all of them."
        if record.by_probe
        else "",
    )
    # A window is tuned without measurements in between, so there is no curve by step.
    if not record.by_probe:
        figures = f'<div class="pair">{figures}{_dev_by_step(record, prompts, drawn, most)}</div>'
    lines = [(kind, _name(trial, prompts, 70), _ending(trial)) for trial, kind in zip(trials, kinds, strict=True)]
    return figures + legend(lines)


def _dev_by_step(record: RunRecord, prompts: Prompts, drawn: list[tuple[Trial, str]], most: int) -> str:
    measure = record.dev_measure
    levels = [look.level for trial, _ in drawn for look in trial.looks]
    if not levels:
        return ""
    plot = Plot((0, most), padded(levels, share=0.12, least=0.05), height=220, label=f"Dev {measure.name} by step")
    plot.axes(whole_ticks(most, 5), [(t, measure.tick(t)) for t in nice_ticks(*plot.y_range, 4)])
    for trial, kind in drawn:
        for line in dev_lines(trial):
            plot.path(line, f"line {kind}", _trial_text(trial, prompts))
        for look in trial.looks:
            tip = f"{_name(trial, prompts)}\n{counted(look.steps, 'step')}: {measure.text(look.level, look.rows)}"
            tip += measure.other(look.log_loss)
            if look.decays_from is not None:
                tip += f"\nlearning rate fell from step {look.decays_from}"
            plot.dot((look.steps, look.level), f"dot {kind}", radius=4.5, tip=tip)
    rows = max(look.rows for trial, _ in drawn for look in trial.looks)
    note = measure.of_highest("of these scores", max(levels, key=measure.rank), rows)
    return figure(f"Dev {measure.title} by step", plot.render(x_title="optimizer steps", y_title=measure.axis), note)


def dev_lines(trial: Trial) -> list[list[Point]]:
    """A trial's curve on dev: one line at the full learning rate, and a branch for each decay.

    Training continues from the weights before the decay, so one line through all measurements would run backwards.
    """
    steady = sorted((look.steps, look.level) for look in trial.looks if look.decays_from is None)
    lines: list[list[Point]] = [list(steady)]
    for look in trial.looks:
        if look.decays_from is not None:
            before = [point for point in steady if point[0] <= look.decays_from]
            lines.append([*before[-1:], (look.steps, look.level)])
    return [line for line in lines if len(line) > 1]


def _name(trial: Trial, prompts: Prompts, limit: int = 140) -> str:
    since = f" (from step {trial.start} on)" if trial.start else ""
    return prompts.named(trial.prompt_id, limit - len(since)) + since


def _trial_text(trial: Trial, prompts: Prompts) -> str:
    decay = f"\nlearning rate falls from step {trial.start + trial.decays_from}" if trial.decays_from else ""
    return f"{_name(trial, prompts)}{decay}"


def _ending(trial: Trial) -> str:
    steps = f", {counted(len(trial.losses), 'step')}"
    if trial.window is not None:
        steps += f"{window_text(trial.window)} on {counted(trial.rows, 'row')}"
    return f'<span class="quiet">{steps}</span>' + (f' <b class="down">{data_text(trial.failed)}</b>' if trial.failed else "")


def _smooth(losses: list[float]) -> list[float]:
    return [sum(part) / len(part) for i in range(len(losses)) for part in (losses[max(0, i - _SMOOTHED + 1) : i + 1],)]


def _thinned(points: Sequence[Point]) -> list[Point]:
    stride = -(-len(points) // _MOST_POINTS)
    return list(points) if stride <= 1 else [*points[::stride], points[-1]]


def search_section(record: RunRecord, prompts: Prompts) -> str:
    """The best on dev by tokens spent."""
    measure = record.dev_measure
    spent = 0.0
    dots: list[tuple[Point, str, str, str]] = []
    tuned: list[tuple[float, int]] = []
    climb: list[Point] = []
    for event in record.events:
        kind, value = event.get("kind"), fields(event.get("value"))
        spent += number(value.get(_SPENT.get(str(kind), ""))) or 0.0
        if kind == "open_test":
            break
        candidate = fields(value.get("best")) if kind == "race" else value if kind == "tuned" else {}
        level, prompt_id = measure.of(candidate), str(candidate.get("prompt_id"))
        if level is None:
            continue
        rows = count_of(fields(value.get("rows")).get(prompt_id) if kind == "race" else value.get("rows"))
        what = f"tuned {counted(value.get('steps'), 'step')}"
        if kind == "race":
            # Races use a part of dev only, so they do not count as the best.
            what = f"race of cycle {value.get('cycle')}: best of the pool"
        else:
            if not tuned or measure.rank(level) > max(measure.rank(other) for other, _ in tuned):
                climb += [*([(spent, climb[-1][1])] if climb else []), (spent, level)]
            tuned.append((level, rows))
        facts = prompts.by_id.get(prompt_id)
        tip = f"{what}, {measure.text(level, rows)}\n{facts.name if facts else prompt_id}\nafter {amount(spent)} tokens"
        dots.append(((spent, level), f"dot {'raced' if kind == 'race' else 'tuned'}", tip, prompt_id if facts else ""))
    if not dots:
        return "<p class=empty>Nothing was measured on dev yet.</p>"
    levels = padded((place[1] for place, *_ in dots), share=0.15, least=0.05)
    plot = Plot((0, spent * 1.02 or 1), levels, height=260, label=f"Best dev {measure.name} by tokens")
    tokens = [(t, amount(t)) for t in nice_ticks(0, spent or 1, 4)]
    plot.axes(tokens, [(t, measure.tick(t)) for t in nice_ticks(*levels, 4)])
    plot.path([*climb, *((spent, level) for _, level in climb[-1:])], "line winner")
    for place, kind, tip, prompt_id in dots:
        plot.dot(place, kind, tip=tip, prompt=prompt_id)
    top = max(tuned, key=lambda one: (measure.rank(one[0]), one[1]), default=None)
    note = measure.of_highest("filled dot", *top) if top else measure.remark
    return figure(
        f"Best dev {measure.name} by tokens spent",
        plot.render(x_title="tokens scored and trained", y_title=measure.axis),
        "Line: best of what was measured on all dev rows. Filled: tuned. Hollow: leader of a race, on the rows that it saw."
        + (f" {note}" if note else ""),
    )
