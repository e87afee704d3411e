"""Trials: prompts whose window of layers is tuned on some labelled rows and judged on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.budget.reserve import spent_to
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fit_task import word_weights
from cotune.cycle.probe_search.fits import PromptFit, first_words, head_from, head_of, tuned_layer
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.readouts.chains import Chains
from cotune.cycle.probe_search.readouts.tfidf import Mix, Mixed, Tfidf, best_mix, losses_by_share
from cotune.cycle.workers.pending import Pending
from cotune.cycle.workers.pool import WorkerPool
from cotune.cycle.workers.tuning import Deadline, PendingTuning
from cotune.errors import DivergedError
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE
from cotune.model.engine.state_store import layers_of_interest
from cotune.probe.cross_fitting import best_temperature
from cotune.probe.readout import Probe, load_probe
from cotune.probe.terms import TermWeights
from cotune.prompt.prompt import Prompt
from cotune.refine import not_shown
from cotune.task.example import Example
from cotune.tune.settings import WindowSettings
from cotune.tune.window_task import WindowTask, tune_window

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Weights, frozen or tuned, with their read-out.

    Attributes:
        prompt: the prompt.
        adapter: id of the tuned weights without a probe; :data:`BASE` if the weights are frozen.
        layer: layer that the probe reads.
        steps: optimizer steps of the adapter.
        probe: read-out that was fitted to the states.
        head: linear head that was tuned with the weights; None if they are frozen.
        terms: TF-IDF that has learnt from the same rows; None if the run does not use it.
    """

    prompt: Prompt
    adapter: str
    layer: int
    steps: int
    probe: Probe
    head: Probe | None = None
    terms: TermWeights | None = None


@dataclass(frozen=True, eq=False)
class TuningRequest:
    """A tuning of a window of layers under a prompt; see :meth:`Trials.tune`.

    Attributes:
        fit: the prompt with its frozen probe, which gives the layer and the penalty.
        rows: labelled rows.
        steps: number of optimizer steps.
        stage: purpose, for the journal.
        seed: seed of the weights and the order of rows.
        start: adapter that tuning starts from.
        head: head of the trial that made ``start``, if it is continued; None fits one to the states of ``start``.
        keep: budget that must be left once the tuned states of the rows are read; tuning ends early to leave it.
    """

    fit: PromptFit
    rows: Sequence[Example]
    steps: int
    stage: str
    seed: int
    start: str = BASE
    head: Probe | None = None
    keep: float = 0.0

    @cached_property
    def tuned_on(self) -> tuple[Example, ...]:
        """The rows without those that the prompt shows, whose answers could be copied."""
        return tuple(not_shown(self.fit.prompt, self.rows))

    @property
    def source(self) -> str:
        """Weights whose states the head starts from; a head of an earlier trial has the coordinates of the frozen states."""
        return self.start if self.head is None else BASE

    @property
    def key(self) -> list[Any]:
        """Key of the journal step."""
        found, rows = self.fit.found, [row.id for row in self.tuned_on]
        read = [found.layer, found.best.strength, found.best.word_scale]
        onward = [] if self.head is None else ["after"]
        return [self.fit.prompt.id, self.start, *read, rows, self.steps, self.seed, *onward]

    @property
    def name(self) -> tuple[str, str]:
        """The prompt's id, and a content hash of the key."""
        return self.fit.prompt.id, content_hash(self.key)


class Trials:
    """Tunes prompts and fits their read-outs, and records this in the journal.

    Args:
        window: first and last layer of every window; None takes a share of the depth below :meth:`layer`.
        within: number of layers below those that the adapter of a warm start changes, and the last of them. Tuning goes on with
            that adapter's layers and adds none, so a window that reaches beyond them is replaced by them.
    """

    def __init__(
        self,
        context: RunContext,
        embedding: Embedding,
        settings: WindowSettings,
        window: tuple[int, int] | None = None,
        within: tuple[int, int] | None = None,
    ) -> None:
        self.context, self.embedding, self.settings, self._window = context, embedding, settings, window
        self._within = within
        self._pending = Pending[PendingTuning](context.workers)
        self._tfidf: tuple[Tfidf, Mixed] | None = None
        self._chains: Chains | None = None
        self._frozen: dict[tuple[str, int, float, float, tuple[str, ...]], Probe] = {}

    def use_tfidf(self, found: tuple[Tfidf, Mixed] | None) -> None:
        """Add TF-IDF to all read-outs from now on, with how the best frozen probe does with it; None adds none."""
        self._tfidf = found

    @property
    def uses_tfidf(self) -> bool:
        """Whether TF-IDF is added to read-outs."""
        return self._tfidf is not None

    def use_chains(self, chains: Chains | None) -> None:
        """Add chains to all read-outs from now on; None adds none."""
        self._chains = chains
        self._frozen.clear()

    def cross_fitted_answers(self, log_probs: Floats, rows: Sequence[Example]) -> tuple[str, ...] | None:
        """Answers to rows, each by a chain that has not learnt from the row; None without chains."""
        return None if self._chains is None else self._chains.answers(log_probs, rows)

    def with_tfidf(self, fit: PromptFit) -> Mixed | None:
        """A frozen probe with TF-IDF, both cross-fitted; None if the run does not use TF-IDF."""
        return None if self._tfidf is None else self._tfidf[0].cross_fitted(fit)

    def cross_fitted_mix(self, fit: PromptFit) -> Mix:
        """The share of TF-IDF and the temperature of a frozen probe by cross-fitting."""
        found = self.with_tfidf(fit)
        return Mix(0.0, fit.found.temperature, fit.found.sizes) if found is None else found.mix

    def mix(self, log_probs: Floats, terms: Floats | None, truth: NDArray[np.int64], *, tuned: bool) -> Mix:
        """The share of TF-IDF and the temperature by ``[rows, labels]`` of a probe and of TF-IDF on held-out rows.

        Few held-out rows leave the share of a trial (``tuned``) to chance, so the losses of the best frozen probe count as
        much.
        """
        sizes = self.context.choosing.sizes
        if terms is None or self._tfidf is None:
            return Mix(0.0, best_temperature(log_probs, truth, sizes), sizes)
        losses = losses_by_share(log_probs, terms, truth, sizes)
        return best_mix(log_probs, terms, truth, losses + self._tfidf[1].by_share if tuned else losses, sizes)

    def _terms(self, rows: Sequence[Example]) -> TermWeights | None:
        return None if self._tfidf is None else self._tfidf[0].weights(rows)

    def layer(self, fit: PromptFit) -> int:
        """Layer at which a prompt's window ends and its tuned states are read, see :func:`tuned_layer`."""
        return self._span(fit)[1]

    def edge(self, fit: PromptFit) -> int:
        """Number of layers below the window."""
        return self._span(fit)[0]

    def _span(self, fit: PromptFit) -> tuple[int, int]:
        depth = self.context.model.depth
        layer = tuned_layer(fit.found, fit.rows, layers_of_interest(depth))
        if self._window is not None:
            edge = min(self._window[0], layer) - 1
        else:
            edge = max(0, layer - max(1, round(HEURISTICS.window_share * depth)))
        if self._within is not None and not self._within[0] <= edge < layer <= self._within[1]:
            return self._within
        return edge, layer

    def steps_of(self, epochs: float, rows: int) -> int:
        """Number of optimizer steps of ``epochs`` epochs."""
        return max(1, round(epochs * rows / min(self.settings.batch_size, rows)))

    def step_tokens(self, fit: PromptFit) -> float:
        """Mean tokens of a step, scaled by the share of layers that it runs.

        Without the shared-prefix engine, no states are stored at the window's lower edge, so the layers below run too.
        """
        rows = min(self.settings.batch_size, len(self.context.task.train))
        own, prefix = self.context.spending.rows.without_words(fit.prompt)
        if not self.context.model.shared:
            return rows * own * self.embedding.share([self.layer(fit)])
        return (rows * own + prefix) * (self.layer(fit) - self.edge(fit)) / self.context.model.depth

    def frozen(self, fit: PromptFit, rows: Sequence[Example]) -> Fitted:
        """A prompt's probe on the base model, fitted to rows; with and without TF-IDF it is the same."""
        prompt, layer, best = fit.prompt, fit.found.layer, fit.found.best
        terms, rows = self._terms(rows), not_shown(prompt, rows)
        # A pass up to the probe's layer has run through a lower one that tuning starts from, which then needs no other pass.
        wanted = sorted({min(layer, self.layer(fit)), layer})
        states = self.embedding.states(prompt, BASE, rows, "embed", layers=wanted)[-1]
        key = (prompt.id, layer, best.strength, best.word_scale, tuple(row.id for row in rows))
        if key not in self._frozen:
            self._frozen[key] = self._probe(fit, states, rows, layer, best.strength)
        return Fitted(prompt, BASE, layer, 0, self._frozen[key], terms=terms)

    def _probe(
        self, fit: PromptFit, states: NDArray[np.float16], rows: Sequence[Example], layer: int, strength: float
    ) -> Probe:
        """A read-out that is fitted to states ``[rows, width]``, with the same share of label words as the cross-fitted one.

        Below the last layer it has no label words, which are read there alone.
        """
        context = self.context
        scale = fit.found.best.word_scale if layer == context.model.depth else 0.0
        first = first_words(context, fit.prompt) if scale else None
        words = None if first is None else (scale * word_weights(context.model, first)).astype(np.float32)
        labels, sizes = context.choosing.labels, context.choosing.sizes
        head = head_of(states, context.choosing.targets(rows), len(labels), strength, words, sizes)
        chain = None if self._chains is None else self._chains.of(rows)
        return Probe(labels, *head.folded(), layer, sizes=sizes, words=context.choosing.reads_words, chain=chain)

    def tune(self, request: TuningRequest) -> Fitted | None:
        """Tune the window below a layer on rows and fit the read-out; a ``train`` step and an ``embed`` step.

        The read-out is a probe that is fitted to the tuned states, not the head that was tuned with them, because the
        contrastive term separates the states faster than the head follows (64 rows, two draws, mean of TREC-6, film snippets
        and CLINC150-20: accuracy 0.885 and log-loss 0.295 against 0.821 and 0.520).

        Returns:
            None if the loss diverged, which is recorded, or the tuned states are not finite.
        """
        context, fit, stage, source = self.context, request.fit, request.stage, request.source
        prompt, layer = fit.prompt, self.layer(fit)
        terms, rows = self._terms(request.rows), request.tuned_on
        states = self.embedding.states(prompt, source, rows, "embed" if source == BASE else stage, layers=[layer])[0]

        def effect() -> dict[str, Any]:
            pending = self._pending.pop(request.name, partial(self._job, request, states))
            found = self._tuned(request, states) if pending is None else pending.result()
            return {"stage": stage, "prompt_id": prompt.id, "start": request.start, **found}

        value = context.journal.step("train", request.key, effect)
        context.spending.account.counts["tokens_trained"] += int(value["new_tokens"])
        if value.get("timed_tokens") and value["timed_seconds"]:
            context.spending.costs.saw_training(int(value["timed_tokens"]), float(value["timed_seconds"]))
        if "failed" in value:
            return None
        adapter = str(value["adapter_id"])
        context.model.adapters.register(context.folder / "adapters" / adapter)
        head = load_probe(context.folder / "adapters" / str(value["probe_id"]))
        assert head is not None
        try:
            tuned = self.embedding.states(prompt, adapter, rows, stage, layers=[layer])[0]
        except DivergedError:
            return None
        probe = self._tuned_probe(fit, tuned, rows, layer, head)
        return Fitted(prompt, adapter, layer, int(value["steps"]), probe, head, terms)

    def refitted(self, fit: PromptFit, made: Fitted, rows: Sequence[Example]) -> Fitted:
        """Tuned weights with a probe that learns from further rows too, for a trial that is not tuned on them.

        Letters with twelve fields, 62 rows tuned on and 26 more: held-out log-loss 0.248 with a probe of all, 0.287 with one of
        the 62 (mean of three draws; frozen probes of all 0.257). TREC-6, 64 rows, two draws: 0.600 and 0.672.
        """
        known = not_shown(made.prompt, rows)
        states = self.embedding.states(made.prompt, made.adapter, known, "final", layers=[made.layer])[0]
        probe = self._tuned_probe(fit, states, known, made.layer, made.head)
        return replace(made, probe=probe, terms=self._terms(rows))

    def _tuned_probe(
        self, fit: PromptFit, states: NDArray[np.float16], rows: Sequence[Example], layer: int, head: Probe | None
    ) -> Probe:
        """A probe that is fitted to tuned states; of several fields the mean of it and of the head that was tuned with them."""
        fields = bool(self.context.choosing.sizes)
        probe = self._probe(fit, states, rows, layer, HEURISTICS.refit(fields=fields) * fit.found.best.strength)
        if not fields or head is None:
            return probe
        pairs = ((probe.weight, head.weight), (probe.bias, head.bias))
        weight, bias = (((one + other) / 2).astype(np.float32) for one, other in pairs)
        return replace(probe, weight=weight, bias=bias)

    def ahead(self, request: TuningRequest) -> None:
        """Let a worker start a tuning before :meth:`tune` is called with the same request; does nothing without workers."""
        prompt, layers = request.fit.prompt, [self.layer(request.fit)]

        def make(workers: WorkerPool) -> PendingTuning | None:
            # Embedding is a journal step, and steps must keep their order.
            known = self.embedding.knows(prompt, request.source, request.tuned_on, layers)
            if not known or self.context.journal.holds("train", request.key):
                return None
            states = self.embedding.states(prompt, request.source, request.tuned_on, "embed", layers=layers)[0]
            return self._job(request, states, workers)

        self._pending.submit(request.name, make)

    def cancel_ahead(self, prompt: Prompt) -> None:
        """Cancel the requests of :meth:`ahead` for a prompt that were not used."""
        self._pending.cancel(lambda name: name[0] == prompt.id)

    def _job(self, request: TuningRequest, states: NDArray[np.float16], workers: WorkerPool) -> PendingTuning:
        """A tuning as a job for a worker."""
        costs, clock = self.context.spending.costs, self.context.journal.clock

        def deadline() -> Deadline:
            return Deadline(self._kept(request), costs.budget.amount, costs.train_rate, clock(), HEURISTICS.guess)

        limited = request.keep > 0 and costs.budget.kind == "time"
        return PendingTuning(workers, self._task(request, states), deadline if limited else None)

    def _kept(self, request: TuningRequest) -> float:
        """Budget that must be left after the last step of a tuning: for embedding its rows, and for what follows."""
        fit, rows = request.fit, len(request.tuned_on)
        after = self.embedding.row_cost(fit.prompt, rows, layers=[self.layer(fit)], edge=self.edge(fit))
        return request.keep and request.keep + after

    def _tuned(self, request: TuningRequest, states: NDArray[np.float16]) -> dict[str, Any]:
        """Tune in this process."""
        context, costs, clock = self.context, self.context.spending.costs, self.context.journal.clock
        stage, text, task = request.stage, request.fit.prompt.text, self._task(request, states)
        depth, share = context.model.depth, task.share(context.model)

        def until(step_tokens: float) -> Callable[[], bool] | None:
            return spent_to(self._kept(request), costs, step_tokens, clock, guess=HEURISTICS.guess)

        def below(tokens: int) -> None:
            context.watcher.progress(stage, f"states below layer {task.first + 1}: {text}", round(tokens * task.first / depth))

        def report(step: int, loss: float, tokens: int) -> None:
            context.watcher.progress(stage, f"step {step}/{task.steps}, loss {loss:.3f}: {text}", round(tokens * share))

        return tune_window(context.model, task, context.folder, until=until, edge_progress=below, report=report)

    def _task(self, request: TuningRequest, states: NDArray[np.float16]) -> WindowTask:
        """The tuning task, whose head starts from the frozen states of its rows."""
        context, fit, choosing = self.context, request.fit, self.context.choosing
        truth, owners = choosing.targets(request.tuned_on), choosing.owners(request.tuned_on)
        if request.head is not None:
            head = head_from(request.head, states)
        else:
            strength = HEURISTICS.head_strength * fit.found.best.strength
            head = head_of(states, truth, len(choosing.labels), strength, sizes=choosing.sizes)
        rendered = context.answering.render(fit.prompt, request.tuned_on)
        return WindowTask(
            [row.prompt_ids for row in rendered],
            [row.read for row in rendered],
            truth.tolist() if owners is None else [truth[owners == row].tolist() for row in range(len(rendered))],
            choosing.labels,
            self.edge(fit),
            self.layer(fit),
            head,
            self.settings,
            request.steps,
            request.seed,
            request.start,
            choosing.sizes,
        )

    def log_probs(self, fitted: Fitted, rows: Sequence[Example], stage: str) -> Floats:
        """``[states, labels]`` log-probabilities of the read-out."""
        states = self.embedding.states(fitted.prompt, fitted.adapter, rows, stage, layers=[fitted.layer])[0]
        return fitted.probe.log_probs(states.astype(np.float32), self.context.choosing.labels)

    def term_logits(self, fitted: Fitted, rows: Sequence[Example]) -> Floats | None:
        """``[rows, labels]`` logits of TF-IDF that learnt from the same rows; None if the run does not use it."""
        return None if fitted.terms is None else fitted.terms.logits([row.fields for row in rows])


def readout_of(fitted: Fitted, mix: Mix) -> Probe:
    """The read-out in a bundle: the probe, and TF-IDF with its share, at a temperature."""
    weight, bias = ((part / mix.temperature).astype(np.float32) for part in (fitted.probe.weight, fitted.probe.bias))
    terms = fitted.terms.times(mix.share / mix.temperature) if fitted.terms is not None and mix.share else None
    return replace(fitted.probe, weight=weight, bias=bias, terms=terms)
