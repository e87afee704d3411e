"""The probe race: embeds prompts on growing numbers of labelled rows, cross-fits probes and drops losers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import Fitting, PromptFit, difference
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.limit import RaceLimit
from cotune.errors import CotuneError, DivergedError
from cotune.evaluate.stats.cross_fitted import probably_worse
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example

_WORTH = 1.25
"""Minimum ratio of a cut round's rows to those of the round before."""


@dataclass(frozen=True)
class Round:
    """Number of rows that a round's prompts have seen at its end, and number of prompts that continue."""

    rows: int
    keep: int


def rounds_of(prompts: int, rows: int, first_rows: int) -> tuple[Round, ...]:
    """Successive halving: each round doubles the rows and halves the prompts; the last one sees all rows.

    Args:
        prompts: number of entrants.
        rows: number of labelled rows.
        first_rows: number of rows of the first round.
    """
    found, seen, count = [], min(first_rows, rows), prompts
    # A round that would save less than half of the rows is merged with the last one.
    while count > HEURISTICS.finalists and seen < 0.6 * rows:
        count = max(HEURISTICS.finalists, -(-count // 2))
        found.append(Round(seen, count))
        seen *= 2
    return (*found, Round(rows, count))


def rows_embedded(prompts: int, rows: int, first_rows: int) -> int:
    """Maximum number of rows that a race embeds over all prompts, of which one sees every row whatever its rank."""
    total, before, count = 0, 0, prompts
    for step in rounds_of(prompts, rows, first_rows):
        total += (count + (1 if before else 0)) * (step.rows - before)
        before, count = step.rows, step.keep
    return total


@dataclass
class ProbeRace:
    """Result of a race.

    Attributes:
        adapter: weights of the race.
        ranking: prompt ids, best first: those that saw all rows by mean log-loss, then the others by the number of rows they
            saw.
        fits: fit of each prompt, by id, on the rows it saw.
        dropped: ids that the test dropped.
        rows: number of rows that each prompt saw, by id.
        read: number of rows of the race; fewer than it was given if it was cut.
        full: ids of the prompts whose probes were fitted on all rows at all folds, best first.
    """

    adapter: str
    ranking: list[str] = field(default_factory=list)
    fits: dict[str, PromptFit] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    read: int = 0
    full: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Entry in a cycle's record."""
        best = self.fits[self.ranking[0]]
        return {
            "adapter_id": self.adapter,
            "ranking": self.ranking,
            "dropped": self.dropped,
            "dev_score": round(best.found.best.accuracy, 6),
            "dev_log_loss": round(best.mean, 6),
        }


def race_probes(
    context: RunContext,
    embedding: Embedding,
    prompts: Sequence[Prompt],
    rows: Sequence[Example],
    adapter: str,
    *,
    cycle: int,
    always: Sequence[Prompt] = (),
    first_rows: int = 64,
    affordable: Callable[[int], bool] = lambda rows: True,
    limit: RaceLimit | None = None,
) -> ProbeRace:
    """Race prompts over labelled rows under one set of weights.

    All prompts see the same rows in the same order. After each chunk every prompt's probe is cross-fitted on all rows so far. A
    prompt is dropped if a corrected test finds it worse than the leader, or if the schedule of successive halving has no place
    for it. A row that a prompt shows as a demonstration does not count for that prompt.

    Args:
        context: context of the run.
        embedding: embeds rows and stores their states.
        prompts: entrants, at least one.
        rows: labelled rows in random order.
        adapter: weights to race under.
        cycle: number of the cycle, for the journal.
        always: prompts that see all rows whatever their rank.
        first_rows: minimum number of rows of the first round.
        affordable: whether the race may embed a further number of rows, over all prompts; called within a step. If not, because
            passes are slower than planned, fewer prompts continue than the schedule allows.
        limit: cuts the race between prompts and between chunks of rows if the rest of the budget is needed for the end; None
            reads all rows.

    Raises:
        CotuneError: every prompt failed.
    """
    race = ProbeRace(adapter, read=len(rows))
    by_id = {prompt.id: prompt for prompt in prompts}
    protected = {prompt.id for prompt in always}
    active, failed = list(by_id), set[str]()
    steps = rounds_of(len(by_id), len(rows), first_rows)
    looks = len(steps)
    before, leader = 0, ""
    fitting = Fitting(context, embedding, adapter)
    for number, step in enumerate(steps):
        count = _with_two_labels(rows, step.rows)
        if limit is None or not limit.slow:
            embedding.ahead([by_id[name] for name in active], adapter, rows[:count])
        if limit is not None:
            try:
                active, count = _within(limit, race, active, protected, by_id, rows, before, count)
            except DivergedError:
                # The loop below finds the prompts whose states are not finite.
                limit = None
            if count <= before:
                break
        seen = rows[:count]
        last = len(seen) >= race.read
        # Few rows make a single round, in which every prompt would be fitted at all folds.
        screened = last and len(active) > HEURISTICS.full_fits + len(protected & set(active))
        effort = _effort(last and not screened)
        if context.crew is not None:
            diverged = _read_ahead(embedding, fitting, [by_id[name] for name in active], adapter, seen, **effort)
            failed |= diverged
            active = [name for name in active if name not in diverged]
        for name in list(active):
            # The first one is the seed prompt, which every run needs at its end.
            if limit is not None and name != active[0] and name != leader and limit.leaves_out(by_id[name], count):
                active.remove(name)
                continue
            try:
                embedding.read(by_id[name], adapter, seen, "race")
                started = time.monotonic()
                race.fits[name] = fitting.fit(by_id[name], seen, **effort)
                race.rows[name] = len(seen)
                if limit is not None:
                    limit.saw_fit(time.monotonic() - started)
            except DivergedError:
                failed.add(name)
                active.remove(name)
        if screened:
            _fit_fully(race, fitting, active, protected, by_id, seen, limit)
        # Requests of prompts that the limit left out.
        fitting.give_up()
        embedding.give_up()
        before = len(seen)
        if not active:
            raise CotuneError("every prompt of the race gave hidden states that are not finite")
        leader = min(active, key=lambda name: race.fits[name].mean)
        if number == 0:
            _narrow(context, embedding, [race.fits[name] for name in active], cycle)
        worse = [
            name
            for name in active
            if name != leader
            and probably_worse(
                difference(race.fits[name], race.fits[leader]),
                alpha=HEURISTICS.alpha,
                comparisons=looks * max(1, len(by_id) - 1),
            )
        ]
        if last:
            # After the last round, the test's losers are only recorded.
            race.dropped += [name for name in worse if name not in race.dropped]
            break
        race.dropped += [name for name in worse if name not in race.dropped and name not in protected]
        active = [name for name in active if name not in worse or name in protected]
        standing = sorted((n for n in active if n not in protected), key=lambda name: race.fits[name].mean)
        places = partial(places_after, steps, number, len(standing), len(protected & set(active)), affordable)
        # A decision by the clock is recorded, so that a resumed run repeats it.
        keep = int(context.journal.step("places", [cycle, number, standing], places))
        staying = {*standing[:keep], *protected}
        active = [name for name in active if name in staying]
    full = race.full or [name for name in race.fits if race.rows[name] == race.read]
    race.full = sorted((name for name in full if name not in failed), key=lambda name: race.fits[name].mean)
    others = [name for name in race.fits if name not in race.full and name not in failed]
    race.ranking = [*race.full, *sorted(others, key=lambda name: (-race.rows[name], race.fits[name].mean))]
    _record(context, race, cycle, list(by_id), [name for name in protected if name in race.full])
    return race


def _fit_fully(
    race: ProbeRace,
    fitting: Fitting,
    active: Sequence[str],
    protected: set[str],
    by_id: Mapping[str, Prompt],
    rows: Sequence[Example],
    limit: RaceLimit | None,
) -> None:
    """Fit the leading prompts, and those that always continue, at all folds after all prompts were fitted at some."""
    if not active:
        return
    leading = sorted(active, key=lambda name: race.fits[name].mean)
    again = [name for name in active if name in protected or name in leading[: HEURISTICS.full_fits]]
    for name in again:
        fitting.ahead(by_id[name], rows, **_effort(True))
    for name in again:
        if limit is not None and name not in (active[0], leading[0]) and limit.leaves_out(by_id[name], len(rows)):
            continue
        started = time.monotonic()
        race.fits[name] = fitting.fit(by_id[name], rows, **_effort(True))
        race.full.append(name)
        if limit is not None:
            limit.saw_fit(time.monotonic() - started)


def _read_ahead(
    embedding: Embedding,
    fitting: Fitting,
    prompts: Sequence[Prompt],
    adapter: str,
    rows: Sequence[Example],
    **effort: Any,
) -> set[str]:
    """Read states embedded by workers, prompt by prompt, and submit the probe fits; returns ids of prompts that diverged."""
    failed = set[str]()
    for prompt in prompts:
        try:
            embedding.read(prompt, adapter, rows, "race")
        except DivergedError:
            failed.add(prompt.id)
        else:
            fitting.ahead(prompt, rows, **effort)
    return failed


def _within(
    limit: RaceLimit,
    race: ProbeRace,
    active: Sequence[str],
    protected: set[str],
    by_id: Mapping[str, Prompt],
    rows: Sequence[Example],
    before: int,
    count: int,
) -> tuple[list[str], int]:
    """Read a round's rows within the remaining budget; returns the prompts that continue and their number of rows.

    The first prompt always continues, and from the second round on the leader too. A round whose rows cannot be read under
    these prompts is left out, and the race ends with the rows before it.
    """
    must = list(active[:1])
    if before:
        leader = min(active, key=lambda name: race.fits[name].mean)
        must = list(dict.fromkeys([*must, leader]))
        allowed = limit.allowed([by_id[name] for name in must], before, count, least=before)
        if allowed < count:
            race.read = allowed if allowed >= _WORTH * before else before
            active, count = must, race.read
            if count <= before:
                return list(active), before
    # Keep the order, so that passes are the same as without a limit.
    order = [*must, *(name for name in active if name not in must)] if limit.slow else list(active)
    reading, short, least = list[str](), False, min(count, _with_two_labels(rows, min(count, HEURISTICS.least_rows)))
    for name in order:
        if short and name not in must:
            continue
        reached = limit.read(by_id[name], race.adapter, rows, count, least=least if name == order[0] and not before else None)
        if reached < count:
            if name not in must:
                short = True
                continue
            if before:
                race.read = before
                return must, before
            race.read = count = reached
        reading.append(name)
    return reading, count


def places_after(steps: Sequence[Round], number: int, standing: int, protected: int, affordable: Callable[[int], bool]) -> int:
    """Number of prompts that continue after a round: that of the schedule, or fewer if the budget is too small.

    Args:
        steps: the schedule.
        number: index of the round.
        standing: number of prompts that could continue.
        protected: number of further prompts that always continue.
        affordable: whether the race may embed a further number of rows, over all prompts.
    """
    planned = min(steps[number].keep, standing)

    def ahead(keep: int) -> int:
        later = pairwise(steps[number:])
        return sum((min(keep, before.keep) + protected) * (after.rows - before.rows) for before, after in later)

    return next((count for count in range(planned, 1, -1) if affordable(ahead(count))), min(1, planned))


def _with_two_labels(rows: Sequence[Example], count: int) -> int:
    """The end of a round that was planned for ``count``, moved until there are two labels, with two rows each if possible."""
    while count < len(rows):
        common = Counter(row.output for row in rows[:count]).most_common(2)
        if len(common) > 1 and common[1][1] > 1:
            break
        count += 1
    return count


def _narrow(context: RunContext, embedding: Embedding, fits: Sequence[PromptFit], cycle: int) -> None:
    """Leave out layers well above those that the better half of the prompts reads; a ``layers`` step."""
    better = sorted(fits, key=lambda fit: fit.mean)[: max(1, len(fits) // 2)]

    def effort() -> dict[str, Any]:
        read = {fit.found.layer for fit in better}
        read |= {min(fit.found.ridge, key=fit.found.ridge.__getitem__) for fit in better if fit.found.ridge}
        place = max(embedding.layers.index(layer) for layer in read)
        return {"cycle": cycle, "deepest": embedding.layers[min(place + HEURISTICS.layer_margin, len(embedding.layers) - 1)]}

    key = [cycle, [fit.prompt.id for fit in fits], list(embedding.layers)]
    embedding.narrow(int(context.journal.step("layers", key, effort)["deepest"]))


def _effort(last: bool) -> dict[str, Any]:
    return {} if last else {"keep": HEURISTICS.early_layers, "repeats": 1}


def _record(context: RunContext, race: ProbeRace, cycle: int, entered: Sequence[str], compared: Sequence[str]) -> None:
    def effect() -> dict[str, Any]:
        best = race.fits[race.ranking[0]]
        shown = [name for name in race.ranking if name in race.ranking[: HEURISTICS.finalists] or name in compared]
        return {
            "cycle": cycle,
            "adapter_id": race.adapter,
            "ranking": race.ranking,
            "dropped": race.dropped,
            "full": race.full,
            "rows": race.rows,
            "scores": {name: round(fit.found.best.accuracy, 4) for name, fit in race.fits.items()},
            "log_losses": {name: round(fit.mean, 4) for name, fit in race.fits.items()},
            "layers": {name: fit.found.layer for name, fit in race.fits.items()},
            "by_layer": {
                name: {
                    str(fit.layer): [round(fit.accuracy, 4), round(fit.log_loss, 4)] for fit in race.fits[name].found.by_layer
                }
                for name in shown
            },
            "ridge": {
                name: {str(layer): round(error, 4) for layer, error in race.fits[name].found.ridge.items()} for name in shown
            },
            "best": {
                "prompt_id": race.ranking[0],
                "score": round(best.found.best.accuracy, 4),
                "log_loss": round(best.mean, 4),
                "layer": best.found.layer,
            },
        }

    context.journal.step("race", [cycle, race.adapter, list(entered)], effect)
