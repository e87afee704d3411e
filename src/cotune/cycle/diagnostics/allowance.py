"""What may be spent on measurements that decide nothing: on how many rows, and what those rows cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.reserve import allowed_at_end, shortage
from cotune.cycle.context import RunContext
from cotune.cycle.search.pool import has_room
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.refine import format_variants

_FORMATS, LEAST_FORMATS = 8, 3


@dataclass(frozen=True)
class Allowance:
    """What a measurement may cost.

    Attributes:
        passes: times that the rows are scored.
        most: rows at most.
        least: rows below which it says nothing.
        share: of the whole budget at most.
    """

    passes: int
    most: int
    least: int
    share: float

    def rows(self, costs: CostModel, dev: int, own: float, prefix: float, left: float | None = None) -> int:
        """Rows that the budget has room for; 0 where that is fewer than ``least``.

        Args:
            costs: what scoring costs; its budget is what ``share`` is taken of.
            dev: rows that there are.
            own: tokens of a row.
            prefix: tokens that each pass runs once.
            left: budget that is left at the end of the run; None while that is planned.
        """
        room = self.share * costs.budget.amount if left is None else allowed_at_end(costs.budget, self.share, left)
        a_token = costs.scoring(1.0)
        fitting = int((room / a_token / self.passes - prefix) / own) if own > 0 else 0
        rows = min(self.most, dev, fitting)
        return rows if rows >= self.least else 0

    def cost(self, costs: CostModel, dev: int, own: float, prefix: float) -> float:
        """Of the rows that the budget has room for, in its unit."""
        rows = self.rows(costs, dev, own, prefix)
        return costs.scoring(self.passes * (rows * own + prefix)) if rows else 0.0

    def why_not(self, costs: CostModel, dev: int, own: float, prefix: float, left: float) -> str:
        """Why :meth:`rows` is 0 at the end of a run."""
        if dev < self.least:
            return f"dev has {counted(dev, 'row')}, and fewer than {self.least} are too few to tell"
        needed = costs.scoring(self.passes * (self.least * own + prefix))
        return shortage(costs.budget, needed, allowed_at_end(costs.budget, self.share, left), left)


NOISE = Allowance(passes=2, most=48, least=16, share=0.008)
FORMATS = Allowance(passes=2 * _FORMATS, most=100, least=32, share=0.048)


def variants_of(context: RunContext, prompt: Prompt) -> list[Prompt]:
    """Other formats that leave room for a row: a long prompt in capitals can be half as long again in tokens."""
    made = format_variants(prompt, _FORMATS, np.random.default_rng([context.seed, 9]))
    return [variant for variant in made if has_room(context, variant)]


def noise_row(context: RunContext, prompt: Prompt, *, tuned: bool) -> tuple[float, float]:
    """Tokens of a row in :data:`NOISE`, in those of scoring, and of the prefix."""
    own, prefix = context.spending.rows.counted(prompt)
    return own + context.spending.rows.written(prompt, tuned=tuned) / context.spending.costs.scoring(1.0), prefix


def formats_row(context: RunContext, prompt: Prompt, variants: Sequence[Prompt]) -> tuple[float, float]:
    """Tokens of a row in :data:`FORMATS`, in those of scoring, and of the prefix, on average over formats of a prompt.

    A format that puts the row first shares next to nothing. Answers are taken to be as long as under the prompt itself, and
    half of them are written by untuned weights.
    """
    own, prefix = np.mean([context.spending.rows.counted(variant) for variant in variants], axis=0)
    answer = sum(context.spending.rows.written(prompt, tuned=tuned) for tuned in (False, True)) / 2
    return float(own) + answer / context.spending.costs.scoring(1.0), float(prefix)
