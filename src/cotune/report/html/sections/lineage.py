"""Family tree and map of the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from cotune.errors import counted
from cotune.plain import count_of, ends_of, fields, items, number
from cotune.report.html.markup import chip, data_text, esc, figure, percent
from cotune.report.html.measure import DevMeasure
from cotune.report.html.plot import Plot, Point, nice_ticks, padded, place_in, scale
from cotune.report.html.sections.layers import race_lacks
from cotune.report.html.sections.prompts import PromptFacts, Prompts, Score, read_prompt
from cotune.report.html.sections.record import RunRecord

_DEEPEST = 6


def lineage_section(record: RunRecord, prompts: Prompts) -> str:
    """Every prompt under its parent, with its measure on dev before and after tuning on a common scale."""
    if not prompts.by_id:
        return "<p class=empty>No prompts were proposed yet.</p>"
    measure = record.dev_measure
    every = [s.level for facts in prompts.by_id.values() for s in (*facts.raced, *facts.tuned)]
    span = padded(every, least=0.05)
    ticks = [(t, measure.tick(t)) for t in nice_ticks(*span, 5)]
    rows = "".join(_row(prompts, measure, span, prompt_id, depth) for prompt_id, depth in _tree(prompts))
    axis = f'<div class="branch axis"><span class="axis-title">{measure.scale}</span>{scale(span, ticks)}<span></span></div>'
    lacks = f", without {without} unless it was tuned" if (without := race_lacks(record)) else ""
    probe = f"of the frozen probe{lacks}; cross-fitted, or on the rows held out from a tuning"
    before = probe if record.by_probe else "in the race, before tuning in this cycle"
    return figure(
        "Who came from whom",
        f'<div class="tree">{axis}<ol>{rows}</ol></div>',
        f"Each prompt is listed below the one that it was made from. Hollow dot: {measure.name} {before}. Filled dots: after "
        f"tuning, joined in the order of steps. {measure.levels} Open a prompt for its text and what changed.",
    )


def _tree(prompts: Prompts) -> Iterator[tuple[str, int]]:
    """Prompt ids with their depth in the tree, each under its first known parent."""
    by_id = prompts.by_id
    children: dict[str, list[str]] = {}
    roots: list[str] = []
    for prompt_id, facts in by_id.items():
        parent = next((p for p in facts.parents if p in by_id and p != prompt_id), None)
        (roots if parent is None else children.setdefault(parent, [])).append(prompt_id)
    seen: set[str] = set()
    # Only a damaged journal has cycles; their prompts have no root and come last.
    for start in (*roots, *by_id):
        stack = [(start, 0)]
        while stack:
            prompt_id, depth = stack.pop()
            if prompt_id in seen:
                continue
            seen.add(prompt_id)
            yield prompt_id, depth
            stack += [(child, depth + 1) for child in reversed(children.get(prompt_id, []))]


def _row(prompts: Prompts, measure: DevMeasure, span: Point, prompt_id: str, depth: int) -> str:
    facts = prompts.by_id[prompt_id]
    tag = prompts.tag(prompt_id)
    chips = chip(tag, tag) if tag else ""
    chips += chip(f"cycle {facts.cycle}") + (chip(facts.origin) if facts.origin and tag != "seed" else "")
    chips += chip(f"layer {facts.layer}") if facts.layer is not None else ""
    chips += chip("dropped early", "gone") if facts.dropped and not facts.tuned else ""
    best = facts.best(measure)
    unit = f" <span class=unit>{measure.unit}</span><br>" if measure.unit else ""
    number_text = f"<b>{measure.shown(best.level)}</b>{unit}" if best else "–"
    detail = (counted(best.steps, "step") if best.steps else counted(best.rows, "row")) if best else ""
    written = f"<br><span>score {percent(best.score)}%</span>" if best and measure.beside(best.score, best.rows) else ""
    return (
        f'<li><button type="button" class="branch d{min(depth, _DEEPEST)} {tag}" data-prompt="{esc(prompt_id)}">'
        f'<span class="what"><span class="name">{data_text(facts.name)}</span><span class="chips">{chips}</span></span>'
        f"{_scores(facts, measure, span)}"
        f'<span class="number">{number_text} <span>{detail}</span>{written}</span></button></li>'
    )


def _scores(facts: PromptFacts, measure: DevMeasure, span: Point) -> str:
    def at(score: Score) -> str:
        return f"{place_in(span, score.level):.2f}%"

    parts = []
    chain = [*facts.raced[-1:], *facts.tuned] if facts.tuned else facts.races[-1:]
    for before, after in pairwise(chain):
        parts.append(f'<line class="link" x1="{at(before)}" x2="{at(after)}" y1="50%" y2="50%"/>')
    for place, score in enumerate(chain):
        kind = "tuned" if score.steps or score.stage == "previous" else "base"
        kind = f"mark lineage {kind}{' last' if place == len(chain) - 1 else ''}"
        what = f"tuned {counted(score.steps, 'step')}" if score.steps else f"race of cycle {score.cycle}"
        what = {"frozen": "frozen probe", "previous": "the old bundle’s weights"}.get(score.stage, what)
        beside = measure.beside(score.score, score.rows)
        tip = f"{what}: {measure.text(score.level, score.rows)}" + (f"\n{beside}" if beside else "")
        tip += f"\nadapter {score.adapter[:12]}"
        parts.append(f'<circle class="{kind}" cx="{at(score)}" cy="50%" r="5" data-tip="{esc(tip)}"/>')
    return f'<svg class="strip" width="100%" height="24" aria-hidden="true">{"".join(parts)}</svg>'


def map_section(record: RunRecord, prompts: Prompts) -> str:
    """The prompts of each pool as points; near ones have similar hidden states."""
    measure = record.dev_measure
    races = {count_of(v.get("cycle")): v for v in record.values("race")}
    figures: list[str] = []
    options = ""
    for pool in record.values("pool"):
        cycle = int(number(pool.get("cycle")) or 1)
        race, points = races.get(cycle, {}), _points(pool, prompts)
        if len(points) < 2:
            continue
        levels = measure.of_race(race)
        rows = {i: count_of(v) for i, v in fields(race.get("rows")).items()}
        gone = set(map(str, items(race.get("dropped"))))
        most = max(rows.values(), default=0)
        here = sorted((levels[i] for i, _ in points if i in levels), key=measure.rank)
        # From the worst to the best level, in either direction.
        span = (here[0], here[-1]) if here else (0.0, 1.0)
        x, y = (padded((place[axis] for _, place in points), share=0.12) for axis in (0, 1))
        plot = Plot(x, y, height=360, label=f"Map of the prompts of cycle {cycle}")
        # Draw small dots last, so that large ones do not hide them.
        for prompt_id, place in sorted(points, key=lambda item: -rows.get(item[0], 0)):
            facts = prompts.by_id[prompt_id]
            seen, level = rows.get(prompt_id, 0), levels.get(prompt_id)
            out = prompt_id in gone or (most and seen < most)
            shade = "plain" if level is None else f"s{_step(level, span)}"
            kind = f"place {shade}{' hollow' if out else ''} {prompts.tag(prompt_id)}"
            tip = f"{facts.name}\n" + ("not raced" if level is None else measure.text(level, seen))
            tip += "\nleft the race early" if out else ""
            radius = 5 + 8 * ((seen / most) ** 0.5 if most else 0.3)
            plot.dot(place, kind, radius=radius, tip=tip, prompt=prompt_id, name=f"{facts.name}: open")
        legend = "".join(f'<span class="swatch s{k}"></span>' for k in range(7))
        ramp = f'<span>{measure.shown(span[0])}</span><span class="ramp">{legend}</span>'
        # No colour scale if all levels are equal.
        ramp = ramp if measure.shown(span[0]) != measure.shown(span[1]) else ""
        key = (
            f'<div class="legend">{ramp}{measure.legend(span[1])}<span>larger: more rows seen</span>'
            "<span>hollow: left the race early</span></div>"
        )
        hidden = " hidden" if figures else ""
        figures.append(f'<div data-choice="{cycle}"{hidden}>{plot.render(kind="map")}{key}</div>')
        options += f'<option value="{cycle}">cycle {cycle}</option>'
    if not figures:
        return "<p class=empty>No pool of prompts was embedded yet.</p>"
    select = f'<label class="pick">Pool of <select data-switch="map">{options}</select></label>' if len(figures) > 1 else ""
    return figure(
        "Prompts as the model sees them",
        f'{select}<div data-choices="map">{"".join(figures)}</div>',
        "Each prompt’s embedding by the model itself, on the two directions in which this pool differs most; axes have no "
        "unit, and each pool has its own. Near prompts read alike to the model. Tab to a dot and press Enter to open it.",
    )


def _points(pool: Mapping[str, Any], prompts: Prompts) -> list[tuple[str, Point]]:
    points = []
    for item, at in zip(items(pool.get("proposals")), items(pool.get("places")), strict=False):
        place, prompt = ends_of(at), read_prompt(fields(item).get("prompt"))
        if prompt and place and prompt.id in prompts.by_id:
            points.append((prompt.id, place))
    return points


def _step(level: float, span: Point) -> int:
    return 3 if span[1] == span[0] else min(6, max(0, round(6 * (level - span[0]) / (span[1] - span[0]))))
