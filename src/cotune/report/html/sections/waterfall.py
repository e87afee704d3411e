"""Changes on dev by each step of the cycles, as a cheap second estimate of the gains."""

from __future__ import annotations

from dataclasses import dataclass

from cotune.errors import counted
from cotune.plain import between, fields, items, number
from cotune.report.html.markup import esc, figure
from cotune.report.html.plot import padded, place_in, upright
from cotune.report.html.sections.prompts import Prompts
from cotune.report.html.sections.record import RunRecord


@dataclass(frozen=True)
class Move:
    """A step, and the leading candidate's measure on dev after it; ``correct`` holds packed flags of right rows, if known."""

    name: str
    level: float
    correct: str = ""


def waterfall_section(record: RunRecord, prompts: Prompts) -> str:
    """Changes on dev by step."""
    steps = read_moves(record, prompts)
    if len(steps) < 2:
        return "<p class=empty>No step has changed the score yet.</p>"
    measure = record.dev_measure
    unit = f" {measure.unit}" if measure.unit else ""
    span = padded([move.level for move in steps], share=0.1, least=0.05)

    rows, before, any_interval = [], steps[0], False
    for place, move in enumerate(steps):
        level, start = move.level, before.level
        change = level - start
        if place == 0:
            bar = f'<circle class="mark base" cx="{place_in(span, level):.2f}%" cy="50%" r="6"/>'
            number_text = f"<b>{measure.shown(level)}</b>" + (f" <span class=unit>{unit}</span>" if unit else "")
        else:
            kind = "up" if measure.rank(change) > 0 else "down"
            left, width = min(place_in(span, start), place_in(span, level)), abs(place_in(span, level) - place_in(span, start))
            bar = upright(span, start, "from")
            bar += f'<rect class="bar {kind}" x="{left:.2f}%" width="{width:.2f}%" y="20%" height="60%" rx="2"/>'
            kind = kind if change else "quiet"
            number_text = f'<b class="{kind}">{measure.change(change)}</b> <span>→ {measure.shown(level)}{unit}</span>'
            if (ends := measure.change_interval(before.correct, move.correct)) is not None:
                any_interval = True
                number_text += f"<br><span>{between(ends, measure.change)}</span>"
        svg = f'<svg class="strip" width="100%" height="28" aria-hidden="true">{bar}</svg>'
        rows.append(
            f'<div class="row"><div class="who">{esc(move.name)}</div>{svg}<div class="number">{number_text}</div></div>'
        )
        before = move
    return figure(
        f"What moved {measure.where}" if not record.by_probe else f"What changed the {measure.name}",
        f'<div class="strips">{"".join(rows)}</div>',
        measure.steps
        + (", with paired 95% intervals where the same rows are known before and after" if any_interval else "")
        + f". {measure.remark}{' ' if measure.remark else ''}{measure.where[:1].upper()}{measure.where[1:]} also "
        "chose the candidates, so each step looks better here than on new rows. The verdict has the gains on the sealed test.",
    )


def read_moves(record: RunRecord, prompts: Prompts) -> list[Move]:
    """The steps in order, beginning with the starting point."""
    if record.by_probe:
        return _probe_moves(record, prompts)
    measure = record.dev_measure
    dev = fields(record.value("confirm").get("dev"))
    rows_of = {
        (str(value.get("prompt_id")), round(measure.of(value) or 0.0, 4)): str(value.get("correct") or "")
        for value in record.values("tuned")
    }
    moves: list[Move] = []

    def add(name: str, level: float, prompt_id: str = "", arm: str = "") -> None:
        correct = fields(dev.get(arm)).get("correct") if arm else rows_of.get((prompt_id, round(level, 4)))
        moves.append(Move(name, level, str(correct or "")))

    def confirmed(arm: str) -> float | None:
        return measure.of(fields(dev.get(arm)))

    race = next(record.values("race"), {})
    first = measure.of_race(race)
    start = confirmed("seed_prompt")
    start = first.get(prompts.seed) if start is None else start
    if start is None:
        return []
    add("seed prompt, base model", start, arm="seed_prompt")
    searched = confirmed("prompt_only")
    searched = measure.of(fields(race.get("best"))) if searched is None else searched
    if searched is not None:
        add(f"choosing among {counted(len(first), 'prompt')}", searched, arm="prompt_only")
    leader = ""
    if not any(items(cycle.get("tuned")) for cycle in record.values("cycle")):
        return moves[:1] + _untuned(record, moves[1:])
    for cycle in record.values("cycle"):
        name, winner = f"cycle {cycle.get('cycle')}", str(cycle.get("winner"))
        tuned = {str(t.get("prompt_id")): measure.of(t) for t in map(fields, items(cycle.get("tuned")))}
        level = measure.of_cycle(cycle)
        if level is None:
            continue
        if not leader:
            short = [s for s in tuned.values() if s is not None]
            count, most = len(tuned), max(short, key=measure.rank, default=None)
            kept = ", the best kept" if count > 1 else ""
            best = next((i for i, s in tuned.items() if s == most), winner)
            add(f"{name}: tuning {counted(count, 'prompt')}{kept}", level if most is None else most, best)
            if most is not None and most != level:
                add(f"{name}: tuning the two best on to {counted(cycle.get('steps'), 'step')}", level, winner)
        elif winner != leader:
            if (own := tuned.get(leader)) is not None:
                add(f"{name}: tuning on", own, leader)
            add(f"{name}: a new prompt", level, winner)
        else:
            add(f"{name}: tuning on to {counted(cycle.get('steps'), 'step')}", level, winner)
        leader = winner
    last = [v for v in record.values("tuned") if v.get("stage") == "finish" and str(v.get("prompt_id")) == leader]
    if last and (level := measure.of(last[0])) is not None:
        add(f"learning rate falls to zero, {counted(last[0].get('steps'), 'step')}", level, leader)
    if (level := confirmed("best_tuned")) is not None and level != moves[-1].level:
        late, ships, old = measure.chosen_late, record.confirmed("best_tuned"), record.confirmed("previous")
        if old and (ships.get("prompt_id"), ships.get("adapter_id")) == (old.get("prompt_id"), old.get("adapter_id")):
            late = "the old bundle kept"
        add(late, level, arm="best_tuned")
    return moves


def _probe_moves(record: RunRecord, prompts: Prompts) -> list[Move]:
    """The seed prompt's frozen probe, the best prompt's, then each cycle's winner if it changed; all on the held-out rows.

    Only before these were answered, the first two are those of the race, which are cross-fitted on all labelled rows.
    """
    measure = record.dev_measure
    race = next(record.values("race"), {})
    first, best = measure.of_race(race), fields(race.get("best"))
    frozen = {prompt_id: measure.of(fields(event.get("value"))) for prompt_id, event in record.frozen_held_out.items()}
    start, searched = frozen.get(prompts.seed), frozen.get(str(best.get("prompt_id")))
    if start is None or searched is None:
        start, searched = first.get(prompts.seed), measure.of(best)
    if start is None or searched is None:
        return []
    moves = [Move("seed prompt, frozen probe", start), Move(f"choosing among {counted(len(first), 'prompt')}", searched)]
    leader, tuned = str(best.get("prompt_id")), 0.0
    for cycle in record.values("cycle"):
        level, winner, steps = measure.of_cycle(cycle), str(cycle.get("winner")), number(cycle.get("steps")) or 0.0
        if level is None or (winner, steps) == (leader, tuned):
            continue
        what = "a new prompt" if winner != leader else "tuning"
        what += (", tuned " if winner != leader else " for ") + counted(int(steps), "step") if steps else ""
        moves.append(Move(f"cycle {cycle.get('cycle')}: {what}", level))
        leader, tuned = winner, steps
    return moves


def _untuned(record: RunRecord, chosen: list[Move]) -> list[Move]:
    """The cycles of a run without tuning that found a better prompt; the last one is replaced by what was ``chosen``."""
    moves: list[Move] = []
    leader = ""
    for cycle in record.values("cycle"):
        level, winner = record.dev_measure.of_cycle(cycle), str(cycle.get("winner"))
        if level is not None and winner != leader:
            moves.append(Move(f"cycle {cycle.get('cycle')}: the best of {counted(cycle.get('pool'), 'prompt')}", level, ""))
            leader = winner
    return [*moves[:-1], *(Move(moves[-1].name if moves else m.name, m.level, m.correct) for m in chosen[:1])]
