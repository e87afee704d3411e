"""Contract tests for extensions of cotune: metrics, output kinds, prompt edits, backends and tuners.

Each function raises an AssertionError with the violated condition. A package that adds a metric calls
:func:`check_metric` in its own tests; cotune's tests call these functions on everything that is built in. They work with any
test runner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from cotune.config.task import Task
from cotune.errors import CotuneError, InputError
from cotune.model.base import Capabilities, ModelBackend
from cotune.prompt.bank import starting_bank
from cotune.prompt.prompt import Prompt
from cotune.refine.copied import RowGrams, words_of
from cotune.refine.edits import Operator, sound
from cotune.task.answered import Answered, Floats
from cotune.task.example import Example
from cotune.task.metrics.metric import METRICS, Aggregate, Metric
from cotune.task.values.json_value import json_text
from cotune.task.values.kinds.base import Constraint, OutputKind
from cotune.task.values.kinds.registry import KINDS, OUTPUT_TYPES, OutputType
from cotune.task.values.output import Output
from cotune.task.values.schema import Validator

if TYPE_CHECKING:
    from cotune.model.local import LocalModel
    from cotune.model.structured.grammar import Grammar
    from cotune.tune.tuners import Tuner

__all__ = ["check_metric", "check_model", "check_output_kind", "check_prompt_edit", "check_tuner"]

_NO_VALUE = "certainly not one"
_CLOSE = 0.02
"""Difference in nats that a label's score may have between batches, due to rounding in half precision."""


# Metrics --------------------------------------------------------------------------------------------------------------


def check_metric(metric: Metric) -> None:
    """Check a metric on a few answers of each output type that it supports.

    Values must be finite, between 0 and 1 and deterministic, must depend on each row alone (or, with an aggregate, on sums over
    rows), and must not rank right answers below wrong ones.

    Raises:
        AssertionError: if a condition does not hold.
    """
    assert metric.name and metric.about, "a metric needs a name and a one-line description"
    assert metric.types, f"{metric.name}: it supports no output type"
    for name in metric.types:
        assert name in OUTPUT_TYPES, f"{metric.name}: {name!r} is not an output type; known are {', '.join(OUTPUT_TYPES)}"
        _check_metric_on(metric, name)


def _check_metric_on(metric: Metric, type: OutputType) -> None:
    what = f"{metric.name} on {type}"
    output, references = _sample_output(type)
    right = _answered(output, references, references)
    wrong = _answered(output, references, [*references[1:], references[0]])
    values = {"right": metric.rows(right), "wrong": metric.rows(wrong)}
    for name, value in values.items():
        assert np.shape(value) == (len(references),), (
            f"{what}: rows of {name} answers have the shape {np.shape(value)}, not ({len(references)},)"
        )
        assert np.isfinite(value).all(), f"{what}: a row's value is not finite: {value}"
        assert (np.min(value) >= 0) and (np.max(value) <= 1), f"{what}: a row's value is not between 0 and 1: {value}"
        assert set(np.unique(metric.right(np.asarray(value)))) <= {0.0, 1.0}, f"{what}: right() gives more than 0 and 1"
    assert np.array_equal(values["wrong"], metric.rows(wrong)), f"{what}: two calls give different values"
    if metric.aggregate is not None:
        _check_aggregate(metric.aggregate, right, wrong, what)
    assert metric.score(right) >= metric.score(wrong), f"{what}: wrong answers score higher than right ones"
    assert 0 <= metric.score(wrong) <= metric.score(right) <= 1, f"{what}: the score is not between 0 and 1"
    backwards = metric.rows(_answered(output, references[::-1], [references[0], *references[:0:-1]]))
    assert np.allclose(np.asarray(backwards)[::-1], values["wrong"]), f"{what}: a row's value depends on the order of the rows"


def _check_aggregate(aggregate: Aggregate, right: Answered, wrong: Answered, what: str) -> None:
    counts = [aggregate.counts(answered) for answered in (right, wrong)]
    for columns in counts:
        assert np.ndim(columns) == 2 and len(columns) == len(right.references), (
            f"{what}: counts must be [rows, columns], not {np.shape(columns)}"
        )
    assert counts[0].shape == counts[1].shape, f"{what}: the columns of counts depend on what was answered"
    sums = np.stack([columns.sum(axis=0) for columns in counts])
    both = aggregate.score(sums)
    assert np.shape(both) == (2,), f"{what}: an aggregate's score must turn [..., columns] into [...]"
    assert np.allclose(both, [aggregate.score(one) for one in sums]), f"{what}: scores of several sums at once differ"


def _answered(output: Output, references: Sequence[str], answers: Sequence[str]) -> Answered:
    """Answers with all data that a metric may use."""
    same: Floats = np.array([float(a == b) for a, b in zip(references, answers, strict=True)])
    rows = [Example(f"row:{i}", {"text": f"the text that belongs to {text}"}, text) for i, text in enumerate(references)]
    return Answered(list(references), list(answers), output, rows, losses=1.0 - same, grades=same)


@cache
def _sample_output(type: OutputType) -> tuple[Output, tuple[str, ...]]:
    """An output of a type, and sample outputs as a task reads them."""
    kind = KINDS[type]
    reader = kind.cell_reader()
    read = [reader(sample, "a sample") for sample in kind.samples]
    schema = kind.schema_of(read, None)
    labels = () if kind.written else tuple(sorted(read))
    outputs = tuple(kind.in_one_form(text, schema) for text in read)
    return Output(type, labels, "" if schema is None else json_text(schema)), outputs


# Kinds of outputs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bounds:
    """Labels and schema that bound the answers of a kind, which need not be registered."""

    labels: tuple[str, ...]
    schema: Mapping[str, Any] | None

    @cached_property
    def _check(self) -> Validator:
        return Validator(self.schema or {})

    def valid(self, value: Any) -> bool:
        return self._check(value)


def check_output_kind(kind: OutputKind) -> None:
    """Check an output kind on its own samples.

    The normal form of an output must be stable, a valid value of the kind, different for different samples, accepted by the
    kind's grammar, and representable as JSON. Text that is not a value must be recognised as such, unless every text is a
    value.

    Raises:
        AssertionError: if a condition does not hold.
    """
    what = f"the kind {kind.name!r}"
    assert kind.name.isidentifier() and kind.name == kind.name.lower(), f"{what}: its name must be one word in lower case"
    assert kind.about and kind.noun and kind.output_noun, f"{what}: it needs about, noun and output_noun"
    assert kind.mode in ("choose", "write"), f"{what}: its mode is {kind.mode!r}"
    assert "text" in kind.response_formats, f"{what}: every chat client may ask for text"
    metric = METRICS.get(kind.default_metric)
    assert metric is not None, f"{what}: its default metric {kind.default_metric!r} is unknown"
    assert kind.name not in KINDS or kind.name in metric.types, f"{what}: its default metric {metric.name} does not fit it"
    assert len(set(kind.samples)) == len(kind.samples) >= 2, f"{what}: it needs samples, all different"
    reader = kind.cell_reader()
    read = [reader(sample, "a sample") for sample in kind.samples]
    schema = kind.schema_of(read, None)
    assert (schema is not None) == kind.has_schema, f"{what}: has_schema is {kind.has_schema}, and schema_of gives {schema}"
    bounds = _Bounds(() if kind.written else tuple(sorted(read)), schema)
    outputs = [kind.in_one_form(text, schema) for text in read]
    for text in outputs:
        _check_value(kind, text, bounds, what)
    for place, text in enumerate(outputs):
        others = [other for other in outputs[:place] if kind.same(text, other)]
        assert not others, f"{what}: {text!r} and {others[:1]} are taken for the same"
    _check_words(kind, bounds, what)
    _check_held(kind, outputs, bounds, what)


def _check_value(kind: OutputKind, text: str, bounds: _Bounds, what: str) -> None:
    assert kind.cell_reader()(text, "a sample") == text or kind.in_one_form(text, bounds.schema) == text, (
        f"{what}: {text!r} changes when it is read again"
    )
    assert kind.canonical(text, bounds) == text, f"{what}: canonical({text!r}) is {kind.canonical(text, bounds)!r}"
    assert kind.canonical(f" {text}\n", bounds) == text, f"{what}: white space around {text!r} changes what it means"
    assert kind.fits(text, bounds) and kind.value(text) is not None, f"{what}: the output {text!r} is no value of it"
    assert kind.same(text, text), f"{what}: {text!r} is not the same as itself"
    json.dumps(kind.plain_value(text), allow_nan=False)
    assert kind.stratum(text) in ("", text), f"{what}: outputs are balanced over {kind.stratum(text)!r}"


def _check_words(kind: OutputKind, bounds: _Bounds, what: str) -> None:
    form = kind.form(bounds)
    braces = set(re.findall(r"\{[^}]*\}?", form)) - ({"{labels}"} if bounds.labels else set())
    assert not braces, f"{what}: its form {form!r} holds {sorted(braces)[0]!r}, which a prompt would take for a placeholder"
    assert isinstance(kind.recognise(kind.samples), str), f"{what}: recognise must give a reason, or an empty text"
    assert not any("{" in text for text in (*kind.cues, *kind.systems)), f"{what}: cues and systems hold no braces"


def _check_held(kind: OutputKind, outputs: Sequence[str], bounds: _Bounds, what: str) -> None:
    if kind.misfit:
        assert not kind.fits(_NO_VALUE, bounds) and kind.value(_NO_VALUE) is None, f"{what}: {_NO_VALUE!r} is taken for a value"
        try:
            kind.cell_reader()(_NO_VALUE, "a sample")
        except InputError:
            pass
        else:
            raise AssertionError(f"{what}: the cell {_NO_VALUE!r} is read without an error")
    assert kind.canonical(f" {_NO_VALUE} ", bounds) == _NO_VALUE, f"{what}: a text that is no value must stay"
    held = kind.constraint(bounds)
    assert held is None or kind.written, f"{what}: kinds with labels have no constraint"
    assert (held is not None) == bool(kind.misfit), (
        f"{what}: answers are held to {held}, and an unfit one is said to {kind.misfit!r}"
    )
    if held is not None:
        grammar = _grammar(held)
        for text in outputs:
            assert grammar.accepts(text), f"{what}: the output {text!r} could never be written"


def _grammar(held: Constraint) -> Grammar:
    from cotune.model.structured.grammar import Grammar

    return Grammar.number(integer=held.integer) if held.schema is None else Grammar.json(held.schema)


# Prompt edits ---------------------------------------------------------------------------------------------------------


def check_prompt_edit(edit: Operator | Callable[..., Prompt | None]) -> None:
    """Check a prompt edit on the starting bank of a task of every type.

    It must return a Prompt or None, be deterministic for a seed, copy no text from the rows, apply to at least one prompt, and
    keep the words of the instruction if it claims to preserve the meaning.

    Raises:
        AssertionError: if a condition does not hold.
    """
    operator = edit if isinstance(edit, Operator) else Operator(getattr(edit, "__name__", "edit"), edit)
    made = 0
    for type in OUTPUT_TYPES:
        task = _sample_task(type)
        grams = RowGrams(task)
        for prompt in starting_bank(task):
            for seed in range(3):
                made += _check_child(operator, prompt, task, grams, seed)
    assert made, f"the edit {operator.name!r} applies to no prompt of any type, or all that it makes is unsound"


def _check_child(operator: Operator, prompt: Prompt, task: Task, grams: RowGrams, seed: int) -> bool:
    what = f"the edit {operator.name!r} on {prompt.id}"
    before = prompt.to_json()
    raw, again = (operator.edit(prompt, task, np.random.default_rng(seed)) for _ in range(2))
    assert raw is None or isinstance(raw, Prompt), f"{what} gave a {type(raw).__name__}, instead of a Prompt or None"
    assert raw == again, f"{what}: one seed gives two prompts; take all random numbers from the given generator"
    assert prompt.to_json() == before, f"{what} changed the given prompt"
    child = operator(prompt, task, np.random.default_rng(seed))
    if child is None:
        return False
    assert sound(child, task, [prompt]), f"{what}: the child is unsound"
    copied = grams.copied("\n".join(child.parts))
    assert copied is None, f"{what}: the child copies a row ({copied})"
    if operator.preserves_meaning:
        kept = words_of(child.instruction) == words_of(prompt.instruction) and child.label_words == prompt.label_words
        assert kept, f"{what}: it claims to preserve the meaning but changes words"
    return True


@cache
def _sample_task(type: OutputType) -> Task:
    """A small task of a type, made from the samples of its kind."""
    samples = KINDS[type].samples
    nouns = ("window", "garden", "letter", "engine", "bottle", "camera", "pencil")
    rows = [
        {
            "question": f"where did the old {nouns[i % 7]} of house {i} go last {nouns[i % 5]}",
            "answer": samples[i % len(samples)],
        }
        for i in range(40)
    ]
    return Task.from_rows(rows, input="question", output="answer", type=type, name="samples")


# Models ---------------------------------------------------------------------------------------------------------------


def check_model(model: ModelBackend) -> None:
    """Check a model backend on two short rows: scores, answers, grammar and hidden states, as its capabilities promise.

    Raises:
        AssertionError: the model lacks something that its capabilities include.
    """
    from cotune.model.structured.grammar import Grammar

    what = f"the model {model.name!r}"
    prompt = Prompt("Is it an animal or a plant? Answer with one of: {labels}.", "Word: {word}", "Kind:")
    rows, labels = [{"word": "oak"}, {"word": "a grey horse in the stable"}], ("animal", "plant")
    can = model.capabilities
    assert isinstance(can, Capabilities), f"{what}: its capabilities are a {type(can).__name__}"
    assert model.name and model.fingerprint == model.fingerprint, f"{what}: it needs a name and a constant fingerprint"
    scores = model.score(prompt, rows, labels).log_probs
    assert scores.shape == (2, 2), f"{what}: scores of 2 rows and 2 labels have the shape {scores.shape}"
    assert not np.isnan(scores).any() and (scores <= 1e-6).all(), f"{what}: these are not log-probabilities: {scores.tolist()}"
    one = model.score(prompt, rows[:1], labels).log_probs[0]
    assert np.allclose(one, scores[0], atol=_CLOSE), f"{what}: a row's scores depend on the other rows: {one} and {scores[0]}"
    try:
        model.score(prompt, rows, labels, adapter="0" * 16)
    except (CotuneError, KeyError):
        pass
    else:
        raise AssertionError(f"{what}: an unknown adapter is accepted")
    if can.generation:
        generated = model.generate(prompt, rows, limit=4)
        assert len(generated.texts) == len(generated.ended) == 2, f"{what}: 2 rows got {len(generated.texts)} answers"
        assert generated.texts == model.generate(prompt, rows, limit=4).texts, f"{what}: greedy answers differ between calls"
    if can.grammar:
        numbers = model.generate(prompt, rows, limit=4, grammar=Grammar.number(integer=True)).texts
        assert all(re.fullmatch(r"-?\d+", text) for text in numbers), f"{what}: answers break the grammar: {numbers}"
    assert can.hidden_states or not can.tune, f"{what}: a model that can be tuned must give hidden states"
    if can.hidden_states:
        _check_states(model, what)
    saved = model.saved(prompt, ("word",), labels)
    json.dumps(dict(saved.asking), allow_nan=False)
    assert "{word}" in saved.text and saved.longest > 0, f"{what}: what a bundle keeps does not show the row's field"


def _check_states(model: Any, what: str) -> None:
    ids = [model.tokenizer(text)["input_ids"] for text in ("an oak", "a horse in the stable")]
    states = model.last_states(ids)
    assert states.ndim == 2 and len(states) == 2, f"{what}: states of 2 sequences have the shape {states.shape}"
    assert np.isfinite(states).all(), f"{what}: a state is not finite"
    alone = model.last_states(ids[:1])[0]
    assert np.allclose(alone, states[0], rtol=0.02, atol=0.02 * np.abs(states).max()), f"{what}: a state depends on other rows"


# Tuners ---------------------------------------------------------------------------------------------------------------


def check_tuner(tuner: Tuner, model: LocalModel) -> None:
    """Check a tuner: the same seed gives the same parameters, which can be changed, saved and loaded.

    Raises:
        AssertionError: the tuner breaks the contract.
    """
    import torch

    from cotune.model.adapters.slots import BASE
    from cotune.tune.settings import TuneSettings

    what, settings = f"the tuner {type(tuner).__name__}", TuneSettings()
    tuner.check(model, settings)
    first, second = (tuner.trainable(model, settings, seed=7) for _ in range(2))
    named = dict(first.enter())
    assert named and all(p.requires_grad for p in named.values()), f"{what}: it has no trainable parameters"
    start = first.weights()
    with TemporaryDirectory() as folder:
        saved = first.save(Path(folder))
        assert (Path(folder) / saved).is_dir(), f"{what}: {saved!r} is not where it was saved"
        with torch.no_grad():
            for parameter in named.values():
                parameter.add_(0.25)
        changed = first.weights()
        same = all(torch.equal(start[name], changed[name]) for name in start)
        assert not same, f"{what}: weights() returns no copy, or the weights do not change"
        later = first.save(Path(folder))
        assert later != saved, f"{what}: other weights have the same id"
        again = tuner.trainable(model, settings, seed=8, start=later)
        again.enter()
        back = again.weights()
        assert all(torch.equal(back[name], changed[name]) for name in changed), f"{what}: loaded weights differ"
    second.enter()
    drawn = second.weights()
    assert all(torch.equal(start[name], drawn[name]) for name in start), f"{what}: one seed gives different parameters"
    model.adapters.use(BASE)
