"""The probe race: prompts embedded on ever more labelled rows, cross-fitted after each chunk, losers dropped."""

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
"""Times as many rows as before that a round has to bring where it is cut."""


@dataclass(frozen=True)
class Round:
    """Rows that the prompts of a round have seen at its end, and how many of them go on."""

    rows: int
    keep: int


def rounds_of(prompts: int, rows: int, first_rows: int) -> tuple[Round, ...]:
    """Successive halving: each round doubles the rows and halves the prompts; the last one sees all rows.

    Args:
        prompts: that enter.
        rows: labelled rows.
        first_rows: of the first round.
    """
    found, seen, count = [], min(first_rows, rows), prompts
    # A round that would leave less than half of the rows to save is joined with the last one.
    while count > HEURISTICS.finalists and seen < 0.6 * rows:
        count = max(HEURISTICS.finalists, -(-count // 2))
        found.append(Round(seen, count))
        seen *= 2
    return (*found, Round(rows, count))


def rows_embedded(prompts: int, rows: int, first_rows: int, always: int = 1) -> int:
    """Rows that a race embeds at most, over all prompts; ``always`` of them see every row."""
    total, before, count = 0, 0, prompts
    for step in rounds_of(prompts, rows, first_rows):
        total += (count + (always if before else 0)) * (step.rows - before)
        before, count = step.rows, step.keep
    return total


@dataclass
class ProbeRace:
    """How a race ended.

    Attributes:
        adapter: the weights it was run under.
        ranking: prompt ids, best first: those that saw all rows by their mean log-loss, then the others by how far they came.
        fits: prompt id to its fit on the rows it saw.
        dropped: ids that the test dropped.
        rows: prompt id to how many rows it saw.
        read: rows of the race: those that it was given, or fewer where it was cut.
    """

    adapter: str
    ranking: list[str] = field(default_factory=list)
    fits: dict[str, PromptFit] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    read: int = 0

    def record(self) -> dict[str, Any]:
        """For a cycle's record."""
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

    All prompts meet the same rows in the same order. After each chunk every prompt's probe is cross-fitted on all rows so far.
    A prompt leaves when a corrected test finds it worse than the leader, or when the schedule of successive halving has no
    place for it. A row that a prompt shows as a demonstration does not count for that prompt.

    Args:
        context: where effects happen.
        embedding: embeds and keeps the states.
        prompts: entrants, at least one.
        rows: labelled rows in random order.
        adapter: weights to race under.
        cycle: for the journal.
        always: prompts that see all rows whatever their place.
        first_rows: rows of the first round at least.
        affordable: whether the race may embed so many more rows, all prompts taken together; it is asked inside of a step.
            Where it may not, because passes turn out slower than they were priced, fewer prompts go on than the schedule has
            places for.
        limit: cuts the race between prompts and between chunks of rows, where what is left of the budget is needed for the
            end; None reads all.

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
                # The loop below finds out whose states are not finite.
                limit = None
            if count <= before:
                break
        seen = rows[:count]
        last = len(seen) >= race.read
        if context.crew is not None:
            diverged = _read_ahead(embedding, fitting, [by_id[name] for name in active], adapter, seen, **_effort(last))
            failed |= diverged
            active = [name for name in active if name not in diverged]
        for name in list(active):
            # The first one is the seed prompt, which every run ends with.
            if limit is not None and name != active[0] and name != leader and limit.leaves_out(by_id[name], count):
                active.remove(name)
                continue
            try:
                embedding.read(by_id[name], adapter, seen, "race")
                started = time.monotonic()
                race.fits[name] = fitting.fit(by_id[name], seen, **_effort(last))
                race.rows[name] = len(seen)
                if limit is not None:
                    limit.saw_fit(time.monotonic() - started)
            except DivergedError:
                failed.add(name)
                active.remove(name)
        # What a limit left out.
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
            # On all rows there is nothing left to spare; who lost by the test is told.
            race.dropped += [name for name in worse if name not in race.dropped]
            break
        race.dropped += [name for name in worse if name not in race.dropped and name not in protected]
        active = [name for name in active if name not in worse or name in protected]
        standing = sorted((n for n in active if n not in protected), key=lambda name: race.fits[name].mean)
        places = partial(places_after, steps, number, len(standing), len(protected & set(active)), affordable)
        # What a run decides by its clock must hold when it resumes.
        keep = int(context.journal.step("places", [cycle, number, standing], places))
        staying = {*standing[:keep], *protected}
        active = [name for name in active if name in staying]
    full = [name for name in race.fits if race.rows[name] == race.read and name not in failed]
    others = [name for name in race.fits if name not in full and name not in failed]
    race.ranking = [
        *sorted(full, key=lambda name: race.fits[name].mean),
        *sorted(others, key=lambda name: (-race.rows[name], race.fits[name].mean)),
    ]
    _record(context, race, cycle, list(by_id), [name for name in protected if name in full])
    return race


def _read_ahead(
    embedding: Embedding,
    fitting: Fitting,
    prompts: Sequence[Prompt],
    adapter: str,
    rows: Sequence[Example],
    **effort: Any,
) -> set[str]:
    """Take what workers have embedded, prompt by prompt, and have the probes fitted behind it; ids of those that diverged."""
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
    """Who goes on in a round, and up to which row, by what is left of the budget; these rows are read then.

    Whatever is cut, the first prompt goes on, and from the second round on the leader; a round whose rows cannot be read under
    these is left out, and the race ends with the rows before it.
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
    # In their order, so that passes are what they would be without a limit.
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
    """How many prompts go on after a round: what the schedule says, or fewer where the budget does not pay for these.

    Args:
        steps: the schedule.
        number: place of the round among them.
        standing: prompts that could go on.
        protected: prompts that go on whatever is decided, beside these.
        affordable: whether the race may embed so many more rows, all prompts taken together.
    """
    planned = min(steps[number].keep, standing)

    def ahead(keep: int) -> int:
        later = pairwise(steps[number:])
        return sum((min(keep, before.keep) + protected) * (after.rows - before.rows) for before, after in later)

    return next((count for count in range(planned, 1, -1) if affordable(ahead(count))), min(1, planned))


def _with_two_labels(rows: Sequence[Example], count: int) -> int:
    """Up to which row a round goes that was planned for ``count``: a probe needs two labels, with two rows each if it can."""
    while count < len(rows):
        common = Counter(row.output for row in rows[:count]).most_common(2)
        if len(common) > 1 and common[1][1] > 1:
            break
        count += 1
    return count


def _narrow(context: RunContext, embedding: Embedding, fits: Sequence[PromptFit], cycle: int) -> None:
    """Leave out layers well above those that the better half of the prompts is read from; a ``layers`` step."""
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
