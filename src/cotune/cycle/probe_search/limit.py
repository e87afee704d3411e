"""Limit of a race under a time budget, for machines that are slower than planned and for prompts that cost more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.errors import DivergedError
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example


def cut_step(
    context: RunContext, key: list[Any], needed: Callable[[], bool], facts: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    """The value of a ``cut`` step if it comes next in the journal or, behind its end, if the time is needed; None otherwise."""
    journal = context.journal
    timed = context.spending.budget.kind == "time"
    if not (journal.holds_next("cut", key) if journal.replaying else timed and needed()):
        return None
    return dict(journal.step("cut", key, facts))


class RaceLimit:
    """Reads a race's rows under the base model until the rest of a time budget is needed for the end.

    The end means fitting probes to the rows that were read, saving a bundle and the test. A stop is recorded as a ``cut`` step,
    because it depends on the clock. If passes take more than ``HEURISTICS.slow`` times as long as planned, rows are read in
    small chunks. Fits are priced by the duration of the last fit, whatever the speed of passes: on a machine that was already
    busy when its speed was measured, passes keep to the plan, but all else is late.

    A later race is of use only if new prompts see all rows, as those before them did. Its last round is read whole or not at
    all.

    Args:
        end: cost of all that follows the race, at the measured pace.
        cycle: number of the race's cycle.
        fit: expected seconds of cross-fitting one probe, and the number of its rows.
    """

    def __init__(
        self,
        context: RunContext,
        embedding: Embedding,
        end: Callable[[], float],
        *,
        cycle: int = 1,
        fit: tuple[float, int] = (0.0, 1),
    ) -> None:
        self._context, self._embedding, self._end, self._cycle = context, embedding, end, cycle
        self._fit_seconds, self._fit_rows = fit
        self.stopped = False
        """Whether anything was cut."""

    @property
    def partial(self) -> bool:
        """Whether the race may end within a round, with fewer rows than planned."""
        return self._cycle == 1

    @property
    def slow(self) -> bool:
        """Whether passes take far longer than planned, under a time budget."""
        spending = self._context.spending
        return spending.budget.kind == "time" and spending.costs.slowness >= HEURISTICS.slow

    def saw_fit(self, seconds: float, rows: int) -> None:
        """Record how long it took to cross-fit a probe to a number of rows."""
        self._fit_seconds, self._fit_rows = seconds, rows

    def reads_on(self, prompts: Sequence[Prompt], rows: Sequence[Example], read: int, fits: float) -> bool:
        """Whether the remaining rows of a cut race can be read after all; a ``look`` step and a ``read_on`` step.

        One slow minute must not decide a whole run. If a few rows cost little at the pace that cut the race, they are read to
        measure the present speed. The rest is read if passes keep to the plan again and the end still fits the budget.

        Args:
            prompts: prompts that would see all rows; the first one reads the few rows.
            read: number of rows that the race has read.
            fits: cost of fitting the prompts to all rows, at the expected speed.
        """
        spending = self._context.spending
        key = [[prompt.id for prompt in prompts], read, len(rows)]

        def look() -> dict[str, int]:
            a_row = self._cost(prompts[0], 100) / 100
            count = min(HEURISTICS.slow_chunk, int(HEURISTICS.look_share * spending.left_within_step() / a_row))
            return {"rows": min(count, len(rows) - read) if count >= HEURISTICS.least_look else 0}

        count = int(self._context.journal.step("look", key, look)["rows"])
        if not count:
            return False
        before = spending.costs.look_anew()
        try:
            self._embedding.states(prompts[0], BASE, rows[: read + count], "race")
        except DivergedError:
            spending.costs.recall(before)
            return False

        def decide() -> dict[str, Any]:
            cost = sum(self._cost(prompt, len(rows) - self._embedding.known(prompt, BASE, rows)) for prompt in prompts)
            cost += max(fits, self._fit_seconds * len(prompts) * len(rows) / read) + self._end()
            if self.slow or cost > spending.left_within_step():
                return {"rows": read}
            return {"rows": len(rows), "text": f"passes are as fast as planned again: all {len(rows):,} labelled rows are read"}

        if int(self._context.journal.step("read_on", key, decide)["rows"]) < len(rows):
            spending.costs.recall(before)
            return False
        return True

    def leaves_out(self, prompt: Prompt, rows: int, stage: str = "fit") -> bool:
        """Whether a prompt's probe must be left out because the end needs the time; if so, a ``cut`` step.

        Two fits to the same number of rows need two stages, or a resumed run would confuse their cuts.
        """
        cut = self._cut([stage, prompt.id, rows], lambda: self._room(1, rows) < 0, lambda: {"fit": prompt.id, "rows": rows})
        return cut is not None

    def warm_up(self, prompt: Prompt, rows: Sequence[Example], count: int) -> None:
        """Read a race's first rows under its first prompt; starts with a few rows if all would take long on a slow machine."""
        spending = self._context.spending
        price = HEURISTICS.slowest * self._embedding.row_cost(prompt, count)
        if spending.budget.kind == "time" and price > HEURISTICS.warm_share * spending.budget.amount:
            self._embedding.states(prompt, BASE, rows[: min(HEURISTICS.warm_rows, count)], "race")
        self.read(prompt, rows, count, least=min(HEURISTICS.least_rows, count))

    def read(self, prompt: Prompt, rows: Sequence[Example], count: int, *, least: int | None, fits: int = 1) -> int:
        """Embed up to ``count`` rows under a prompt; returns the number that there is time for.

        ``least`` rows are read in any case; None reads none unless there is time for all. ``fits`` is the number of probes that
        are to be fitted after it, its own among them.
        """
        at = self._embedding.known(prompt, BASE, rows[:count])
        while at < count:
            allowed = self.allowed([prompt], rows, at, count, least=max(at, least or 0), stage="rows", fits=fits)
            if allowed < count and least is None:
                return at
            count = allowed
            if at >= count:
                break
            at = min(count, at + HEURISTICS.slow_chunk) if self.slow else count
            self._embedding.states(prompt, BASE, rows[:at], "race")
        return count

    def allowed(
        self,
        prompts: Sequence[Prompt],
        rows: Sequence[Example],
        before: int,
        count: int,
        *,
        least: int,
        stage: str = "round",
        fits: int | None = None,
    ) -> int:
        """Number of rows, up to ``count``, that prompts may see after ``before`` rows; fewer if the end needs the time.

        ``fits`` is the number of probes that are to be fitted to them; None means one for each prompt.
        """
        fits = len(prompts) if fits is None else fits

        def needed() -> bool:
            missing = {prompt: count - max(before, self._embedding.known(prompt, BASE, rows[:count])) for prompt in prompts}
            cost = sum(self._cost(prompt, number) for prompt, number in missing.items() if number)
            return cost > self._room(fits, count)

        def facts() -> dict[str, Any]:
            a_row = sum(self._cost(prompt, 100) for prompt in prompts) / 100
            fitting = before + int(self._room(fits, count) / a_row)
            return {"rows": max(least, min(count, fitting)), "of": count}

        cut = self._cut([stage, [prompt.id for prompt in prompts], before, count], needed, facts)
        return count if cut is None else int(cut["rows"])

    def _cut(self, key: list[Any], needed: Callable[[], bool], facts: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """See :func:`cut_step`; the first cut says why."""
        later = {} if self._cycle == 1 else {"cycle": self._cycle}

        def told() -> dict[str, Any]:
            return {**later, **facts(), **({} if self.stopped else {"text": self._reason()})}

        cut = cut_step(self._context, [*later.values(), *key], needed, told)
        self.stopped = self.stopped or cut is not None
        return cut

    def _room(self, fits: int, rows: int) -> float:
        """Budget that is left for passes, without the cost of the end and of ``fits`` fits to a number of rows."""
        a_fit = self._fit_seconds * max(1.0, rows / self._fit_rows)
        return self._context.spending.left_within_step() - self._end() - a_fit * fits

    def _reason(self) -> str:
        slowness = self._context.spending.costs.slowness
        if self.slow:
            why = f"passes take {slowness:.1f} times as long as planned"
        else:
            why = (
                "reading rows takes longer than planned" if self._cycle == 1 else "racing new prompts takes longer than planned"
            )
        end = "a bundle" if self._cycle == 1 else "the bundle"
        return f"{why}: the race is cut, as the rest of the time is needed for {end} and the test"

    def _cost(self, prompt: Prompt, rows: int) -> float:
        return self._embedding.row_cost(prompt, rows) * self._context.spending.costs.lag
