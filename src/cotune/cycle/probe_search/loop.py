"""The loop for label tasks on a local model: race prompts by probes, tune below the best, mutate, repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from cotune.config import RunConfig
from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.folder import ASKED
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import PromptFit, difference
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.label_names import COST_SHARE, judge_names, label_name_rows, with_names
from cotune.cycle.probe_search.limit import RaceLimit
from cotune.cycle.probe_search.plan import RaceSizes, fit_plan
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.race import ProbeRace, race_probes
from cotune.cycle.probe_search.slow_end import end_of_race, fit_test
from cotune.cycle.probe_search.splits import Split, labelled_rows, splits_of, taught_rows
from cotune.cycle.probe_search.state import Evidence, LabelSearch
from cotune.cycle.probe_search.trial import Fitted, Trials
from cotune.cycle.search.guide import Guide
from cotune.cycle.search.measured import Measured
from cotune.cycle.search.pool import next_pool, opening_pool
from cotune.cycle.search.result import record_cycle
from cotune.cycle.teaching.write import judge_written, with_written, write_rows
from cotune.errors import CotuneError, DivergedError, counted
from cotune.evaluate.decision import BY_PROBE
from cotune.evaluate.responses import LabelOutputs, label_indices
from cotune.evaluate.stats.cross_fitted import corrected_error
from cotune.model.adapters.slots import BASE
from cotune.probe.cross_fitting import best_temperature, tempered
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal
from cotune.task.example import Example


class LabelLoop:
    """Runs the cycle until the budget ends or nothing gains.

    Args:
        context: context of the run.
        config: config of the run.
        own: the seed prompt first, then the user's further prompts.
        embedding: embeds rows and stores their states.
        trials: tunes windows.
        previous: the earlier bundle of a warm start.
        first_verdict: called after the first race; saves the first bundle.
        better: called with tuned weights that beat the bundle's on held-out rows; saves them as the bundle.
    """

    def __init__(
        self,
        context: RunContext,
        config: RunConfig,
        own: Sequence[Prompt],
        embedding: Embedding,
        trials: Trials,
        previous: Previous | None = None,
        first_verdict: Callable[[LabelSearch], None] = lambda search: None,
        better: Callable[[Evidence], None] = lambda evidence: None,
    ) -> None:
        self.context, self.config, self.own, self.previous = context, config, list(own), previous
        self.embedding, self.trials, self._told, self._better = embedding, trials, first_verdict, better
        self._bundle_loss = float("inf")
        self.prices = Prices(context, embedding, trials, config)
        self.guide = Guide(context, config)
        self.rows = labelled_rows(context)
        self.splits = splits_of(context)
        self.limit = self._new_limit()
        self._whole = context.task
        self._cycle = 1
        self.races = RaceSizes(context, self.prices, self.own[0], config.search.pool)

    def run(self) -> LabelSearch:
        """Run the search."""
        search = self._first_race()
        self._name_labels(search)
        self._told(search)
        if self.limit.stopped and (read := self._read_on(search)) is not None:
            search = read
            self._name_labels(search)
        if self.limit.stopped:
            search.zero_shot = False
            fit_test(self.context, self.prices, search, self.config.seed)
            return self._ended(search, "the machine is slow, and what was left of the budget is reserved for the test")
        self._write(search)
        fit_test(self.context, self.prices, search, self.config.seed)
        plan = fit_plan(self.context, self.config, self.prices, search, self.splits, len(self.rows))
        search.epochs, search.last_epochs, search.zero_shot = plan.epochs, plan.last_epochs, plan.zero_shot
        if self.context.finish_asked():
            return self._ended(search, ASKED)
        self._first_trials(search)
        self._keep(search)
        lost = 0
        while lost < HEURISTICS.patience and len(search.cycles) < self.config.search.max_cycles:
            before = search.winner
            if self.context.finish_asked():
                search.stopped = ASKED
                break
            if not self._next_cycle(search):
                break
            self._keep(search)
            lost = 0 if search.winner is not before else lost + 1
        if not search.stopped:
            search.stopped = (
                f"no improvement in {counted(lost, 'cycle')}"
                if lost >= HEURISTICS.patience
                else f"search.max_cycles={self.config.search.max_cycles}"
            )
        self.context.spending.expect_end(self._owed(search))
        return search

    def _write(self, search: LabelSearch) -> None:
        """Let a teacher write rows for the labels that are confused most, and use them if that is better on held-out rows."""
        best = search.best_frozen
        drafts = write_rows(self.context, self.config, best, self.splits)
        before = search.of(best.prompt.id, tuned=False)
        if not drafts or before is None:
            return
        splits = with_written(self.splits, drafts)
        if judge_written(self.context, drafts, before.mean, self._frozen(search, best, splits).mean):
            self._learn_from(search, [draft.row for draft in drafts], splits, best)

    def _name_labels(self, search: LabelSearch) -> None:
        """Use the labels' names as further rows if that is better on held-out rows."""
        best, names = search.best_frozen, label_name_rows(self.context.task)
        before = search.of(best.prompt.id, tuned=False)
        cost = self.prices.embedding.row_cost(best.prompt, len(names), layers=[best.found.layer])
        if not (self.config.search.label_names and names and before) or cost > COST_SHARE * self.context.spending.left():
            return
        splits = with_names(self.splits, names)
        if judge_names(self.context, names, before, self._frozen(search, best, splits)):
            self._learn_from(search, names, splits, best)
            search.named = search.of(best.prompt.id, tuned=False)
            self._bundle_loss = self._first_loss(search)

    def _learn_from(self, search: LabelSearch, rows: Sequence[Example], splits: tuple[Split, ...], best: PromptFit) -> None:
        """Use further rows from now on; the best prompt and the seed prompt are judged again with them."""
        self.splits, search.written = splits, (*search.written, *rows)
        search.evidence, search.winner = [], None
        for fit in {fit.prompt.id: fit for fit in (best, search.seed)}.values():
            self._judge_frozen(search, fit)
        self._choose(search)

    def _ended(self, search: LabelSearch, why: str) -> LabelSearch:
        """End the search after its first race, with frozen probes only."""
        search.stopped, search.epochs = why, 0.0
        self._record(search, search.base_race, pool=len(search.proposals))
        self.context.spending.expect_end(self._owed(search))
        return search

    def _keep(self, search: LabelSearch) -> None:
        """Save the winner as the bundle if it is tuned and better on held-out rows than the present bundle.

        A winner may have won only by the credit of :meth:`LabelSearch.expected`; then its trial, which would be saved, is not
        better.
        """
        winner = search.winner
        if winner is not None and winner.tuned and winner.mean < self._bundle_loss:
            self._bundle_loss = winner.mean
            self._better(winner)

    # The first cycle ----------------------------------------------------------------------------------------------

    def _first_race(self) -> LabelSearch:
        context, config, previous = self.context, self.config, self.previous
        # The first passes of a process are slow, and the size of the race depends on the measured speed.
        try:
            self.limit.warm_up(self.own[0], BASE, self.rows, min(HEURISTICS.first_rows, len(self.rows)))
        except DivergedError as error:
            raise _unreadable(context) from error
        if self.limit.stopped:
            # Not even all of the first rows could be read, and generating prompts needs passes too.
            proposals = [Proposal(self.own[0], "user")]
        else:
            proposals = opening_pool(
                context,
                self.own,
                self.races.fitting(len(self.rows), self.races.room),
                demonstrations=config.search.demonstrations,
                seed=config.seed,
                previous=previous.proposal if previous else None,
                nearest=config.search.nearest_demonstrations,
            )
        prompts = [p.prompt for p in proposals]
        always = [self.own[0], *([previous.prompt] if previous else [])]
        # Passes are slow at first and are priced during the race; it must end even if the machine becomes slower.
        ends = context.spending.left() - HEURISTICS.race_over * self.races.room
        race = race_probes(
            context,
            self.embedding,
            prompts,
            self.rows,
            BASE,
            cycle=1,
            always=always,
            first_rows=self.races.first_rows,
            affordable=lambda embedded: (
                self.prices.race(self.own[0], len(self.rows), embedded) <= context.spending.left_within_step() - ends
            ),
            limit=self.limit,
        )
        if race.read < len(self.rows) or (self.limit.stopped and taught_rows(context)):
            self._cut_to(race.read)
        return self._opened({p.prompt.id: p for p in proposals}, race)

    def _opened(self, proposals: dict[str, Proposal], race: ProbeRace) -> LabelSearch:
        """The search's state after its first race."""
        fits = {name: race.fits[name] for name in race.full if race.rows[name] == len(self.rows)}
        if self.own[0].id not in fits:
            raise _unreadable(self.context)
        search = LabelSearch(proposals, race, fits, fits[self.own[0].id], written=taught_rows(self.context))
        self._judge_frozen(search, search.seed)
        if search.best_frozen is not search.seed:
            self._judge_frozen(search, search.best_frozen)
        self._bundle_loss = self._first_loss(search)
        self._choose(search)
        return search

    def _new_limit(self) -> RaceLimit:
        context = self.context
        return RaceLimit(context, self.embedding, partial(end_of_race, context, self.prices, self.own[0]))

    def _read_on(self, search: LabelSearch) -> LabelSearch | None:
        """The search with all labelled rows for the leading prompts, if a race was cut and passes are fast again.

        None if passes are not fast, or become slow again before all rows are read; then the result of the cut race stands.
        """
        context, read = self.context, len(self.rows)
        leading = sorted(search.fits.values(), key=lambda fit: fit.mean)[: HEURISTICS.finalists]
        prompts = list({fit.prompt.id: fit.prompt for fit in (search.seed, *leading)}.values())
        context.use_rows(self._whole)
        rows, limit = labelled_rows(context), self.limit
        if len(rows) > read and limit.reads_on(prompts, BASE, rows, read, self.prices.fits(len(rows))):
            self.limit = self._new_limit()
            race = race_probes(
                context,
                self.embedding,
                prompts,
                rows,
                BASE,
                cycle=1,
                always=prompts[:1],
                first_rows=len(rows),
                limit=self.limit,
            )
            if not self.limit.stopped:
                self.rows, self.splits = rows, splits_of(context)
                return self._opened(search.proposals, race)
            self.limit = limit
        context.keep_rows({row.id for row in self.rows})
        return None

    def _cut_to(self, count: int) -> None:
        """Continue with the labelled rows that a race read before it was cut, without a teacher's rows, which take time too."""
        taught = taught_rows(self.context)
        if taught and not self.context.journal.replaying:
            self.context.journal.tell(f"there is no time for {counted(len(taught), 'row')} that the teacher labelled")
        self.rows = self.rows[:count]
        self.context.keep_rows({row.id for row in self.rows})
        self.splits = splits_of(self.context)

    def _first_loss(self, search: LabelSearch) -> float:
        """Held-out log-loss of the first bundle."""
        first = search.of(search.best_frozen.prompt.id, tuned=False)
        return float("inf") if first is None else first.mean

    def _first_trials(self, search: LabelSearch) -> None:
        """Tune the leading prompt and, if there is room, the seed prompt.

        A trial of the seed prompt is half of its final tuning, which is needed in any case.
        """
        if search.epochs:
            lead, seed = search.best_frozen, search.seed
            if self.context.crew is not None and seed.prompt.id != lead.prompt.id:
                self._tune_ahead(search, lead, self.splits)
                self._seed_ahead(search, lead)
            self._try(search, lead)
            if seed.prompt.id != lead.prompt.id:
                if not search.last_epochs:
                    self._try(search, seed, splits=self.splits[:1])
                elif self._has_room(search, seed):
                    self._try(search, seed)
        self._record(search, search.base_race, pool=len(search.proposals))

    def _seed_ahead(self, search: LabelSearch, lead: PromptFit) -> None:
        """Let workers tune the seed prompt beside the leading one, if it will probably be tuned."""
        seed = search.seed
        if not search.last_epochs:
            self._tune_ahead(search, seed, self.splits[:1])
            return
        both = sum(self.prices.trial(fit, self.splits, search.epochs) for fit in (lead, seed))
        if both <= self.context.spending.left_within_step() - self._owed(search, seed):
            self._tune_ahead(search, seed, self.splits)

    # Later cycles -------------------------------------------------------------------------------------------------

    def _next_cycle(self, search: LabelSearch) -> bool:
        """Mutate, race on frozen states, tune the best child; False if there is no room."""
        context, number = self.context, len(search.cycles) + 1
        self._cycle = number
        winner = search.winner
        assert winner is not None
        room = self._room(search) - self.prices.extras()
        trial = self.prices.trial(winner.fit, self.splits, search.epochs) if search.epochs else 0.0
        # The race does not read a teacher's rows.
        trial += self.prices.embedding.row_cost(winner.fit.prompt, len(search.written), layers=[winner.fit.found.layer])
        trial += self.guide.cost(winner.fit.prompt)
        # A challenger that wins needs a final tuning too; that of the present winner is already reserved.
        count = self.races.fitting(len(self.rows), room - 1.1 * trial)
        cost = self.races.cost(count, len(self.rows)) + 1.1 * trial
        if cost > room:
            unit = context.spending.budget.unit
            what = "racing new prompts and tuning the best of them" if search.epochs else "racing new prompts"
            search.stopped = (
                f"the rest is reserved for the test: {what} needs about {cost:,.0f} {unit}, and {max(0.0, room):,.0f} {unit} "
                "are left for it"
            )
            return False
        parents = self._parents(search)
        guided = self.guide.look(number, self._on_dev(winner), [p.prompt for p in search.proposals.values()])
        children = next_pool(
            context,
            number,
            parents,
            count,
            set(search.proposals),
            demonstrations=self.config.search.demonstrations,
            seed=self.config.seed,
            guided=guided,
            nearest=self.config.search.nearest_demonstrations,
        )
        if not children:
            search.stopped = "no new prompt was found"
            return False
        search.proposals.update({p.prompt.id: p for p in children})
        field_ = list({p.id: p for p in (winner.fit.prompt, *(c.prompt for c in children))}.values())
        race = race_probes(
            context,
            self.embedding,
            field_,
            self.rows,
            BASE,
            cycle=number,
            always=[winner.fit.prompt],
            first_rows=self.races.first_rows,
        )
        search.fits |= {name: race.fits[name] for name in race.full if race.rows[name] == len(self.rows)}
        challenger = self._challenger(search)
        if challenger is not None and not search.epochs:
            self._judge_frozen(search, challenger)
        elif challenger is not None and self._has_room(search, challenger):
            self._try(search, challenger)
        self._choose(search)
        self._record(search, race, pool=len(field_), children=len(children))
        return True

    def _challenger(self, search: LabelSearch) -> PromptFit | None:
        """The best prompt that was not tuned yet, if its frozen probe is not clearly worse than the best one."""
        tried = {e.fit.prompt.id for e in search.evidence if e.tuned or not search.epochs}
        known = list(search.fits.values())
        best = min(known, key=lambda fit: fit.mean)
        fits = sorted((fit for fit in known if fit.prompt.id not in tried), key=lambda fit: fit.mean)
        near = (fit for fit in fits if fit is best or (gap := difference(fit, best)).mean() <= 2 * corrected_error(gap))
        return next(near, None)

    def _choose(self, search: LabelSearch) -> None:
        """Choose the winner among the evidence on all held-out rows; ties keep the present winner."""
        best = min((e for e in search.evidence if len(e.losses) == self._judged), key=search.expected)
        if search.winner is None or search.expected(best) < search.expected(search.winner):
            search.winner = best

    def _on_dev(self, evidence: Evidence) -> Measured:
        """A candidate's outputs on dev, for the analysis of its failures."""
        return measured_on_dev(self.context, evidence.first.adapter, evidence.first, evidence)

    def _parents(self, search: LabelSearch) -> list[Prompt]:
        ranked = sorted(search.evidence, key=lambda e: e.mean)
        prompts = [e.fit.prompt for e in ranked] + [f.prompt for f in sorted(search.fits.values(), key=lambda f: f.mean)]
        return list({p.id: p for p in prompts}.values())[: HEURISTICS.finalists]

    # Judging ------------------------------------------------------------------------------------------------------

    def _judge_frozen(self, search: LabelSearch, fit: PromptFit) -> None:
        """Judge a prompt's frozen probe on the held-out rows of each split."""
        search.evidence.append(self._frozen(search, fit, self.splits))

    def _frozen(self, search: LabelSearch, fit: PromptFit, splits: Sequence[Split]) -> Evidence:
        """How a prompt's frozen probe does on the held-out rows of splits.

        Its temperature is that of its cross-fitting, which knows no further rows; once these are used, it is fitted again.
        """
        found = [self.trials.frozen(fit, split.learn) for split in splits]
        return self._evidence(fit, found, 0.0, BASE, splits, refit=bool(search.written))

    def _try(self, search: LabelSearch, fit: PromptFit, splits: Sequence[Split] | None = None) -> None:
        """Tune a prompt on each split; nothing is added if a tuning diverged."""
        wanted = self.splits if splits is None else splits
        start = self._start_of(fit.prompt, search)
        keep = self._owed(search, fit)
        found = []
        self._tune_ahead(search, fit, wanted)
        for split in wanted:
            steps = self.trials.steps_of(search.epochs, len(split.learn))
            made = self.trials.tune(fit, split.learn, steps, stage="tune", start=start, keep=keep)
            if made is None:
                self.trials.give_up(fit.prompt)
                return
            self.embedding.ahead([fit.prompt], made.adapter, split.held, layers=[made.layer])
            found.append(made)
        if not any(e.fit.prompt.id == fit.prompt.id and not e.tuned for e in search.evidence):
            self._judge_frozen(search, search.fits.get(fit.prompt.id, fit))
        with suppress(DivergedError):
            search.evidence.append(self._evidence(fit, found, search.epochs, start, splits=wanted))
        self._choose(search)

    def _tune_ahead(self, search: LabelSearch, fit: PromptFit, splits: Sequence[Split]) -> None:
        """Let workers tune a prompt on each split for :meth:`_try`; does nothing without workers."""
        if self.context.crew is None:
            return
        start, keep = self._start_of(fit.prompt, search), self._owed(search, fit)
        for split in splits:
            steps = self.trials.steps_of(search.epochs, len(split.learn))
            self.trials.ahead(fit, split.learn, steps, stage="tune", start=start, keep=keep)

    @property
    def _judged(self) -> int:
        """Number of rows that the splits hold out in all."""
        return sum(len(split.held) for split in self.splits)

    def _start_of(self, prompt: Prompt, search: LabelSearch) -> str:
        """Adapter that a prompt is tuned from: an earlier bundle's, but BASE for the seed prompt, to show the gain."""
        previous = self.previous
        return previous.ground if previous and prompt.id != search.seed.prompt.id else BASE

    def _evidence(
        self,
        fit: PromptFit,
        found: Sequence[Fitted],
        epochs: float,
        start: str,
        splits: Sequence[Split] | None = None,
        *,
        refit: bool = False,
    ) -> Evidence:
        """How read-outs did on the rows held out from each split; a ``tuned`` step.

        The temperature of a frozen probe is that of its cross-fitting, unless it has learnt from further rows (``refit``).
        """
        splits = self.splits if splits is None else splits
        tables = [self.trials.log_probs(made, split.held, "judge") for made, split in zip(found, splits, strict=True)]
        truth = label_indices([row for split in splits for row in split.held], self.context.task)
        whole = np.concatenate(tables)
        temperature = best_temperature(whole, truth) if epochs or refit else fit.found.temperature
        log_probs = tempered(whole, temperature)
        evidence = Evidence(
            fit,
            epochs,
            temperature,
            -log_probs[np.arange(len(truth)), truth],
            (log_probs.argmax(axis=1) == truth).astype(np.float64),
            found[0],
            log_probs[: len(splits[0].held)],
            start,
        )
        self.context.journal.step(
            "tuned",
            [fit.prompt.id, found[0].adapter, epochs],
            lambda: {
                "cycle": self._cycle,
                "stage": "tune" if epochs else "frozen",
                "prompt_id": fit.prompt.id,
                "adapter_id": found[0].adapter,
                "steps": found[0].steps,
                "layer": fit.found.layer,
                "readout": "probe",
                "temperature": round(temperature, 4),
                "decision": "probe",
                "score": round(float(evidence.correct.mean()), 6),
                "log_loss": round(evidence.mean, 6),
                "rows": len(truth),
            },
        )
        return evidence

    # Budget -------------------------------------------------------------------------------------------------------

    def _owed(self, search: LabelSearch, trying: PromptFit | None = None) -> float:
        """Cost of the final tuning and the test, whether the winner or ``trying``, whose trial is running, wins."""
        winner = search.winner
        if winner is None or not winner.tuned:
            # A frozen winner is not tuned; the seed prompt's weights are an arm in any case.
            fit = search.best_frozen if winner is None else winner.fit
            owed = self._end(search, fit, [search.seed], trying)
        else:
            owed = self._end(search, winner.fit, [search.seed, winner.fit], trying)
        if trying is None:
            return owed
        return max(owed, self._end(search, trying, [search.seed, trying], trying))

    def _end(self, search: LabelSearch, winner: PromptFit, tuned: Sequence[PromptFit], trying: PromptFit | None) -> float:
        """See :meth:`Prices.end`."""
        return self.prices.end(search, winner, tuned, len(self.rows) + len(search.written), search.last_epochs, trying)

    def _has_room(self, search: LabelSearch, fit: PromptFit) -> bool:
        """Whether the budget has room for a trial and for the end, whoever wins."""
        return self.prices.trial(fit, self.splits, search.epochs) <= self._room(search, fit)

    def _room(self, search: LabelSearch, trying: PromptFit | None = None) -> float:
        """Budget that is not reserved, if ``trying`` is tuned next."""
        return self.context.spending.left() - self._owed(search, trying)

    def _record(self, search: LabelSearch, race: ProbeRace, *, pool: int, children: int | None = None) -> None:
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
                    "score": round(float(e.correct.mean()), 6),
                    "log_loss": round(e.mean, 6),
                }
                for e in search.evidence
                if e.tuned
            ],
            "winner": winner.fit.prompt.id,
        }
        score, log_loss = round(float(winner.correct.mean()), 6), round(winner.mean, 6)
        record_cycle(self.context, search.cycles, facts, score=score, log_loss=log_loss, steps=winner.first.steps)


def _unreadable(context: RunContext) -> CotuneError:
    return CotuneError(
        f"{context.model.name} gives hidden states that are not finite under the seed prompt: "
        "run with engine.dtype=float32, or take another model"
    )


def measured_on_dev(context: RunContext, adapter: str, made: Fitted, evidence: Evidence) -> Measured:
    """Weights as a candidate, with the dev outputs of its evidence."""
    given = LabelOutputs(evidence.dev_log_probs)
    candidate = Candidate(made.prompt, adapter, BY_PROBE, made.steps)
    return Measured(candidate, context.answers.judge(given, context.dev, BY_PROBE), given)
