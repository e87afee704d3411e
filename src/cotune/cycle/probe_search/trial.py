"""A trial: a prompt whose window of layers is tuned on some labelled rows, and what it gives on the rows held out from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.budget.reserve import spent_to
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import PromptFit, head_from, head_of, probe_of, word_vectors
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.errors import DivergedError
from cotune.evaluate.responses import label_indices
from cotune.model.adapters.slots import BASE
from cotune.probe.readout import Probe, load_probe
from cotune.prompt.prompt import Prompt
from cotune.refine import not_shown
from cotune.task.example import Example
from cotune.tune.window import WindowRun, WindowSettings, WindowStates

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Weights, frozen or tuned, with their read-out.

    Attributes:
        prompt: how it asks.
        adapter: id of the tuned weights without a probe; :data:`BASE` where the weights are frozen.
        layer: that is read.
        steps: optimizer steps behind the adapter.
        probe: what answers, fitted to the states.
        head: the linear head that was tuned with the weights; None where they are frozen.
    """

    prompt: Prompt
    adapter: str
    layer: int
    steps: int
    probe: Probe
    head: Probe | None = None


class Trials:
    """Tunes prompts and fits their read-outs, journalled.

    Args:
        context: where effects happen.
        embedding: embeds rows under the tuned weights.
        settings: how windows are tuned.
        window: first and last layer of every window; None takes a share of the depth below the layer that is read.
    """

    def __init__(
        self,
        context: RunContext,
        embedding: Embedding,
        settings: WindowSettings,
        window: tuple[int, int] | None = None,
    ) -> None:
        self.context, self.embedding, self.settings, self._window = context, embedding, settings, window

    def edge(self, fit: PromptFit) -> int:
        """Layers below the window that ends after the layer which a prompt is read from."""
        layer = fit.found.layer
        if self._window is not None:
            return min(self._window[0], layer) - 1
        return max(0, layer - max(1, round(HEURISTICS.window_share * self.context.model.depth)))

    def steps_of(self, epochs: float, rows: int) -> int:
        """Optimizer steps in which each row is met so often."""
        return max(1, round(epochs * rows / min(self.settings.batch_size, rows)))

    def step_tokens(self, fit: PromptFit) -> float:
        """Mean tokens of a step, by the share of the layers that it runs."""
        own, prefix = self.context.spending.rows.counted(fit.prompt)
        rows = min(self.settings.batch_size, len(self.context.task.train))
        return (rows * own + prefix) * (fit.found.layer - self.edge(fit)) / self.context.model.depth

    def frozen(self, fit: PromptFit, rows: Sequence[Example]) -> Fitted:
        """The probe of a prompt on the model as it is, fitted to rows."""
        prompt, layer, strength = fit.prompt, fit.found.layer, fit.found.best.strength
        rows = not_shown(prompt, rows)
        states = self.embedding.states(prompt, BASE, rows, "embed", layers=[layer])[0]
        head = head_of(
            states, label_indices(rows, self.context.task), len(self.context.task.labels), strength, self._words(fit)
        )
        return Fitted(prompt, BASE, layer, 0, probe_of(self.context, head, layer))

    def _words(self, fit: PromptFit) -> NDArray[np.float32] | None:
        """Weights of the label words that a prompt's probe stands beside; None where it stands alone."""
        scale = fit.found.best.word_scale
        vectors = word_vectors(self.context, fit.prompt) if scale else None
        return None if vectors is None else (scale * vectors).astype(np.float32)

    def tune(
        self,
        fit: PromptFit,
        rows: Sequence[Example],
        steps: int,
        *,
        stage: str,
        start: str = BASE,
        after: Fitted | None = None,
        keep: float = 0.0,
        seed: int | None = None,
    ) -> Fitted | None:
        """Tune the window below a layer on rows and fit the read-out; a ``train`` step and an ``embed`` step.

        A probe that is fitted to the tuned states answers, not the head that was tuned with them: the contrastive term draws
        the states apart and leaves the head behind (64 rows, two draws, mean of TREC-6, film snippets and CLINC150-20:
        accuracy 0.885 and log-loss 0.295 against 0.821 and 0.520).

        Args:
            fit: the prompt with its frozen probe, whose layer is read and from which the head starts.
            rows: labelled rows; those that the prompt shows are left out.
            steps: of the optimizer.
            stage: for the journal.
            start: adapter that tuning begins from, with a head fitted to its states.
            after: an earlier trial of the prompt that is tuned on with its head.
            keep: budget that must be left; tuning ends early where it would not be.
            seed: draws the weights and the order; None takes the run's.

        Returns:
            None where the loss diverged, which is recorded and told, or the tuned states are not finite.
        """
        context, model = self.context, self.context.model
        prompt, layer, strength = fit.prompt, fit.found.layer, fit.found.best.strength
        words = self._words(fit)
        rows = not_shown(prompt, rows)
        truth = label_indices(rows, context.task)
        classes = len(context.task.labels)
        first = self.edge(fit)
        share = (layer - first) / model.depth
        draw = context.seed if seed is None else seed
        # A head that is kept has the coordinates of the frozen states.
        source, start = (start, start) if after is None else (BASE, after.adapter)
        states = self.embedding.states(prompt, source, rows, "embed" if source == BASE else stage, layers=[layer])[0]

        def effect() -> dict[str, Any]:
            started = time.monotonic()
            if after is not None and after.head is not None:
                head = head_from(after.head, states)
            else:
                head = head_of(states, truth, classes, HEURISTICS.head_strength * strength)
            rendered = context.answering.render(prompt, rows)
            told: list[int] = []

            def progress(tokens: int) -> None:
                told.append(tokens)
                context.watcher.progress(
                    stage, f"states below layer {first + 1}: {prompt.text}", round(tokens * first / model.depth)
                )

            ids, starts = [row.prompt_ids for row in rendered], [row.start for row in rendered]
            edge = WindowStates(model, ids, first, starts=starts, adapter=start, progress=progress)
            run = WindowRun(
                model,
                edge,
                range(len(rows)),
                truth.tolist(),
                layer,
                head,
                self.settings,
                steps=steps,
                seed=draw,
                folder=context.folder / "checkpoints",
                start=start,
            )
            costs, clock = context.spending.costs, context.journal.clock
            spent = spent_to(keep, costs, run.tokens_per_step * share, clock, guess=HEURISTICS.guess)
            trained: list[tuple[float, int]] = []

            def report(step: int, loss: float, tokens: int) -> None:
                trained.append((time.monotonic(), tokens))
                context.watcher.progress(stage, f"step {step}/{steps}, loss {loss:.3f}: {prompt.text}", round(tokens * share))

            try:
                run.advance(report=report, until=spent)
                adapter = run.save(context.folder / "adapters")
                made = {
                    "adapter_id": adapter,
                    "probe_id": model.adapters.add_probe(
                        adapter, probe_of(context, run.head(), layer), context.folder / "adapters"
                    ),
                }
            except DivergedError as error:
                made = {"failed": str(error)}
            timed = trained[1:] if len(trained) > 1 else trained
            return {
                "stage": stage,
                "prompt_id": prompt.id,
                "start": start,
                "asked": steps,
                "steps": run.step,
                "decayed": True,
                "window": [first, layer],
                "rows": len(rows),
                "losses": [round(loss, 4) for loss in run.losses],
                "loss": round(float(np.mean(run.losses[-5:])), 4) if run.losses else None,
                "tokens": run.tokens,
                "new_tokens": round(run.tokens * share + edge.tokens * first / model.depth),
                "timed_tokens": round(sum(tokens for _, tokens in timed) * share),
                "timed_seconds": round(timed[-1][0] - trained[0][0], 3) if len(trained) > 1 else 0.0,
                "seconds": round(time.monotonic() - started, 3),
                **made,
            }

        onward = [] if after is None else ["after"]
        key = [prompt.id, start, layer, strength, fit.found.best.word_scale, [row.id for row in rows], steps, draw, *onward]
        value = context.journal.step("train", key, effect)
        context.spending.account.counts["tokens_trained"] += int(value["new_tokens"])
        if value.get("timed_tokens") and value["timed_seconds"]:
            context.spending.costs.saw_training(int(value["timed_tokens"]), float(value["timed_seconds"]))
        if "failed" in value:
            return None
        adapter = str(value["adapter_id"])
        model.adapters.register(context.folder / "adapters" / adapter)
        head = load_probe(context.folder / "adapters" / str(value["probe_id"]))
        assert head is not None
        try:
            tuned = self.embedding.states(prompt, adapter, rows, stage, layers=[layer])[0]
        except DivergedError:
            return None
        probe = probe_of(context, head_of(tuned, truth, classes, HEURISTICS.refit_strength * strength, words), layer)
        return Fitted(prompt, adapter, layer, int(value["steps"]), probe, head)

    def log_probs(self, fitted: Fitted, rows: Sequence[Example], stage: str) -> Floats:
        """``[rows, labels]`` of the read-out."""
        states = self.embedding.states(fitted.prompt, fitted.adapter, rows, stage, layers=[fitted.layer])[0]
        return fitted.probe.log_probs(states.astype(np.float32), self.context.task.labels)


def warmed(probe: Probe, temperature: float) -> Probe:
    """A read-out whose logits are divided by a temperature."""
    weight, bias = ((part / temperature).astype(np.float32) for part in (probe.weight, probe.bias))
    return replace(probe, weight=weight, bias=bias)
