"""Comparison of the user's own prompt with a run's winner on dev: paired, and within seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cotune.config import RunConfig
from cotune.config.endpoints import JUDGE
from cotune.config.task import Task as ConfiguredTask
from cotune.cycle.answering.base import LabelAnswering, rules_of
from cotune.cycle.answering.factory import answering_for
from cotune.cycle.answering.judging import reopen_judge
from cotune.cycle.backends.registry import backend_of
from cotune.cycle.candidate import Candidate, Own
from cotune.cycle.journal import read_journal
from cotune.cycle.kept import read_config, reading_steps, recorded, register_kept
from cotune.cycle.permissions import Permissions
from cotune.cycle.probe_search.fits import PromptFit, head_of
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.readouts.tfidf import Mix, Tfidf
from cotune.errors import CotuneError, DivergedError, InputError, no_run
from cotune.evaluate.decision import BY_PROBE, Decision
from cotune.evaluate.responses import best_rule
from cotune.evaluate.scoring import Evaluation
from cotune.evaluate.side_by_side import gain_over
from cotune.evaluate.stats.intervals import Interval
from cotune.evaluate.stats.paired import paired_difference
from cotune.evaluate.tried import Comparison, Tried
from cotune.model.adapters.slots import BASE
from cotune.model.engine.hidden_states import states_key
from cotune.model.engine.state_store import StateStore, as_half, layers_of_interest
from cotune.model.local import LocalModel
from cotune.probe.cross_fitting import STRENGTHS, cross_fit
from cotune.probe.readout import Probe
from cotune.prompt.prompt import Prompt, parse_prompt, unfilled
from cotune.prompt.reads import Read, counts
from cotune.refine import not_shown
from cotune.run_files import CONFIG, JOURNAL, run_folder
from cotune.task.example import Example, dev_in_order, groups_of
from cotune.task.known import Known
from cotune.task.split import fold_units, stratum_of, subsample
from cotune.task.task import Task

MOST_LEARNT = 500
"""Maximum number of train rows for a tried prompt's probe, so that a comparison takes seconds."""
MOST_COMPARED = 1000
"""Maximum number of dev rows that prompts are compared on, a random sample of those given."""
_AROUND = 4


class Tryout(Tried):
    """Comparison of a prompt with the winner for each set of weights; displayed as a table."""

    def __str__(self) -> str:
        from cotune.report.terminal.tryout import tryout_text

        return tryout_text(self)

    def _repr_html_(self) -> str:
        from cotune.report.terminal.notebook import tryout_html

        return tryout_html(self)


class Tryouts:
    """A finished or confirmed run that is opened to try prompts; the model stays loaded between prompts.

    Args:
        folder: the run's folder.
        task: the run's rows, if they are not in a file.
        permissions: the user's permissions for the folder. Without them nothing is executed, sent or fetched.

    Raises:
        InputError: there is no such run, it has no winner yet, its data or model has changed, or the folder names a file to
            execute, a server or a secret that the user did not name.
    """

    def __init__(self, folder: Path, task: Task | None = None, *, permissions: Permissions | None = None) -> None:
        folder = run_folder(folder)
        config, identity, events = _stored(folder)
        confirmed = [e for e in events if e["kind"] == "confirm"]
        if not confirmed:
            hint = "Continue it with the same cotune run command."
            raise InputError("the run has no winner yet", where=str(folder), hint=hint)
        judged = config.metric == JUDGE and (task is None or task.measure.graded)
        judging: Any = recorded(events, "judge", str(folder)) if judged else None
        permissions = permissions or Permissions()
        config = permissions.applied(config, folder, judged=judged, rows_known=task is not None)
        going_on: dict[str, Any] = next((e["value"] for e in events if e["kind"] == "previous"), {})
        if task is None:
            known = None
            if going_on:
                # From the journal, because the bundle of the warm start may be gone.
                with reading_steps(str(folder)):
                    shown = Candidate.from_json(going_on["was"]).prompt.always_shown
                    known = Known(Own.from_json(going_on["answers"]).output, [dict(each.fields) for each in shown])
            task = ConfiguredTask.from_config(config, known=known, checked=False, run_metric=False)
        if identity.get("data") != task.fingerprint:
            hint = "Restore the data files, and the metric's file if there is one."
            raise InputError("the data is not that of the run", where=config.data.train, hint=hint)
        task.run_metric()
        self._config, self._task = config, task
        with reading_steps(str(folder)):
            settled = confirmed[-1]["value"]
            # The candidate before its probe learnt from dev, since this compares on dev.
            self._winner = Candidate.from_json(settled["chosen"])
            previous = Prompt.from_json(going_on["prompt"]) if self._winner.own else self._winner.prompt
            self._words = previous.label_words
        self._model = backend_of(config).reopen(config, folder, events, task, permissions)
        self._judge = reopen_judge(config, folder, judging) if judged else None
        self._dev = dev_in_order(task.dev, config.seed)[:MOST_COMPARED]
        self._probe: Probe | None = None
        # The winner's states are kept for the next comparison, which then runs the tried prompt alone.
        self._states = StateStore(folder / "states")
        self._read: dict[tuple[str, str], tuple[Evaluation, int]] = {}
        self._weights: list[tuple[str, Decision | None]] = [(self._winner.adapter, self._winner.decision)]
        if self._winner.adapter != BASE and self._model.capabilities.tune:
            adapters = cast("LocalModel", self._model).adapters
            register_kept(adapters, folder, self._winner.adapter)
            self._probe = adapters.probe(self._winner.adapter)
            if self._probe is not None:
                # The winner's probe was fitted to its own prompt, so both prompts get a probe that is fitted in the same way.
                bare = adapters.without_probe(self._winner.adapter)
                self._winner = replace(self._winner, adapter=bare)
            # The first use takes a second or two, which a typed prompt should not wait for.
            adapters.use(self._winner.adapter)
            tuned = [] if self._winner.adapter == BASE else [(self._winner.adapter, self._winner.decision)]
            self._weights = [*tuned, (BASE, None)]

    def close(self) -> None:
        """Close connections and files of the model and of the judge."""
        self._model.close()
        if self._judge is not None:
            self._judge.close()

    def compare(self, text: str, *, where: str = "prompt", heard: Callable[[Tryout], None] | None = None) -> Tryout:
        """Score a prompt text with the run's tuned and base weights and compare it with the winner, row by row.

        Args:
            text: the prompt, with the task's input fields in braces.
            where: source of the text, for errors.
            heard: called with the results so far after each set of weights, the tuned one first.

        Raises:
            InputError: the prompt has no input field.
        """
        prompt = parse_prompt(text, self._task.input_fields, where=where).edit(label_words=self._words)
        told = unfilled([prompt], self._task.input_fields)
        found = Tryout(prompt, len(self._dev), [], self._winner.adapter, self._probe is not None, told)
        for adapter, rule in self._weights:
            found = replace(found, comparisons=[*found.comparisons, self._compared(prompt, adapter, rule)])
            if heard is not None:
                heard(found)
        return found

    def _compared(self, prompt: Prompt, adapter: str, rule: Decision | None) -> Comparison:
        best, _ = self._judged(self._winner.prompt, adapter, rule, self._winner.own if rule is not None else None)
        mine, truncated = self._judged(prompt, adapter, None, None)
        difference, interval, p = self._difference(best, mine)
        # A metric of likelihood needs no answers, and then nothing was answered in one way or the other.
        answered = bool(mine.answers and best.answers)
        flips = [
            {
                "input": " | ".join(row.fields.values()),
                "gold": row.output,
                "mine": mine.answers[i],
                "winner": best.answers[i],
                "right": bool(mine.correct[i]),
            }
            for i, row in enumerate(self._dev)
            if answered and mine.correct[i] != best.correct[i]
        ]
        return Comparison(
            "base" if adapter == BASE else "tuned",
            mine.score,
            best.score,
            difference,
            interval.low,
            interval.high,
            p,
            mine.log_loss - best.log_loss if np.isfinite([mine.log_loss, best.log_loss]).all() else None,
            flips,
            truncated,
        )

    def _difference(self, best: Evaluation, mine: Evaluation) -> tuple[float, Interval, float]:
        """Difference of the scores, its paired interval and its p-value."""
        groups = groups_of(self._dev)
        if self._task.measure.aggregate is not None:
            gain = gain_over(best, mine, self._task.measure, groups=groups)
            return gain.value, gain.ci, gain.p
        interval, p = paired_difference(best.values, mine.values, seed=self._config.seed, groups=groups)
        return float(mine.values.mean() - best.values.mean()), interval, p

    def _judged(self, asked: Prompt, adapter: str, rule: Decision | None, own: Own | None) -> tuple[Evaluation, int]:
        """Evaluation of the answers, and number of rows that were shortened."""
        task, dev = self._task, self._dev
        if self._probe is not None:
            key = (asked.id, adapter)
            if key not in self._read:
                model = cast("LocalModel", self._model)
                seed = self._config.seed
                self._read[key] = judged_by_probe(model, task, dev, asked, adapter, self._probe, seed, self._states)
            return self._read[key]

        def unheard(tokens: int) -> None:
            return None

        limit, readout = self._config.output.max_tokens, self._config.tune.readout
        answering = answering_for(task, self._model, own, limit, self._judge, readout)
        scored = answering.score(asked, adapter, dev, unheard)
        given = scored.given
        if task.measure.needs_answers and (written := answering.write(asked, adapter, dev, given, unheard)) is not None:
            given = written.given
        rules = (rule,) if rule is not None else rules_of(answering, given, task)
        return best_rule(given, dev, rules, task)[0], scored.truncated


def judged_by_probe(
    model: LocalModel,
    task: Task,
    dev: Sequence[Example],
    prompt: Prompt,
    adapter: str,
    probe: Probe,
    seed: int,
    store: StateStore,
) -> tuple[Evaluation, int]:
    """Evaluate a prompt on dev by a probe that is fitted to train rows; also returns the number of shortened rows.

    The prompt's probe reads the layer of the winner's ``probe``; with the base model it may also read layers around it. If the
    winner adds TF-IDF, so does the prompt. ``seed`` is that of the folds, and of the sample of very many train rows. States are
    read from ``store`` and put there.
    """
    # Stratified, because a probe needs rows of rare labels too.
    rng, stratum = np.random.default_rng([seed, 13]), stratum_of(task.output.kind)
    learn = subsample(not_shown(prompt, task.train), MOST_LEARNT, rng, stratum)
    layer = probe.layer
    layers = (
        [layer] if adapter != BASE else [n for n in layers_of_interest(model.depth) if abs(n - layer) <= _AROUND] or [layer]
    )
    choosing = cast("LabelAnswering", answering_for(task, model))
    classes, sizes = len(choosing.labels), choosing.sizes
    rendered = choosing.render(prompt, (*learn, *dev))
    reads = [row.read for row in rendered]
    states = _states(model, [row.prompt_ids for row in rendered], layers, reads, adapter, store)
    truth = choosing.targets(learn)
    groups, count = fold_units(learn), len(truth)
    found = cross_fit(
        states[:, :count],
        truth,
        classes=classes,
        sizes=sizes,
        layers=layers,
        groups=None if groups is None else groups.tolist(),
        owners=choosing.owners(learn),
        strengths=HEURISTICS.tag_strengths if choosing.reads_words else STRENGTHS,
        seed=seed,
    )
    place = layers.index(found.layer)
    head = head_of(states[place, :count], truth, classes, found.best.strength, sizes=sizes)
    held = ((states[place, count:] - head.mean) / head.spread).astype(np.float32)
    logits = np.einsum("nd,kd->nk", held, head.weight, optimize=True) + head.bias
    mix, terms = Mix(0.0, found.temperature, sizes), None
    if probe.terms is not None:
        tfidf = Tfidf(choosing, learn, seed)
        if (mixed := tfidf.cross_fitted(PromptFit(prompt, learn, np.arange(len(learn)), found))) is not None:
            mix, terms = mixed.mix, tfidf.weights(learn).logits([row.text for row in dev])
    given = choosing.outputs(mix.of(logits, terms), dev, probe.chain)
    return given.judge(dev, BY_PROBE, task), sum(row.truncated for row in rendered[len(learn) :])


def _states(
    model: LocalModel,
    sequences: Sequence[Sequence[int]],
    layers: Sequence[int],
    reads: Sequence[Read],
    adapter: str,
    store: StateStore,
) -> NDArray[np.float32]:
    """States from the store, or computed and stored; both are rounded alike. A folder that cannot be written stores nothing."""
    key = states_key(model, sequences, layers, reads=reads, adapter=adapter)
    stored = store.get(key)
    if stored is None or stored.shape[:2] != (len(layers), sum(counts(reads, len(sequences)))):
        found = model.layer_states(sequences, layers, reads=reads, adapter=adapter)
        if not np.isfinite(found).all():
            raise DivergedError("the prompt's hidden states are not finite; run with engine.dtype=float32")
        stored = as_half(found)
        with suppress(InputError, OSError):
            store.put(key, stored)
    return stored.astype(np.float32)


def try_prompt(
    folder: Path, text: str, *, where: str = "prompt", task: Task | None = None, permissions: Permissions | None = None
) -> Tryout:
    """Compare one prompt with a run's winner; see :class:`Tryouts`, which is faster for several prompts."""
    with closing(Tryouts(folder, task, permissions=permissions)) as tryouts:
        return tryouts.compare(text, where=where)


def _stored(folder: Path) -> tuple[RunConfig, Mapping[str, Any], list[dict[str, Any]]]:
    path, hint = folder / CONFIG, "Give the --out folder of a cotune run."
    if not path.is_file():
        raise no_run(folder)
    try:
        config, identity = read_config(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the run's config cannot be read ({error})", where=str(path), hint=hint) from error
    try:
        return config, identity, read_journal(folder / JOURNAL)
    except CotuneError as error:
        raise InputError(str(error), where=str(folder)) from error
