"""Choice of the prompts that are tuned after a race."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.cycle.answer_search.heuristics import HEURISTICS
from cotune.cycle.context import RunContext
from cotune.embed import behaviour, centred, farthest_first
from cotune.prompt.prompt import Prompt


def choose_entrants(
    context: RunContext, ranking: Sequence[Prompt], always: Sequence[Prompt], count: int, *, cycle: int
) -> list[Prompt]:
    """Choose the prompts to tune: the required ones, the best of the race, then those with the most different behaviour.

    A prompt's score before tuning says little about its score after tuning, so the choice does not depend on rank alone.

    Args:
        context: context of the run.
        ranking: prompts, best first.
        always: prompts that are tuned whatever their rank.
        count: number of entrants.
        cycle: number of the cycle, for the journal.
    """
    by_id = {prompt.id: prompt for prompt in (*always, *ranking)}

    def effect() -> object:
        chosen = list(dict.fromkeys(p.id for p in always))[:count]
        rest = [p for p in ranking if p.id not in chosen]
        if len(chosen) < count and rest:
            chosen.append(rest.pop(0).id)
        rest = rest[: max(4, len(ranking) // 2)]
        told: list[int] = []
        if len(chosen) < count and rest:
            rows = [row.fields for row in context.train_sample[: HEURISTICS.behaviour_rows]]
            everyone = [by_id[i] for i in chosen] + rest
            with context.spending.stopwatch:
                seen = behaviour(context.model, everyone, rows, context.task.labels, progress=told.append)
            vectors = centred(seen)
            order = farthest_first(vectors, start=range(len(chosen)), count=count)
            chosen = [everyone[i].id for i in order]
        return {"cycle": cycle, "prompt_ids": chosen, "tokens": sum(told), **context.spending.stopwatch.taken()}

    value = context.journal.step("entrants", [cycle, [p.id for p in always], [p.id for p in ranking], count], effect)
    context.spending.account.counts["tokens_embedded"] += int(value["tokens"])
    return [by_id[i] for i in value["prompt_ids"]]
