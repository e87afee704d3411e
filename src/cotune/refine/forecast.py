"""What a surrogate says of prompts, and how rows that were seen since change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.evaluate.effects import prompt_effects
from cotune.prompt.prompt import Prompt

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """What the surrogate says of prompts before they are raced.

    Attributes:
        on: whether it has earned its place in this cycle; if not, nothing of it is used.
        ranked: ids of the better half of the candidates, most promising first; empty where it is off.
        mean: expected loss of each prompt relative to the others, by id, in nats.
        covariance: ``[prompts, prompts]`` of these, in the order of ``mean``.
    """

    on: bool
    ranked: tuple[str, ...]
    mean: Mapping[str, float]
    covariance: Floats

    def expected(self, prompts: Sequence[Prompt], losses: Sequence[Floats]) -> Floats:
        """Expected losses once some rows were seen: the forecast, conditioned on them.

        Args:
            prompts: those that race.
            losses: of each, on the rows that it met, in their common order.

        Returns:
            ``[prompts]``, relative to each other.
        """
        places = [list(self.mean).index(prompt.id) for prompt in prompts]
        prior = np.array(list(self.mean.values()))[places]
        prior = prior - prior.mean()
        covariance = self.covariance[np.ix_(places, places)]
        effects = prompt_effects(losses)
        met = np.isfinite(effects.noise)
        among = covariance[np.ix_(met, met)] + np.diag(effects.noise[met])
        told: Floats = prior + covariance[:, met] @ np.linalg.solve(among, effects.value[met] - prior[met])
        return told
