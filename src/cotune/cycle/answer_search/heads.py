"""Classification heads on tuned weights.

A head is fitted on train after the search, used unless dev prefers words, and then fitted again on train and dev together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cotune.cycle.answer_search.heuristics import HEURISTICS
from cotune.cycle.answer_search.trial import measure
from cotune.cycle.answering.base import LabelAnswering
from cotune.cycle.context import RunContext
from cotune.cycle.journal import attempt
from cotune.cycle.kept import register_kept
from cotune.cycle.search.measured import Measured
from cotune.errors import DivergedError
from cotune.evaluate.arms import ArmScores, ArmsMetric
from cotune.evaluate.decision import BY_PROBE
from cotune.evaluate.responses import label_indices
from cotune.evaluate.stats.resampling import difference_error
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.refine import not_shown
from cotune.task.example import Example, groups_of


class Heads:
    """Fits heads to tuned candidates, and prices this.

    Tuned weights have had only a few epochs. Logistic regression on their states learns further without optimizer steps, and
    separates the labels better than label words do.

    Args:
        context: context of the run.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._most: dict[str, int] = {}
        self._final: dict[str, str] = {}

    def cost(self, prompt: Prompt) -> float:
        """Cost of a head for a tuned prompt, in the budget's unit; 0 if none is tried.

        The states of train rows and of dev are computed, and dev is scored with the head.
        """
        rows, dev, costs = self._count(prompt), len(self.context.dev), self.context.spending.costs
        if not rows:
            return 0.0
        own, prefix = self.context.spending.rows.without_words(prompt)
        fits = 2 * HEURISTICS.head_seconds * (rows + dev) * self._numbers if costs.budget.kind == "time" else 0.0
        return costs.scoring(HEURISTICS.head_care * (rows + 2 * dev) * own + 2 * prefix) + fits

    def fit(self, measured: Sequence[Measured], room: float) -> tuple[dict[str, Measured], list[Measured]]:
        """Fit heads to candidates; a candidate keeps its words if dev clearly prefers them.

        Heads are tried for all candidates or for none, so that a comparison of two prompts depends only on the prompts.

        Args:
            measured: candidates of this run; the base model gets no head.
            room: budget that this may take.

        Returns:
            The candidates by their original ids, and all candidates with a head that were tried.
        """
        found = {m.candidate.id: m for m in measured}
        able = [m for m in found.values() if m.candidate.adapter != BASE]
        if not able or not self._asked_for():
            return found, []
        # The decision is recorded, because a resumed run may have another remaining budget here.
        told = self.context.journal.step("heads", list(map(_id, able)), lambda: self._whether(able, room))
        if "skipped" in told:
            return found, []
        tried = {m.candidate.id: headed for m in able if (headed := self._with_head(m)) is not None}
        better = {i: headed for i, headed in tried.items() if not self._prefers_words(found[i], headed)}
        return found | better, list(tried.values())

    def final(self, measured: Measured) -> Measured:
        """A chosen candidate with the head that was fitted on train and dev together; unchanged if it has no head.

        The weights have not seen the dev rows, as they have not seen the test, so dev rows tell a head more than train rows.
        The measurement before is kept, because dev cannot judge a head that has learnt from it.
        """
        candidate = measured.candidate
        if (adapter := self._final.get(candidate.adapter)) is None:
            return measured
        return Measured(replace(candidate, adapter=adapter), measured.evaluation, measured.scores)

    def _prefers_words(self, words: Measured, head: Measured) -> bool:
        """Whether words are better than the head by more than chance.

        A head has nearly always been better, and few dev rows say little about that. If its log-loss is lower, words must
        therefore be better by more than the reach of a 95% interval of the difference.
        """
        if head.rank >= words.rank:
            return False
        if head.evaluation.log_loss >= words.evaluation.log_loss:
            return True
        pair = {"words": words.evaluation, "head": head.evaluation}
        arms = {name: ArmScores(found.values, counts=found.counts) for name, found in pair.items()}
        statistic = ArmsMetric(arms, self.context.task.measure.aggregate or "mean").statistic()
        error = difference_error(statistic, len(self.context.dev), groups_of(self.context.dev))
        return words.evaluation.score - head.evaluation.score > HEURISTICS.head_reach * error

    def _whether(self, able: Sequence[Measured], room: float) -> dict[str, Any]:
        """A record for the journal: the number of candidates that get heads, or why there are none."""
        prompts = [m.candidate.prompt for m in able]
        for prompt in prompts:
            if why := self._lacking(prompt):
                return {"skipped": why}
        cost = sum(map(self.cost, prompts))
        if cost > room:
            unit, left = self.context.spending.budget.unit, max(0.0, room)
            return {"skipped": f"needs about {cost:,.0f} {unit}, {left:,.0f} {unit} left"}
        return {"candidates": len(able)}

    def _with_head(self, measured: Measured) -> Measured | None:
        """The candidate with a head, measured on dev; None if that failed."""
        context, candidate, adapters = self.context, measured.candidate, self.context.model.adapters

        def progress(tokens: int) -> None:
            told.append(tokens)
            context.watcher.progress("head", candidate.prompt.text, tokens)

        def effect() -> dict[str, Any]:
            from cotune.tune.head import fit_head

            train = self._rows(candidate.prompt)
            rows = (*train, *not_shown(candidate.prompt, context.dev))
            with context.spending.stopwatch:
                rendered = context.answering.render(candidate.prompt, rows)
                told.append(sum(row.looked_up for row in rendered))
                depth = context.model.depth
                ids = [row.prompt_ids for row in rendered]
                states = context.model.layer_states(ids, [depth], adapter=candidate.adapter, progress=progress)[0]
                words = {"decision": candidate.decision.to_json(), "score": measured.evaluation.told_score()}
                truth = [int(i) for i in label_indices(rows, context.task)]
                heads = (fit_head(states[:n], truth[:n], context.task.labels, depth, words) for n in (len(train), len(rows)))
                first, final = (adapters.add_probe(candidate.adapter, head, context.folder / "adapters") for head in heads)
            return {"adapter_id": first, "final_id": final, "rows": len(train)}

        def record() -> dict[str, Any]:
            made = attempt(context.journal, effect)
            return {"prompt_id": candidate.prompt.id, **made, "tokens": sum(told), **context.spending.stopwatch.taken()}

        told: list[int] = []
        value = context.journal.step("head", [candidate.id], record)
        context.spending.account.counts["tokens_scored"] += int(value["tokens"])
        if "skipped" in value:
            return None
        for name in ("adapter_id", "final_id"):
            register_kept(adapters, context.folder, value[name])
        self._final[value["adapter_id"]] = value["final_id"]
        try:
            return measure(context, candidate.prompt, value["adapter_id"], candidate.steps, "head", BY_PROBE)
        except DivergedError:
            return None

    def _asked_for(self) -> bool:
        context = self.context
        return context.tune.head and isinstance(context.answering, LabelAnswering)

    def _count(self, prompt: Prompt) -> int:
        """Number of train rows that a head is fitted on, within its share of the budget; 0 if none is tried."""
        return 0 if not self._asked_for() or self._lacking(prompt) else self._payable(prompt)

    def _lacking(self, prompt: Prompt) -> str:
        """The reason why there is no head for this prompt; empty if there can be one."""
        labels, usable = len(self.context.task.labels), self._usable(prompt)
        if usable == 0:
            return "a label has no train row that the prompt does not show, so a head would never predict it"
        if usable < HEURISTICS.head_rows * labels:
            return f"it needs {HEURISTICS.head_rows} rows for each of {labels} labels, and there are {usable}"
        if self._payable(prompt) < HEURISTICS.head_rows * labels:
            rows = f"the rows of dev and {HEURISTICS.head_rows} for each of {labels} labels"
            return f"{rows} would cost more than {HEURISTICS.head_share:.0%} of the budget"
        return ""

    @property
    def _numbers(self) -> int:
        """Number of a head's weights."""
        return self.context.model.width * len(self.context.task.labels)

    def _usable(self, prompt: Prompt) -> int:
        """Maximum number of train rows besides those of dev; 0 if a label has no row."""
        context = self.context
        if prompt.id not in self._most:
            rows = not_shown(prompt, context.train_sample)
            known = len({row.output for row in rows}) == len(context.task.labels) > 1
            self._most[prompt.id] = (
                max(0, min(len(rows), HEURISTICS.head_size // self._numbers - len(context.dev))) if known else 0
            )
        return self._most[prompt.id]

    def _payable(self, prompt: Prompt) -> int:
        """Number of these rows within a head's share of the budget, with dev read twice."""
        cost, most = (
            self.context.spending.costs.scoring(self.context.spending.rows.without_words(prompt)[0]),
            self._usable(prompt),
        )
        if cost <= 0:
            return most
        return min(most, int(HEURISTICS.head_share * self.context.spending.budget.amount / cost) - 2 * len(self.context.dev))

    def _rows(self, prompt: Prompt) -> tuple[Example, ...]:
        """The train rows of a head; the first rows of every label come before further rows of any label."""
        rows = not_shown(prompt, self.context.train_sample)
        seen: Counter[str] = Counter()
        places: dict[str, int] = {}
        for row in rows:
            places[row.id] = min(seen[row.output], HEURISTICS.head_rows)
            seen[row.output] += 1
        return tuple(sorted(rows, key=lambda row: places[row.id])[: self._count(prompt)])


def _id(measured: Measured) -> str:
    return measured.candidate.id
