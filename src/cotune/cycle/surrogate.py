"""The surrogate in the cycle: what it was told, whether it knows anything, and which of the prompts to come it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.lab import Lab
from cotune.cycle.pool import BRED, Thin
from cotune.cycle.prompt_race import RaceResult, race_losses
from cotune.cycle.track import Track
from cotune.embed import TextEmbedder, whole_texts
from cotune.evaluate.effects import prompt_effects
from cotune.prompt.prompt import Prompt
from cotune.refine.features import format_features
from cotune.refine.surrogate import Proof, Seen, Surrogate, feature_similarity, prove, similarity

Floats = NDArray[np.float64]

DEVIATIONS = 1.0
"""A prompt is ranked by its expected loss less so many standard deviations: what is unknown may be good."""
_TEXT_TOKENS = 90


@dataclass(frozen=True)
class _Context:
    """Prompts that were judged side by side under one set of weights."""

    prompts: tuple[str, ...]
    value: Floats
    noise: Floats
    steps: int


class Forecaster:
    """Keeps what was measured of all prompts, and forecasts from it; does nothing where the config does not ask for it.

    Args:
        lab: where effects happen.
        wanted: ``search.surrogate``.

    Attributes:
        on: whether the config asks for it.
    """

    def __init__(self, lab: Lab, *, wanted: bool) -> None:
        self.lab, self.on = lab, wanted
        self._prompts: dict[str, Prompt] = {}
        self._contexts: list[_Context] = []
        self._raced = 0

    def observe_race(self, race: RaceResult, prompts: Sequence[Prompt], *, steps: int) -> None:
        """Learn from a race, on which the next forecast has to prove itself.

        Args:
            race: how it ended.
            prompts: its entrants.
            steps: tuning steps behind its weights.
        """
        if self.on:
            met = [p for p in prompts if p.id in race.scores]
            self._observe(met, [race_losses(self.lab, race.scores[p.id]) for p in met], steps)
            self._raced = len(self._contexts) - 1

    def observe_tuned(self, tracks: Sequence[Track]) -> None:
        """Learn from prompts that were tuned side by side, each as it stands."""
        found = [track.ground for track in tracks]
        if self.on and len(found) > 1:
            losses = [measured.evaluation.log_losses for measured in found]
            self._observe([track.prompt for track in tracks], losses, max(m.candidate.steps for m in found))

    def _observe(self, prompts: Sequence[Prompt], losses: Sequence[Floats], steps: int) -> None:
        self._prompts.update({prompt.id: prompt for prompt in prompts})
        effects = prompt_effects(losses)
        self._contexts.append(_Context(tuple(p.id for p in prompts), effects.value, effects.noise, steps))

    def thinning(self, cycle: int, *, adapter: str, steps: int) -> Thin | None:
        """How a pool of this cycle is thinned; None where the config does not ask for it. See :meth:`thin`."""
        return (lambda candidates: self.thin(cycle, candidates, adapter=adapter, steps=steps)) if self.on else None

    def cost(self, pool: int) -> float:
        """What a forecast for a pool of so many costs, in the budget's unit."""
        return self.lab.costs.scoring(_TEXT_TOKENS * (len(self._prompts) + BRED * pool)) if self.on else 0.0

    def thin(self, cycle: int, candidates: Sequence[Prompt], *, adapter: str, steps: int) -> list[str] | None:
        """Prove the surrogate on the last race, and rank candidates where it has passed; recorded as a ``surrogate`` step.

        Every prompt that was measured is embedded anew under the weights of now: what is near changes with them.

        Args:
            cycle: whose pool is made.
            candidates: prompts that were not measured yet.
            adapter: the weights under which they will race.
            steps: tuning steps behind these.

        Returns:
            Ids of the better half, most promising first; None where nothing is to be known.
        """
        if not self.on or not self._contexts or not candidates:
            return None
        everyone = [*self._prompts.values(), *candidates]
        known = len(self._prompts)

        def effect() -> dict[str, Any]:
            told: list[int] = []
            with self.lab.stopwatch:
                views = prompt_views(self.lab, everyone, adapter, told.append)
            seen, last = self._seen()
            surrogate = Surrogate(views, seen, steps=float(steps))
            proof = prove(surrogate, last, np.random.default_rng([self.lab.seed, 11, cycle]))
            return {
                "cycle": cycle,
                "adapter_id": adapter,
                **_told(proof),
                "shares": {name: round(share, 3) for name, share in surrogate.shares.items()},
                "known": known,
                "tokens": sum(told),
                **self.lab.stopwatch.taken(),
                **(_ranking(surrogate, everyone, known) if proof.on else {}),
            }

        key = [cycle, adapter, [p.id for p in everyone], len(self._contexts)]
        value = self.lab.journal.step("surrogate", key, effect)
        self.lab.account.counts["tokens_embedded"] += int(value["tokens"])
        return list(value["ranked"]) if value["on"] else None

    def _seen(self) -> tuple[Seen, NDArray[np.int64]]:
        """All measurements as the surrogate takes them, and the places among them of the last race's."""
        place = {prompt_id: number for number, prompt_id in enumerate(self._prompts)}
        contexts = self._contexts
        seen = Seen(
            np.array([place[i] for c in contexts for i in c.prompts], dtype=np.int64),
            np.concatenate([c.value for c in contexts]),
            np.concatenate([c.noise for c in contexts]),
            np.array([float(c.steps) for c in contexts for _ in c.prompts]),
        )
        first = sum(len(c.prompts) for c in contexts[: self._raced])
        return seen, np.arange(first, first + len(contexts[self._raced].prompts))


def prompt_views(lab: Lab, prompts: Sequence[Prompt], adapter: str, progress: Callable[[int], None]) -> dict[str, Floats]:
    """``[prompts, prompts]`` similarities of prompts: by their text, by what they show, by their format.

    Args:
        lab: whose model embeds.
        prompts: all there are.
        adapter: which weights.
        progress: told the tokens that run.
    """
    embedder = TextEmbedder(lab.model, adapter=adapter, progress=progress)
    texts = ["\n".join(part for part in (p.system or "", p.text) if part) for p in prompts]
    shown = [[f"{' '.join(text for _, text in d.fields)} {d.output}" for d in p.demonstrations] for p in prompts]
    different = list(dict.fromkeys([*texts, *(text for group in shown for text in group)]))
    vectors = dict(zip(different, whole_texts(embedder, different), strict=True))
    width = len(vectors[different[0]])
    means = np.stack([np.mean([vectors[t] for t in group], axis=0) if group else np.zeros(width) for group in shown])
    views = {"text": similarity(np.stack([vectors[text] for text in texts]))}
    if any(shown):
        views["demonstrations"] = similarity(means)
    return {**views, "format": feature_similarity(format_features(list(prompts)))}


def _told(proof: Proof) -> dict[str, Any]:
    return {"correlation": proof.correlation, "p": proof.p, "n": proof.n, "on": proof.on}


def _ranking(surrogate: Surrogate, everyone: Sequence[Prompt], known: int) -> dict[str, Any]:
    """The better half of the candidates by lower confidence bound, and what is expected of them."""
    mean, deviation = surrogate.predict()
    order = known + np.argsort((mean - DEVIATIONS * deviation)[known:], kind="stable")
    staying = [int(n) for n in order[: max(1, -(-len(order) // 2))]]
    return {
        "ranked": [everyone[n].id for n in staying],
        "mean": {everyone[n].id: round(float(mean[n]), 5) for n in staying},
    }
