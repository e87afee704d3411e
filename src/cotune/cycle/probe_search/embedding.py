"""Hidden states of the labelled rows under prompts and adapters: journalled, stored by content, embedded once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.errors import DivergedError
from cotune.files import content_hash
from cotune.model.engine.facts import engine_facts
from cotune.model.engine.state_store import Half, StateStore, layers_of_interest
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example


class Embedding:
    """Embeds rows and keeps their states: in memory for this session, on disk for a run that resumes.

    Tokens are charged by the share of the layers that ran, so that a pass that ends early costs less of a token budget too.

    Args:
        context: where effects happen.

    Attributes:
        layers: numbers of the layers whose states are kept where none are named.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.layers = layers_of_interest(context.model.depth)
        self._store = StateStore(context.folder / "states")
        self._known: dict[tuple[str, str], dict[str, tuple[tuple[int, ...], NDArray[np.float16]]]] = {}

    def states(
        self,
        prompt: Prompt,
        adapter: str,
        rows: Sequence[Example],
        stage: str,
        *,
        layers: Sequence[int] | None = None,
    ) -> Half:
        """States of rows, ``[layers, rows, 2 x width]``; recorded as an ``embed`` step where rows are new.

        The state at the last prompt token stands beside the mean over the row's own tokens, which come after what the prompt
        begins with for all rows.

        Args:
            prompt: how to ask.
            adapter: which weights; a probe that belongs to them does not matter.
            rows: labelled rows.
            stage: what for, for the journal and the progress.
            layers: numbers of the layers; None takes :attr:`layers`.

        Raises:
            DivergedError: a state is not finite.
        """
        wanted = tuple(self.layers if layers is None else layers)
        bare = self.context.model.adapters.without_probe(adapter)
        known = self._known.setdefault((prompt.id, bare), {})
        missing = [row for row in rows if row.id not in known or not set(wanted) <= set(known[row.id][0])]
        if missing:
            found = self._embed(prompt, bare, missing, wanted, stage)
            known.update({row.id: _joined(known.get(row.id), wanted, found[:, place]) for place, row in enumerate(missing)})
        return np.stack([_of_layers(*known[row.id], wanted) for row in rows], axis=1)

    def known(self, prompt: Prompt, adapter: str, rows: Sequence[Example]) -> int:
        """How many of the first rows have states of all :attr:`layers`."""
        known = self._known.get((prompt.id, self.context.model.adapters.without_probe(adapter)), {})
        wanted = set(self.layers)
        return next((n for n, row in enumerate(rows) if row.id not in known or not wanted <= set(known[row.id][0])), len(rows))

    def narrow(self, deepest: int) -> None:
        """Embed no layers above ``deepest`` from now on, so that passes end there."""
        self.layers = tuple(layer for layer in self.layers if layer <= deepest)

    def share(self, layers: Sequence[int] | None = None) -> float:
        """Share of the model's layers that a pass runs."""
        return max(self.layers if layers is None else layers) / self.context.model.depth

    def _embed(self, prompt: Prompt, adapter: str, rows: Sequence[Example], layers: tuple[int, ...], stage: str) -> Half:
        context, model = self.context, self.context.model
        rendered = context.answering.render(prompt, rows)
        sequences, starts = [row.prompt_ids for row in rendered], [row.start for row in rendered]
        asked = {"model": model.fingerprint, "adapter": adapter, "ids": sequences, "starts": starts, "layers": layers}
        name = content_hash({**asked, **engine_facts(model)}, 32)
        kept: list[Half] = []

        def told(tokens: int) -> None:
            context.watcher.progress(stage, prompt.text, round(tokens * self.share(layers)))

        def compute() -> tuple[Half, int]:
            ran: list[int] = []

            def progress(tokens: int) -> None:
                ran.append(tokens)
                told(tokens)

            found = model.layer_states(sequences, layers, starts=starts, adapter=adapter, progress=progress)
            if not np.isfinite(found).all():
                raise DivergedError(f"hidden states of prompt {prompt.id} with adapter {adapter} are not finite")
            return self._store.put(name, found), sum(ran)

        def effect() -> dict[str, object]:
            started = time.monotonic()
            found, tokens = compute()
            kept.append(found)
            plain = sum(map(len, sequences))
            return {
                "stage": stage,
                "prompt_id": prompt.id,
                "adapter_id": adapter,
                "rows": len(rows),
                "layers": list(layers),
                "tokens": round(tokens * self.share(layers)) + sum(row.looked_up for row in rendered),
                "saved": max(0, plain - tokens),
                "truncated": sum(row.truncated for row in rendered),
                "seconds": round(time.monotonic() - started, 3),
            }

        value = context.journal.step("embed", [prompt.id, adapter, [row.id for row in rows], list(layers)], effect)
        context.spending.charge(value, "tokens_embedded", context.spending.costs.saw_scoring)
        if not kept:
            stored = self._store.get(name)
            kept.append(compute()[0] if stored is None or stored.shape[:2] != (len(layers), len(rows)) else stored)
        return kept[0]

    def row_cost(self, prompt: Prompt, rows: int, *, layers: Sequence[int] | None = None) -> float:
        """Cost of embedding so many rows under a prompt, in the budget's unit."""
        own, prefix = self.context.spending.rows.without_words(prompt)
        return self.context.spending.costs.scoring((rows * own + prefix) * self.share(layers))


def _joined(
    before: tuple[tuple[int, ...], NDArray[np.float16]] | None, layers: tuple[int, ...], states: NDArray[np.float16]
) -> tuple[tuple[int, ...], NDArray[np.float16]]:
    """A row's states with those of other layers that were read before."""
    others = () if before is None else tuple(layer for layer in before[0] if layer not in layers)
    if before is None or not others:
        return layers, states
    return (*layers, *others), np.concatenate([states, _of_layers(*before, others)])


def _of_layers(stored: tuple[int, ...], states: NDArray[np.float16], wanted: tuple[int, ...]) -> NDArray[np.float16]:
    """A row's states of the layers that are wanted, ``[layers, width]``."""
    if stored == wanted:
        return states
    found: NDArray[np.float16] = states[[stored.index(layer) for layer in wanted]]
    return found
