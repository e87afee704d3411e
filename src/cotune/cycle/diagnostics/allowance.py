"""Allowances for measurements that decide nothing: their number of rows and their cost."""

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
    """Limits of a measurement.

    Attributes:
        passes: number of times that the rows are scored.
        most: maximum number of rows.
        least: minimum number of rows.
        share: maximum share of the whole budget.
    """

    passes: int
    most: int
    least: int
    share: float

    def rows(self, costs: CostModel, dev: int, own: float, prefix: float, left: float | None = None) -> int:
        """Number of the ``dev`` rows that the budget has room for; 0 if it is below ``least``.

        ``own`` are the tokens of a row, ``prefix`` those that each pass computes once, and ``left`` is the remaining budget at
        the end of the run; None during planning.
        """
        room = self.share * costs.budget.amount if left is None else allowed_at_end(costs.budget, self.share, left)
        a_token = costs.scoring(1.0)
        fitting = int((room / a_token / self.passes - prefix) / own) if own > 0 else 0
        rows = min(self.most, dev, fitting)
        return rows if rows >= self.least else 0

    def cost(self, costs: CostModel, dev: int, own: float, prefix: float) -> float:
        """Cost of the rows that the budget has room for, in its unit."""
        rows = self.rows(costs, dev, own, prefix)
        return costs.scoring(self.passes * (rows * own + prefix)) if rows else 0.0

    def why_not(self, costs: CostModel, dev: int, own: float, prefix: float, left: float) -> str:
        """The reason why :meth:`rows` is 0 at the end of a run."""
        if dev < self.least:
            return f"dev has {counted(dev, 'row')}, and fewer than {self.least} are too few to tell"
        needed = costs.scoring(self.passes * (self.least * own + prefix))
        return shortage(costs.budget, needed, allowed_at_end(costs.budget, self.share, left), left)


NOISE = Allowance(passes=2, most=48, least=16, share=0.008)
FORMATS = Allowance(passes=2 * _FORMATS, most=100, least=32, share=0.048)


def variants_of(context: RunContext, prompt: Prompt) -> list[Prompt]:
    """Other formats that leave room for a row; a long prompt in capitals can have 1.5 times as many tokens."""
    made = format_variants(prompt, _FORMATS, np.random.default_rng([context.seed, 9]))
    return [variant for variant in made if has_room(context, variant)]


def noise_row(context: RunContext, prompt: Prompt, *, tuned: bool, probe_layer: float | None = None) -> tuple[float, float]:
    """Tokens of a row in :data:`NOISE`, as an equivalent of scored tokens, and tokens of the prefix.

    ``probe_layer`` is the layer that a probe reads; None if label words are scored.
    """
    own, prefix = _read(context, prompt, probe_layer)
    return own + context.spending.rows.written(prompt, tuned=tuned) / context.spending.costs.scoring(1.0), prefix


def formats_row(
    context: RunContext, prompt: Prompt, variants: Sequence[Prompt], *, probe_layer: float | None = None
) -> tuple[float, float]:
    """Tokens of a row in :data:`FORMATS`, as an equivalent of scored tokens, and of the prefix; means over the formats.

    A format that puts the row first shares next to no prefix. Answers are assumed to be as long as under the prompt itself, and
    half of them are written by untuned weights. ``probe_layer`` is the mean layer that probes read; None if label words are
    scored.
    """
    own, prefix = np.mean([_read(context, variant, probe_layer) for variant in variants], axis=0)
    answer = sum(context.spending.rows.written(prompt, tuned=tuned) for tuned in (False, True)) / 2
    return float(own) + answer / context.spending.costs.scoring(1.0), float(prefix)


def _read(context: RunContext, prompt: Prompt, probe_layer: float | None) -> tuple[float, float]:
    """Own tokens of a row and tokens of the prefix; those that run up to a probe's layer count by the share of layers."""
    if probe_layer is None:
        return context.spending.rows.counted(prompt)
    own, prefix = context.spending.rows.without_words(prompt)
    share = probe_layer / context.model.depth
    return own * share, prefix * share
