"""A classification head on tuned weights: fitted on train once the search has ended, and taken where dev prefers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cotune.cycle.answering import LabelAnswering
from cotune.cycle.attempt import attempt
from cotune.cycle.lab import Lab
from cotune.cycle.track import Measured, measure
from cotune.errors import DivergedError
from cotune.evaluate.decision import BY_HEAD
from cotune.evaluate.given import gold_indices
from cotune.model.adapters import BASE
from cotune.prompt.prompt import Prompt
from cotune.refine import not_shown
from cotune.task.example import Example

_SHARE = 0.02
"""Of the whole budget: what the states of train rows may cost, for each candidate."""
_LEAST = 3
"""Rows for each label, in all, from which a head is tried."""
_CARE = 1.05
"""What rows are reckoned at: those that were counted are a sample of them."""
_MOST = 5 * 10**8
"""Rows times width times labels: a fit of some seconds, and of some hundred megabytes."""


class Heads:
    """Fits heads to tuned candidates, and knows what that costs.

    A run's tuned weights have met each row a few times only. Logistic regression on the states that they give the rows goes on
    from there without a further step, and tells the labels apart better than their words do.

    Args:
        lab: where effects happen.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._enough: dict[str, int] = {}
        self._counted: dict[str, tuple[float, int]] = {}

    def cost(self, prompt: Prompt) -> float:
        """Of trying one on a tuned prompt, in the budget's unit: states of train rows and of dev; 0 where none is tried."""
        rows = self._count(prompt)
        if not rows:
            return 0.0
        own, prefix = self._tokens(prompt)
        return self.lab.costs.scoring(_CARE * (rows + len(self.lab.dev)) * own + 2 * prefix)

    def fit(self, measured: Sequence[Measured], room: float) -> tuple[dict[str, Measured], list[Measured]]:
        """Each candidate as it was measured, or the same with a head where that ranks higher on dev.

        All get a try or none does, so that what is told of two prompts is told of the prompts.

        Args:
            measured: candidates of this run; the base model stays as it is.
            room: budget that this may take.

        Returns:
            Them by the id that they had, and all that was tried.
        """
        found = {m.candidate.id: m for m in measured}
        able = [m for m in found.values() if m.candidate.adapter != BASE]
        costs = [self.cost(m.candidate.prompt) for m in able]
        if not all(costs) or sum(costs) > room:
            return found, []
        tried = {m.candidate.id: headed for m in able if (headed := self._with_head(m)) is not None}
        better = {i: max(found[i], headed, key=lambda m: m.rank) for i, headed in tried.items()}
        return found | better, list(tried.values())

    def _with_head(self, measured: Measured) -> Measured | None:
        """The candidate with a head, measured on dev; None where that failed."""
        lab, candidate, adapters = self.lab, measured.candidate, self.lab.model.adapters

        def progress(tokens: int) -> None:
            told.append(tokens)
            lab.watcher.progress("head", candidate.prompt.text, tokens)

        def effect() -> dict[str, Any]:
            from cotune.tune.head import fit_head

            rows = self._rows(candidate.prompt)
            with lab.stopwatch:
                rendered = lab.answering.render(candidate.prompt, rows)
                told.append(sum(row.looked_up for row in rendered))
                states = lab.model.last_states([r.prompt_ids for r in rendered], adapter=candidate.adapter, progress=progress)
                words = {"decision": candidate.decision.to_json(), "score": measured.evaluation.told_score()}
                head = fit_head(states, [int(i) for i in gold_indices(rows, lab.task)], lab.task.labels, words)
            return {"adapter_id": adapters.add_head(candidate.adapter, head, lab.folder / "adapters"), "rows": len(rows)}

        def record() -> dict[str, Any]:
            made = attempt(lab.journal, effect)
            return {"prompt_id": candidate.prompt.id, **made, "tokens": sum(told), **lab.stopwatch.taken()}

        told: list[int] = []
        value = lab.journal.step("head", [candidate.id], record)
        lab.account.counts["tokens_scored"] += int(value["tokens"])
        if "skipped" in value:
            return None
        adapters.register(lab.folder / "adapters" / value["adapter_id"])
        try:
            return measure(lab, candidate.prompt, value["adapter_id"], candidate.steps, "head", BY_HEAD)
        except DivergedError:
            return None

    def _tokens(self, prompt: Prompt) -> tuple[float, int]:
        """Own tokens of a row, the labels' words aside, and those of the prefix."""
        if prompt.id not in self._counted:
            assert isinstance(self.lab.answering, LabelAnswering)
            self._counted[prompt.id] = self.lab.answering.own_tokens(prompt, self.lab.train_sample[:16])
        return self._counted[prompt.id]

    def _count(self, prompt: Prompt) -> int:
        """Train rows that a head is fitted on: as many as a share of the budget pays for; 0 where these are too few, or where a
        label has none, which a head would silence."""
        lab = self.lab
        if not (lab.tune.head and lab.remote is None and isinstance(lab.answering, LabelAnswering)):
            return 0
        labels = len(lab.task.labels)
        if prompt.id not in self._enough:
            rows = not_shown(prompt, lab.train_sample)
            most = min(len(rows), _MOST // (lab.model.width * labels))
            self._enough[prompt.id] = most if len({row.output for row in rows}) == labels > 1 else 0
        most, cost = self._enough[prompt.id], lab.costs.scoring(self._tokens(prompt)[0])
        if cost > 0:
            most = min(most, int(_SHARE * lab.costs.budget.amount / cost))
        return most if most >= _LEAST * labels else 0

    def _rows(self, prompt: Prompt) -> tuple[Example, ...]:
        """So many of them; the first rows of every label come before further ones of any."""
        rows = not_shown(prompt, self.lab.train_sample)
        seen: Counter[str] = Counter()
        places: dict[str, int] = {}
        for row in rows:
            places[row.id] = min(seen[row.output], _LEAST)
            seen[row.output] += 1
        return tuple(sorted(rows, key=lambda row: places[row.id])[: self._count(prompt)])
