"""The loop for label tasks on a local model: race prompts by probes, tune below the best, mutate, repeat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.folder import ASKED
from cotune.cycle.probe_search.first_race import FirstRace
from cotune.cycle.probe_search.fits import PromptFit
from cotune.cycle.probe_search.held_out import HeldOutJudge, measured_on_dev
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.limit import RaceLimit
from cotune.cycle.probe_search.plan import RaceSizes, fit_plan, fit_test
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.race import ProbeRace, ProbeRaceResult
from cotune.cycle.probe_search.readouts.chains import try_chains
from cotune.cycle.probe_search.readouts.label_names import COST_SHARE, judge_names, label_name_rows
from cotune.cycle.probe_search.readouts.tfidf import try_tfidf
from cotune.cycle.probe_search.sampling import further_rows
from cotune.cycle.probe_search.splits import labelled_rows, with_rows
from cotune.cycle.probe_search.state import Evidence, LabelSearch
from cotune.cycle.probe_search.trial import Trials
from cotune.cycle.probe_search.verdict import EarlyBundles
from cotune.cycle.search.guide import Guide
from cotune.cycle.search.pool import next_pool
from cotune.cycle.search.result import record_cycle
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal


class LabelLoop:
    """Runs the cycle until the budget ends or nothing gains; ``own`` are the seed prompt and the user's further prompts."""

    def __init__(
        self,
        context: RunContext,
        config: RunConfig,
        own: Sequence[Prompt],
        trials: Trials,
        prices: Prices,
        bundle: Path,
        previous: Previous | None = None,
    ) -> None:
        self.context, self.config = context, config
        self.embedding, self.trials, self.prices = trials.embedding, trials, prices
        self.sizes = RaceSizes(context, prices, own[0], config.search.pool)
        self.first_race = FirstRace(context, config, own, trials.embedding, prices, self.sizes, previous)
        self.judge = HeldOutJudge(trials, prices, previous)
        self.guide = Guide(context, config)
        self.bundles = EarlyBundles(context, trials, bundle, config.model)
        self._in_bundle: Evidence | None = None

    def run(self) -> LabelSearch:
        """Run the search."""
        search = self._with_read_outs(self.first_race.run())
        self.bundles.first(search)
        self._in_bundle = search.first
        if search.cut and (whole := self.first_race.read_on(search)) is not None:
            # The first rows' TF-IDF does not know the others.
            self.trials.use_tfidf(None)
            search = self._with_read_outs(whole)
            # Few other rows judged the probe in the bundle, so it is replaced whatever its log-loss was.
            self._replace(search, search.first)
        search.whole_test = fit_test(self.context, self.prices, search)
        self._learn_further(search)
        search = self._plan(search)
        if search.epochs:
            self._first_trials(search)
        self._record(search, search.base_race, pool=len(search.proposals))
        self._end_cycle(search)
        lost = 0
        while not search.stopped:
            before = search.winner
            search.stopped = self._reason_to_stop(search, lost) or self._next_cycle(search)
            if not search.stopped:
                self._end_cycle(search)
                lost = 0 if search.winner is not before else lost + 1
        self.context.spending.expect_end(self.prices.owed(search))
        return search

    # Before tuning ------------------------------------------------------------------------------------------------

    def _with_read_outs(self, search: LabelSearch) -> LabelSearch:
        """Judge the leading prompts of the first race, with names of labels, TF-IDF and chains where these are better."""
        self.trials.use_chains(try_chains(self.context, search.best_frozen))
        self._judge_first(search)
        self._name_labels(search)
        self._use_tfidf(search)
        return search

    def _judge_first(self, search: LabelSearch) -> LabelSearch:
        """Judge the seed prompt and the first race's winner on held-out rows, and choose between them."""
        self.prices.saw_fits(search.base_race.read, search.base_race.fit_seconds)
        self._judge_frozen(search, search.seed, search.best_frozen)
        return search

    def _name_labels(self, search: LabelSearch) -> None:
        """Use the labels' names as further rows if that is better on held-out rows."""
        best, before, names = search.best_frozen, search.first, label_name_rows(self.context.task)
        cost = self.embedding.row_cost(best.prompt, len(names), layers=[best.found.layer])
        if not (self.config.search.label_names and names and before) or cost > COST_SHARE * self.context.spending.left():
            return
        splits = with_rows(search.splits, names)
        if judge_names(self.context, names, before, self.judge.frozen(search, best, splits)):
            search.splits, search.written = splits, (*search.written, *names)
            search.evidence, search.winner = [], None
            self._judge_frozen(search, best, search.seed)
            search.named = search.first

    def _use_tfidf(self, search: LabelSearch, *, decided: bool = False) -> None:
        """Add TF-IDF to all read-outs if the best frozen probe is better with it, or if this was ``decided`` on fewer rows."""
        if not self.config.search.tfidf or self.context.choosing.reads_words:
            return
        best, rows = search.best_frozen, (*labelled_rows(self.context), *search.written)
        measure, judge = "held-out" if search.written else "cross-fitted", partial(self.judge.with_tfidf, search, best)
        if (found := try_tfidf(self.context, rows, best.prompt.id, measure, judge, decided=decided)) is None:
            return
        self.trials.use_tfidf(found)
        search.evidence, search.winner = [], None
        self._judge_frozen(search, search.seed, best)
        search.named = None if search.named is None else search.first

    def _learn_further(self, search: LabelSearch) -> None:
        """Learn from labelled rows that were not raced too, as many as the budget can use; save a bundle if it is better."""
        if not (rows := further_rows(self.context, self.prices, search, self.trials.settings.batch_size)):
            return
        search.further, search.written = len(rows), (*search.written, *rows)
        search.whole = HEURISTICS.whole(len(search.rows) + len(rows))
        search.splits = with_rows(search.splits, rows)
        search.evidence, search.winner = [], None
        used = self.trials.uses_tfidf
        self.trials.use_tfidf(None)
        self._judge_frozen(search, search.seed, search.best_frozen)
        if used:
            self._use_tfidf(search, decided=True)
        self._keep(search, frozen=True)

    def _judge_frozen(self, search: LabelSearch, *fits: PromptFit) -> None:
        """Judge frozen probes on held-out rows in this order, each once, and choose the winner."""
        for fit in {fit.prompt.id: fit for fit in fits}.values():
            search.evidence.append(self.judge.frozen(search, fit))
        search.choose()

    def _plan(self, search: LabelSearch) -> LabelSearch:
        """Plan the tuning, or end the search with frozen probes if the race was cut or the user asks for the end."""
        if search.cut:
            search.zero_shot = False
            search.stopped = "the first race was cut for lack of time, and what was left of the budget is reserved for the test"
            return search
        asked = self.context.finish_asked()
        plan = fit_plan(self.context, self.config, self.trials, self.prices, search, tunes=not asked)
        # The plan may have been made before the user asked.
        if asked or self.context.finish_asked():
            plan.stopped, plan.epochs = ASKED, 0.0
        return plan

    # Tuning -------------------------------------------------------------------------------------------------------

    def _first_trials(self, search: LabelSearch) -> None:
        """Tune the leading prompt and, if planned and if there is room, the seed prompt.

        A trial of the seed prompt is half of its final tuning, which is needed in any case.
        """
        lead, prices = search.best_frozen, self.prices
        seed = search.seed if search.tunes_seed else lead
        splits = search.splits if search.last_epochs else search.splits[:1]
        if seed is not lead:
            self.judge.tune_ahead(search, lead, search.splits)
            both = sum(prices.trial(fit, search.splits, search.epochs) for fit in (lead, seed))
            if not search.last_epochs or both <= self.context.spending.left_within_step() - prices.owed(search, seed):
                self.judge.tune_ahead(search, seed, splits)
        self.judge.tune(search, lead)
        if seed is not lead and (not search.last_epochs or prices.has_room(search, seed)):
            self.judge.tune(search, seed, splits)

    def _reason_to_stop(self, search: LabelSearch, lost: int) -> str:
        """The reason why the search ends after ``lost`` cycles in a row without a new winner; empty if it continues."""
        if lost >= HEURISTICS.patience:
            return f"no improvement in {counted(lost, 'cycle')}"
        if len(search.cycles) >= self.config.search.max_cycles:
            return f"search.max_cycles={self.config.search.max_cycles}"
        return ASKED if self.context.finish_asked() else ""

    def _next_cycle(self, search: LabelSearch) -> str:
        """Mutate, race on frozen states, tune the best child; returns why that is impossible, an empty text if it is done."""
        number, winner, rows = len(search.cycles) + 1, search.winner, len(search.rows)
        assert winner is not None
        # If there is no room for tuning a child, a frozen winner may still lose to a frozen child.
        ways = (True, False) if search.epochs and not winner.tuned else (bool(search.epochs),)
        besides = {tunes: self._trial_cost(search, winner.fit, tunes=tunes) + self.prices.later_fits(rows) for tunes in ways}
        room, least = self._room(search) - self.guide.cost(winner.fit.prompt), self.sizes.least_cost(rows)
        possible = [tunes for tunes in ways if least + besides[tunes] <= room]
        if not possible:
            return self._no_room(least + besides[ways[-1]], room, tunes=ways[-1])
        children = self._children(search, number, winner, self.sizes.fitting(rows, room - besides[possible[0]]))
        if not children:
            return "no new prompt was found"
        # Prompts with demonstrations may cost more than planned, and generating prompts has taken some of the budget.
        prompts, room = [child.prompt for child in children], self._room(search)
        counts = {tunes: self.sizes.fitting_of(prompts, rows, room - besides[tunes]) for tunes in possible}
        tunes = next((tunes for tunes in possible if counts[tunes]), None)
        if tunes is None:
            needed = self.sizes.cost_of(prompts[:1], rows) + besides[possible[-1]]
            return self._no_room(needed, room, tunes=possible[-1])
        children = children[: counts[tunes]]
        search.proposals.update({child.prompt.id: child for child in children})
        entrants = list({p.id: p for p in (winner.fit.prompt, *(child.prompt for child in children))}.values())
        # If passes or fits are slower than planned, fewer prompts continue, so that the best child can still be tuned.
        keep = self.prices.owed(search) + self.prices.extras() + besides[tunes]
        race = ProbeRace(
            self.context,
            self.embedding,
            entrants,
            search.rows,
            cycle=number,
            always=entrants[:1],
            first_rows=self.sizes.first_rows,
            affordable=partial(self.sizes.affordable, keep),
            limit=self._limit(search, number),
        ).run()
        self.prices.saw_fits(race.read, race.fit_seconds)
        search.fits.update(race.fits_on(rows))
        self._try(search, search.challenger)
        self._record(search, race, pool=len(entrants), children=len(children))
        return ""

    def _room(self, search: LabelSearch) -> float:
        """Budget of a further cycle."""
        return self.prices.room(search) - self.prices.extras()

    def _no_room(self, cost: float, room: float, *, tunes: bool) -> str:
        """The reason why there is no further cycle, which would cost ``cost``."""
        unit = self.context.spending.budget.unit
        what = "racing new prompts and tuning the best of them" if tunes else "racing new prompts"
        return (
            f"the rest is reserved for the test: {what} needs about {cost:,.0f} {unit}, and {max(0.0, room):,.0f} {unit} "
            "are left for it"
        )

    def _limit(self, search: LabelSearch, number: int) -> RaceLimit:
        """The limit of a later race, which leaves a time budget for judging the best new prompt and for the end."""
        rows, fixed = len(search.rows), self.prices.fixed
        fit = self.prices.later_fit(rows)

        def end() -> float:
            return fixed + self.context.spending.costs.lag * (self.prices.owed(search) - fixed) + fit

        return RaceLimit(self.context, self.embedding, end, cycle=number, fit=(fit, rows))

    def _trial_cost(self, search: LabelSearch, fit: PromptFit, *, tunes: bool) -> float:
        """Cost of the next cycle besides new prompts and their race, if the best child is about as long as the winner."""
        trial = self.prices.trial(fit, search.splits, search.epochs) if tunes else 0.0
        # The race does not read a teacher's rows.
        trial += self.embedding.row_cost(fit.prompt, len(search.written), layers=[fit.found.layer])
        # A challenger that wins needs a final tuning too; that of the present winner is already reserved.
        return 1.1 * trial

    def _children(self, search: LabelSearch, number: int, winner: Evidence, count: int) -> list[Proposal]:
        """New prompts: mutated from the best ones, and written after a look at the winner's failures."""
        on_dev = measured_on_dev(self.context, winner.first.adapter, winner.first, winner)
        rewrites = self.guide.look(number, on_dev, [proposal.prompt for proposal in search.proposals.values()])
        return next_pool(
            self.context,
            number,
            search.parents,
            count,
            set(search.proposals),
            demonstrations=self.config.search.demonstrations,
            rewrites=rewrites,
            nearest=self.config.search.nearest_demonstrations,
        )

    def _try(self, search: LabelSearch, challenger: PromptFit | None) -> None:
        """Tune a challenger if there is room, else judge its frozen probe; choose the winner again."""
        if challenger is not None and search.epochs and self.prices.has_room(search, challenger):
            self.judge.tune(search, challenger)
        elif challenger is not None and search.of(challenger.prompt.id, tuned=False) is None:
            search.evidence.append(self.judge.frozen(search, challenger))
        search.choose()

    # Results ------------------------------------------------------------------------------------------------------

    def _end_cycle(self, search: LabelSearch) -> None:
        self._keep(search)
        # All states of all cycles may not fit into memory.
        self.embedding.keep(search.needed)

    def _keep(self, search: LabelSearch, *, frozen: bool = False) -> None:
        """Save the winner as the bundle if it is tuned (or may be ``frozen``) and better on held-out rows than the present one.

        A winner may have won only by the credit of a trial that is tuned further; then its trial, which would be saved, is not
        better.
        """
        winner = search.winner
        if winner is not None and (winner.tuned or frozen) and (self._in_bundle is None or winner.beats(self._in_bundle)):
            self._replace(search, winner)

    def _replace(self, search: LabelSearch, evidence: Evidence | None) -> None:
        """Save a candidate as the bundle."""
        assert evidence is not None
        self.bundles.better(search, evidence, self._in_bundle)
        self._in_bundle = evidence

    def _record(self, search: LabelSearch, race: ProbeRaceResult, *, pool: int, children: int | None = None) -> None:
        winner = search.winner
        assert winner is not None
        facts = {
            "kind": "prompts",
            "pool": pool,
            **({} if children is None else {"children": children}),
            "race": race.record(),
            "tuned": [
                {
                    "prompt_id": e.fit.prompt.id,
                    "steps": e.first.steps,
                    "score": round(e.score, 6),
                    "log_loss": round(e.mean, 6),
                }
                for e in search.evidence
                if e.tuned
            ],
            "winner": winner.fit.prompt.id,
        }
        score, log_loss = round(winner.score, 6), round(winner.mean, 6)
        record_cycle(self.context, search.cycles, facts, score=score, log_loss=log_loss, steps=winner.first.steps)
