"""The loop of the search without tuning: generate prompts, race them, mutate the best, until the budget ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.prompt_search.plan import PromptPlan
from cotune.cycle.search.guide import Guide
from cotune.cycle.search.measured import Measured, measure_base
from cotune.cycle.search.pool import next_pool, opening_pool
from cotune.cycle.search.race import FINAL, RaceResult, race_prompts, race_rows_scored
from cotune.cycle.search.result import record_cycle
from cotune.errors import counted
from cotune.evaluate.scoring import finite
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal

_PATIENCE = 2
"""Cycles without a better dev score after which the search stops."""


@dataclass
class PromptSearch:
    """State and result of a search without tuning.

    Attributes:
        proposals: every prompt that was scored, by id.
        measured: measurements on all of dev, by prompt id, the seed prompt first.
        finalists: the best prompts of the last race.
        cycles: a record for each cycle.
        stopped: why the loop ended.
    """

    by_probe: ClassVar[bool] = False

    proposals: dict[str, Proposal]
    measured: dict[str, Measured]
    finalists: tuple[Prompt, ...] = ()
    cycles: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""

    @property
    def prompts_tuned(self) -> int:
        """Prompts whose weights were tuned: none."""
        return 0

    @property
    def best(self) -> Measured:
        """The best measurement on dev; ties keep the earliest."""
        return max(self.measured.values(), key=lambda m: m.rank)


class PromptLoop:
    """Runs the cycle within a plan.

    Args:
        context: context of the run.
        config: config of the run.
        plan: plan of the search.
        own: the seed prompt first, then the user's further prompts.
    """

    def __init__(self, context: RunContext, config: RunConfig, plan: PromptPlan, own: Sequence[Prompt]) -> None:
        self.context, self.config, self.plan, self.own = context, config, plan, list(own)
        self.guide = Guide(context, config)

    def run(self) -> PromptSearch:
        """Run cycles until the budget, the cycles or the gains end."""
        context, search = self.context, self.config.search
        proposals = opening_pool(
            context,
            self.own,
            self.plan.pool,
            demonstrations=search.demonstrations,
            seed=self.config.seed,
            nearest=self.plan.nearest,
        )
        by_id = {p.prompt.id: p for p in proposals}
        found = PromptSearch(by_id, {self.own[0].id: measure_base(context, self.own[0])})
        race = self._race(found, [p.prompt for p in proposals])
        self._record(found, race, pool=len(proposals), children=0)
        lost = 0
        while True:
            choice, why, room = self._decide(found, lost)
            recorded = context.journal.step(
                "decide",
                [len(found.cycles), choice],
                lambda c=choice, w=why: {"next": c, "why": w, "steps": 0},  # type: ignore[misc]
            )
            over, plan = recorded["next"] == "finish", self.plan
            context.spending.expect_end(context.spending.costs.scoring(plan.reserve_tokens) + plan.fixed if over else None)
            if over:
                found.stopped = recorded["why"]
                return found
            before = found.best.rank
            race = self._next(found, race, room)
            lost = 0 if found.best.rank > before else lost + 1

    def _next(self, found: PromptSearch, before: RaceResult, room: float) -> RaceResult:
        """Mutate the best prompts on dev and of the last race, and race the children against them.

        ``room`` is the budget for the guide's answer.
        """
        context, number = self.context, len(found.cycles) + 1
        known = {p.prompt.id: p.prompt for p in found.proposals.values()} | {p.id: p for p in self.own}
        leading = sorted(found.measured.values(), key=lambda m: m.rank, reverse=True)
        parents = [m.candidate.prompt for m in leading[:2]] + [known[i] for i in before.ranking[:2]]
        parents = list({p.id: p for p in parents}.values())[:FINAL]
        guided = self.guide.look(number, found.best, known.values(), room)
        children = next_pool(
            context,
            number,
            parents,
            self._children,
            set(known),
            demonstrations=self.config.search.demonstrations,
            seed=self.config.seed,
            guided=guided,
            nearest=self.plan.nearest,
        )
        found.proposals.update({p.prompt.id: p for p in children})
        entrants = list({p.id: p for p in (*parents, *(c.prompt for c in children))}.values())
        race = self._race(found, entrants)
        ids = {p.id for p in parents}
        self._record(found, race, pool=len(entrants), children=sum(bool(set(c.parents) & ids) for c in children))
        return race

    def _race(self, found: PromptSearch, prompts: Sequence[Prompt]) -> RaceResult:
        """Race prompts, and measure the best of them on all of dev."""
        race = race_prompts(self.context, prompts, BASE, rows=self.plan.race_rows, cycle=len(found.cycles) + 1)
        by_id = {p.id: p for p in prompts}
        found.finalists = tuple(by_id[i] for i in race.ranking[:FINAL])
        best = found.finalists[0]
        if best.id not in found.measured:
            found.measured[best.id] = measure_base(self.context, best)
        return race

    @property
    def _children(self) -> int:
        return max(4, self.plan.pool * 2 // 3)

    def _decide(self, found: PromptSearch, lost: int) -> tuple[str, str, float]:
        """The next step, the reason, and the budget that it leaves besides the end."""
        context = self.context
        if lost >= _PATIENCE:
            return "finish", f"dev did not improve in {counted(lost, 'cycle')}", 0.0
        if len(found.cycles) >= self.config.search.max_cycles:
            return "finish", f"search.max_cycles={self.config.search.max_cycles} is reached", 0.0
        left = context.spending.left() - context.spending.costs.scoring(self.plan.reserve_tokens) - self.plan.fixed
        own = max(context.spending.rows.counted(found.best.candidate.prompt)[0], self.plan.row_tokens)
        rows = race_rows_scored(self._children + FINAL, self.plan.race_rows) + len(context.dev)
        cost = 1.2 * context.spending.costs.scoring(rows * own) + self.guide.cost(found.best.candidate.prompt)
        if cost > left:
            return "finish", "the rest of the budget is reserved for the test", 0.0
        why = "prompts were not mutated yet" if len(found.cycles) == 1 else "the budget has room for another race"
        return "prompts", why, left - cost

    def _record(self, found: PromptSearch, race: RaceResult, *, pool: int, children: int) -> None:
        best = found.best
        facts = {"kind": "prompts", "pool": pool, "children": children, "race": race.record(), "tuned": []}
        facts["winner"] = best.candidate.prompt.id
        score, log_loss = round(best.evaluation.score, 6), finite(best.evaluation.log_loss)
        record_cycle(self.context, found.cycles, facts, score=score, log_loss=log_loss, steps=0)
