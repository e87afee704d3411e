"""The first race, which opens the search, cut short on a machine that is slower than planned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.limit import RaceLimit
from cotune.cycle.probe_search.plan import RaceSizes, end_of_race, race_bound
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.race import ProbeRace, ProbeRaceResult
from cotune.cycle.probe_search.splits import labelled_rows, splits_of, taught_rows
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.search.pool import opening_pool
from cotune.errors import CotuneError, DivergedError, counted
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal
from cotune.task.example import Example


class FirstRace:
    """Races the opening pool, within a limit that leaves a time budget for the end.

    The context's rows become those that a cut race read. ``own`` are the seed prompt and the user's further prompts.
    """

    def __init__(
        self,
        context: RunContext,
        config: RunConfig,
        own: Sequence[Prompt],
        embedding: Embedding,
        prices: Prices,
        sizes: RaceSizes,
        previous: Previous | None = None,
    ) -> None:
        self._context, self._config, self._own, self._previous = context, config, list(own), previous
        self._embedding, self._prices, self._sizes = embedding, prices, sizes
        self._whole, self._limit = context.task, self._new_limit()

    def _new_limit(self) -> RaceLimit:
        end = partial(end_of_race, self._context, self._embedding, self._prices, self._own[0])
        return RaceLimit(self._context, self._embedding, end)

    def run(self) -> LabelSearch:
        """Run the race; returns the search with its result.

        Raises:
            CotuneError: states under the seed prompt are not finite.
        """
        context, seed, limit = self._context, self._own[0], self._limit
        rows = labelled_rows(context)
        # The first passes of a process are slow, and the size of the race depends on the measured speed.
        try:
            limit.warm_up(seed, rows, min(HEURISTICS.first_rows, len(rows)))
        except DivergedError as error:
            raise self._unreadable() from error
        # If not even all of the first rows could be read, there is no time for others, and generating prompts needs passes too.
        proposals = [Proposal(seed, "user")] if limit.stopped else self._pool(len(rows))
        # Passes are slow at first and are priced during the race; it must end even if the machine becomes slower.
        left = context.spending.left()
        keep = left - race_bound(self._sizes.room, context.spending.budget, left, self._prices.fits(len(rows)))
        race = ProbeRace(
            context,
            self._embedding,
            [proposal.prompt for proposal in proposals],
            rows,
            cycle=1,
            always=[seed, *([self._previous.prompt] if self._previous else [])],
            first_rows=self._sizes.first_rows,
            affordable=partial(self._sizes.affordable, keep),
            limit=limit,
        ).run()
        if race.read < len(rows) or (limit.stopped and taught_rows(context)):
            # A teacher's rows take time too.
            rows, taught = rows[: race.read], taught_rows(context)
            if taught and not context.journal.replaying:
                context.journal.tell(f"there is no time for {counted(len(taught), 'row')} that the teacher labelled")
            context.keep_rows({row.id for row in rows})
        return self._search({proposal.prompt.id: proposal for proposal in proposals}, race, rows, cut=limit.stopped)

    def read_on(self, search: LabelSearch) -> LabelSearch | None:
        """The search with all labelled rows for the leading prompts, if a race was cut and passes are fast again.

        None if passes are not fast, or become slow again before all rows are read; then the result of the cut race stands.
        """
        context, read = self._context, len(search.rows)
        leading = sorted(search.fits.values(), key=lambda fit: fit.mean)[: HEURISTICS.finalists]
        prompts = list({fit.prompt.id: fit.prompt for fit in (search.seed, *leading)}.values())
        context.use_rows(self._whole)
        rows = labelled_rows(context)
        if len(rows) > read and self._limit.reads_on(prompts, rows, read, self._prices.fits(len(rows))):
            limit = self._new_limit()
            race = ProbeRace(
                context, self._embedding, prompts, rows, cycle=1, always=prompts[:1], first_rows=len(rows), limit=limit
            ).run()
            if not limit.stopped:
                return self._search(search.proposals, race, rows, cut=False)
        context.keep_rows({row.id for row in search.rows})
        return None

    def _pool(self, rows: int) -> list[Proposal]:
        return opening_pool(
            self._context,
            self._own,
            self._sizes.fitting(rows, self._sizes.room),
            demonstrations=self._config.search.demonstrations,
            previous=self._previous.proposal if self._previous else None,
            nearest=self._config.search.nearest_demonstrations,
        )

    def _search(
        self, proposals: dict[str, Proposal], race: ProbeRaceResult, rows: tuple[Example, ...], *, cut: bool
    ) -> LabelSearch:
        """The search's state after the race."""
        context, fits = self._context, race.fits_on(len(rows))
        if self._own[0].id not in fits:
            raise self._unreadable()
        seed, splits = fits[self._own[0].id], splits_of(context)
        return LabelSearch(proposals, race, fits, seed, rows, splits, cut, written=taught_rows(context))

    def _unreadable(self) -> CotuneError:
        return CotuneError(
            f"{self._context.model.name} gives hidden states that are not finite under the seed prompt: "
            "run with engine.dtype=float32, or take another model"
        )
