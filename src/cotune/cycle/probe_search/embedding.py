"""Hidden states of rows under prompts and adapters: recorded in the journal, stored by content, computed once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.cycle.workers.fits import StoredStates
from cotune.cycle.workers.pending import Pending
from cotune.cycle.workers.pool import WorkerPool, pace_seconds
from cotune.cycle.workers.states import PendingStates, submit_all
from cotune.errors import DivergedError
from cotune.model.engine.hidden_states import states_key
from cotune.model.engine.state_store import Half, StateStore, layers_of_interest
from cotune.prompt.prompt import Prompt
from cotune.prompt.reads import Read, counts
from cotune.prompt.render import RenderedRow
from cotune.task.example import Example

_Known = dict[str, tuple[tuple[int, ...], NDArray[np.float16]]]
"""Row id to the numbers of its layers, and the states ``[layers, states, width]`` after them."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """A request for states: its content key, the rendered rows, what is read of each, the weights and the layers."""

    name: str
    rendered: Sequence[RenderedRow]
    sequences: Sequence[tuple[int, ...]]
    reads: Sequence[Read]
    adapter: str
    layers: tuple[int, ...]


class Embedding:
    """Embeds rows and keeps their states in memory and, for a resumed run, on disk.

    Tokens are charged by the share of layers that ran, so that a pass that ends early also costs less of a token budget.
    Adapters are given without their probe.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.layers = layers_of_interest(context.model.depth)
        """Numbers of the layers whose states are computed by default."""
        self._store = StateStore(context.folder / "states")
        self._known: dict[tuple[str, str], _Known] = {}
        self._files: dict[tuple[str, str], dict[str, tuple[str, int, tuple[int, ...]]]] = {}
        self._pending = Pending[PendingStates](context.workers)

    def states(
        self,
        prompt: Prompt,
        adapter: str,
        rows: Sequence[Example],
        stage: str,
        *,
        layers: Sequence[int] | None = None,
    ) -> Half:
        """States of rows, ``[layers, rows, 2 x width]``; recorded as an ``embed`` step if rows are new.

        The state at the last prompt token is concatenated with the mean over the row's own tokens, which follow the prompt's
        common beginning. If the answering reads words, these are the means over each word's tokens, ``[layers, words, width]``.

        Raises:
            DivergedError: a state is not finite.
        """
        known, wanted = self.read(prompt, adapter, rows, stage, layers=layers)
        return np.concatenate([_of_layers(*known[row.id], wanted) for row in rows], axis=1)

    def read(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], stage: str, *, layers: Sequence[int] | None = None
    ) -> tuple[_Known, tuple[int, ...]]:
        """Embed new rows like :meth:`states`; returns all known states of the prompt, and the numbers of the layers."""
        wanted = tuple(self.layers if layers is None else layers)
        known = self._known.setdefault((prompt.id, adapter), {})
        if missing := self._missing(prompt, adapter, rows, wanted):
            found, each = self._embed(prompt, adapter, missing, wanted, stage)
            parts = np.split(found, np.cumsum(each)[:-1], axis=1)
            known.update({row.id: _joined(known.get(row.id), wanted, own) for row, own in zip(missing, parts, strict=True)})
        return known, wanted

    def ahead(
        self, prompts: Sequence[Prompt], adapter: str, rows: Sequence[Example], *, layers: Sequence[int] | None = None
    ) -> None:
        """Let workers embed rows that are needed next, under all prompts at once; does nothing without workers.

        Their results are recorded when they are requested.
        """
        if not self.context.workers.slots:
            return
        wanted = tuple(self.layers if layers is None else layers)
        begun = []
        for prompt in prompts:
            if missing := self._missing(prompt, adapter, rows, wanted):
                asked = self._asked(prompt, adapter, missing, wanted)
                if not self._store.has(asked.name) and (request := self._pending.get(asked.name, self._request(asked))):
                    begun.append(request)
                    # Workers begin while further prompts are rendered.
                    request.submit_long()
        submit_all(begun)

    def cancel_ahead(self) -> None:
        """Cancel the requests of :meth:`ahead` that were not used."""
        self._pending.cancel()

    def knows(self, prompt: Prompt, adapter: str, rows: Sequence[Example], layers: Sequence[int]) -> bool:
        """Whether the states of rows and layers are known already."""
        return not self._missing(prompt, adapter, rows, layers)

    def stored(self, prompt: Prompt, adapter: str, rows: Sequence[Example], layers: Sequence[int]) -> StoredStates | None:
        """Files of the states of rows; None if the layers of a row are not all in one existing file."""
        held = self._files.get((prompt.id, adapter), {})
        places = [held[row.id] for row in rows if row.id in held]
        files = {name: kept for name, _, kept in places}
        whole = len(places) == len(rows) and all(set(layers) <= set(kept) for kept in files.values())
        if not whole or not all(map(self._store.has, files)):
            return None
        numbers = {name: number for number, name in enumerate(files)}
        stored = tuple((numbers[name], place) for name, place, _ in places)
        return StoredStates(self._store.folder, tuple(files.items()), stored, tuple(layers))

    def _missing(self, prompt: Prompt, adapter: str, rows: Sequence[Example], layers: Sequence[int]) -> list[Example]:
        """Rows whose states of the layers are unknown."""
        known = self._known.get((prompt.id, adapter), {})
        return [row for row in rows if row.id not in known or not set(layers) <= set(known[row.id][0])]

    def known(self, prompt: Prompt, adapter: str, rows: Sequence[Example]) -> int:
        """Number of leading rows with states of all :attr:`layers`."""
        missing = {row.id for row in self._missing(prompt, adapter, rows, self.layers)}
        return next((n for n, row in enumerate(rows) if row.id in missing), len(rows))

    def keep(self, prompts: Collection[str]) -> None:
        """Forget the states of all but some prompts, by id; what is asked for again is embedded again."""
        for known in (self._known, self._files):
            for key in [key for key in known if key[0] not in prompts]:
                del known[key]

    def narrow(self, deepest: int) -> None:
        """Stop embedding layers above ``deepest``, so that passes end there."""
        self.layers = tuple(layer for layer in self.layers if layer <= deepest)

    def share(self, layers: Sequence[int] | None = None) -> float:
        """Share of the model's layers that a pass runs."""
        return max(self.layers if layers is None else layers) / self.context.model.depth

    def _asked(self, prompt: Prompt, adapter: str, rows: Sequence[Example], layers: tuple[int, ...]) -> _Asked:
        model = self.context.model
        rendered = self.context.answering.render(prompt, rows)
        sequences, reads = [row.prompt_ids for row in rendered], [row.read for row in rendered]
        key = states_key(model, sequences, layers, reads=reads, adapter=adapter)
        return _Asked(key, rendered, sequences, reads, adapter, layers)

    def _request(self, asked: _Asked) -> Callable[[WorkerPool], PendingStates]:
        """A function that makes a request to workers."""
        tokens = self.context.model.settings.batch_tokens
        return lambda workers: PendingStates(workers, asked.sequences, asked.reads, asked.layers, asked.adapter, tokens)

    def _embed(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], layers: tuple[int, ...], stage: str
    ) -> tuple[Half, list[int]]:
        """States of rows, one after the other, and the number of each."""
        context = self.context
        asked = self._asked(prompt, adapter, rows, layers)
        each = counts(asked.reads, len(rows))
        kept: list[Half] = []

        def progress(tokens: int) -> None:
            context.watcher.progress(stage, prompt.text, round(tokens * self.share(layers)))

        def compute() -> tuple[Half, int, dict[str, object]]:
            try:
                if (request := self._pending.get(asked.name, self._request(asked))) is not None:
                    found, ran, by = request.result(progress)
                    return self._store.put(asked.name, found), ran, {"by": by}
                return *self._pass(asked, progress), {}
            except DivergedError as error:
                raise DivergedError(f"hidden states of prompt {prompt.id} with adapter {adapter} are not finite") from error

        def effect() -> dict[str, object]:
            started = time.monotonic()
            found, tokens, by = compute()
            kept.append(found)
            plain = sum(map(len, asked.sequences))
            return {
                "stage": stage,
                "prompt_id": prompt.id,
                "adapter_id": adapter,
                "rows": len(rows),
                "layers": list(layers),
                "tokens": round(tokens * self.share(layers)) + sum(row.looked_up for row in asked.rendered),
                "saved": max(0, plain - tokens),
                # Rows are shortened on purpose here; the chosen length is reported.
                "truncated": 0 if stage == "length" else sum(row.truncated for row in asked.rendered),
                "seconds": round(time.monotonic() - started, 3),
                **by,
            }

        value = context.journal.step("embed", [prompt.id, adapter, [row.id for row in rows], list(layers)], effect)

        def saw(ran: int, took: float) -> None:
            if seconds := pace_seconds(value, took):
                context.spending.costs.saw_scoring(ran, seconds)

        context.spending.charge(value, "tokens_embedded", saw)
        if not kept:
            stored = self._store.get(asked.name)
            kept.append(compute()[0] if stored is None or stored.shape[:2] != (len(layers), sum(each)) else stored)
        if (request := self._pending.pop(asked.name)) is not None:
            request.forget()
        held = self._files.setdefault((prompt.id, adapter), {})
        held.update({row.id: (asked.name, place, layers) for place, row in enumerate(rows)})
        return kept[0], each

    def _pass(self, asked: _Asked, progress: Callable[[int], None]) -> tuple[Half, int]:
        """Embed in this process; returns the stored states and the number of computed tokens."""
        ran: list[int] = []

        def saw(tokens: int) -> None:
            ran.append(tokens)
            progress(tokens)

        model = self.context.model
        found = model.layer_states(asked.sequences, asked.layers, reads=asked.reads, adapter=asked.adapter, progress=saw)
        if not np.isfinite(found).all():
            raise DivergedError("hidden states are not finite")
        return self._store.put(asked.name, found), sum(ran)

    def row_cost(self, prompt: Prompt, rows: int, *, layers: Sequence[int] | None = None, edge: int = 0) -> float:
        """Cost of embedding ``rows`` rows under a prompt, in the budget's unit.

        ``edge`` is the number of layers through which the same rows have run with the same weights before; it lowers the cost
        if their states are kept there.
        """
        context, model = self.context, self.context.model
        own, prefix = context.spending.rows.without_words(prompt)
        number_bytes = 4 if model.settings.dtype == "float32" else 2
        if context.workers.slots or not model.shared or rows * own > model.runner.edges.room(model.width, number_bytes):
            edge = 0
        known = rows * own * edge / model.depth
        return context.spending.costs.scoring((rows * own + prefix) * self.share(layers) - known)


def _joined(
    before: tuple[tuple[int, ...], NDArray[np.float16]] | None, layers: tuple[int, ...], states: NDArray[np.float16]
) -> tuple[tuple[int, ...], NDArray[np.float16]]:
    """A row's states, joined with earlier states of other layers."""
    others = () if before is None else tuple(layer for layer in before[0] if layer not in layers)
    if before is None or not others:
        return layers, states
    return (*layers, *others), np.concatenate([states, _of_layers(*before, others)])


def _of_layers(stored: tuple[int, ...], states: NDArray[np.float16], wanted: tuple[int, ...]) -> NDArray[np.float16]:
    """A row's states of the wanted layers, ``[layers, states, width]``."""
    if stored == wanted:
        return states
    found: NDArray[np.float16] = states[[stored.index(layer) for layer in wanted]]
    return found
