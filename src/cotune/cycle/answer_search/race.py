"""Race of prompts on dev under one set of weights: successive halving over rows, with a sequential test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.errors import CotuneError, DivergedError
from cotune.evaluate.decision import RAW
from cotune.evaluate.responses import ModelOutputs
from cotune.evaluate.scoring import Evaluation, finite
from cotune.evaluate.stats.racing import Race, schedule_cost, successive_halving_schedule
from cotune.evaluate.stats.resampling import Floats
from cotune.prompt.prompt import Prompt
from cotune.task.example import groups_of

FINAL = 3
"""Number of prompts that see all rows of a race."""


@dataclass
class RaceResult:
    """Result of a race.

    Attributes:
        adapter: weights of the race.
        ranking: prompt ids, best first: those that saw all rows, then the others by the number of rows they saw.
        scores: outputs of each prompt, by id, on the first rows of dev, as far as it saw them.
        dropped: ids that the test dropped.
        evaluations: evaluation of each prompt, by id, on the rows it saw, under its better decision rule.
    """

    adapter: str
    ranking: list[str] = field(default_factory=list)
    scores: dict[str, ModelOutputs] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Entry in a cycle's record."""
        best = self.evaluations[self.ranking[0]]
        return {
            "adapter_id": self.adapter,
            "ranking": self.ranking,
            "dropped": self.dropped,
            "dev_score": finite(best.score),
            "dev_log_loss": finite(best.log_loss),
        }

    def told(self) -> dict[str, Any]:
        """Value of the race's step in the journal."""
        scores = {prompt_id: finite(found.score, 4) for prompt_id, found in self.evaluations.items()}
        log_losses = {prompt_id: finite(found.log_loss, 4) for prompt_id, found in self.evaluations.items()}
        best = self.ranking[0]
        return {
            "adapter_id": self.adapter,
            "ranking": self.ranking,
            "dropped": self.dropped,
            "rows": {prompt_id: len(given) for prompt_id, given in self.scores.items()},
            "scores": scores,
            "log_losses": log_losses,
            "best": {"prompt_id": best, "score": scores[best], "log_loss": log_losses[best]},
        }


def race_prompts(context: RunContext, prompts: Sequence[Prompt], adapter: str, *, rows: int, cycle: int) -> RaceResult:
    """Race prompts over the first ``rows`` rows of dev.

    All prompts see the same rows in the same order. The loss is the log-loss after calibration, because raw scores of the base
    model depend more on the frequency of label words than on the prompt.

    Args:
        prompts: entrants, at least one.
        rows: dev rows of the last round.

    Raises:
        CotuneError: every prompt failed.
    """
    result = RaceResult(adapter)
    groups = groups_of(context.dev[:rows])
    largest = 1 if groups is None else int(np.unique(groups, return_counts=True)[1].max())
    race = Race(len(prompts), bound=context.answering.loss_bound, lengths=tuple(map(_length, prompts)), largest=largest)
    seen = 0
    failed: set[int] = set()
    for step in successive_halving_schedule(len(prompts), rows, final=FINAL):
        end = max(seen, _whole_groups(groups, step.rows))
        part = context.dev[seen:end]
        for number in race.active if part else ():
            prompt = prompts[number]
            try:
                found = context.answers.scores(prompt, adapter, part, "race", answers=False, cycle=cycle)
            except DivergedError:
                failed.add(number)
                continue
            before = result.scores.get(prompt.id)
            result.scores[prompt.id] = found if before is None else before.plus(found)
        alive = [n for n in race.active if n not in failed]
        if not alive:
            raise CotuneError("every prompt of the race gave scores that are not finite")
        if gone := [n for n in race.active if n in failed]:
            race = race.retire(gone)
        losses = np.stack([race_losses(context, result.scores[prompts[n].id])[seen:end] for n in alive], axis=1)
        race = race.update(losses, None if groups is None else groups[seen:end])
        seen = end
        leaving = race.ranking()[step.keep :]
        if leaving and step.rows < rows:
            race = race.retire(leaving)
    result.dropped = [prompts[n].id for n in race.dropped]
    standing = list(race.ranking())
    others = sorted(
        (n for n in range(len(prompts)) if n not in standing and n not in failed),
        key=lambda n: (-race.rows[n], race.mean_losses[n]),
    )
    result.ranking = [prompts[n].id for n in (*standing, *others)]
    for prompt_id, scores in result.scores.items():
        result.evaluations[prompt_id], _ = context.answers.judge_best(scores, context.dev[: len(scores)])
    key = [cycle, adapter, [prompt.id for prompt in prompts]]
    context.journal.step("race", key, lambda: {"cycle": cycle, **result.told()})
    return result


def race_rows_scored(pool: int, rows: int) -> int:
    """Maximum number of row scores of a race of ``pool`` prompts over ``rows`` rows."""
    return schedule_cost(pool, successive_halving_schedule(pool, rows, final=FINAL))


def race_tokens(lengths: Sequence[float], rows: int) -> float:
    """Maximum number of tokens of a race over ``rows`` rows, by the tokens of a row of each prompt: the longest may stay."""
    longest, count, seen, total = sorted(lengths, reverse=True), len(lengths), 0, 0.0
    for step in successive_halving_schedule(len(lengths), rows, final=FINAL):
        total += (step.rows - seen) * sum(longest[:count])
        count, seen = step.keep, step.rows
    return total


def _whole_groups(groups: NDArray[np.str_] | None, rows: int) -> int:
    """The end of a round that was planned for ``rows``, moved so that no group is cut."""
    while groups is not None and rows < len(groups) and groups[rows] == groups[rows - 1]:
        rows += 1
    return rows


def _length(prompt: Prompt) -> int:
    """Approximate number of characters before a row's own text."""
    shown = sum(len(text) for demonstration in prompt.demonstrations for _, text in demonstration.fields)
    if prompt.nearest:
        shown = shown * min(prompt.nearest, len(prompt.demonstrations)) // max(1, len(prompt.demonstrations))
    return len(prompt.text) + shown


def race_losses(context: RunContext, scores: ModelOutputs) -> Floats:
    """Log-loss of each row after calibration on the inputs so far, if there are at least 8.

    Without a log-loss, it is the score that the row lacks.
    """
    rows = context.dev[: len(scores)]
    if len(scores) < 8:
        return context.answers.judge(scores, rows, RAW).race_losses
    return context.answers.judge(scores, rows, context.answers.bias(scores)).race_losses
