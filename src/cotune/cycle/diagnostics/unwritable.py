"""Checks, before the model is loaded, of whether the model could write the right answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cotune.config import RunConfig
from cotune.cycle.answering.fields import chooses_fields
from cotune.endpoint.prices import tokens_of
from cotune.errors import InputError
from cotune.model.base import Capabilities
from cotune.model.loading.load import load_tokenizer
from cotune.model.structured.limits import most_tokens
from cotune.model.structured.writable import Writable
from cotune.task.checks import Finding
from cotune.task.task import Task
from cotune.task.values.output import Output
from cotune.task.values.schema import schema_problem

_SHOWN = 3
_SURELY = 2
"""Multiple of the limit above which an answer is certainly too long, if tokens are estimated."""

Problem = Callable[[str], str]
"""Maps a right answer to the reason why it cannot be written; empty if it can be."""


@dataclass(frozen=True)
class _Bad:
    """Rows of a split whose outputs have a problem: their number, and a few examples; no test row is named."""

    split: str
    count: int
    total: int
    shown: tuple[tuple[str, str], ...]

    @property
    def most(self) -> bool:
        return 2 * self.count > self.total

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.shown)

    @property
    def told(self) -> str:
        return "".join(f"; {name}, {why}" for name, why in self.shown)


def check_references(config: RunConfig, task: Task, can: Capabilities) -> Task:
    """Refuse a schema that cannot be enforced, and report right answers that could never be written.

    A model that follows a grammar is constrained by that of the outputs. Others are asked to follow the schema, and their
    answers are checked here. The rows are kept, because the rest of them is worth learning; the returned task's checks report
    them.

    Raises:
        InputError: the schema has a keyword that cannot be enforced while writing, or the outputs of most rows of a split could
            never be written; names place and reason.
    """
    if not task.output.kind.written:
        return task
    place = _schema_place(config)
    # Values of fields are chosen, so no keyword has to be enforced while writing.
    chosen = can.hidden_states and chooses_fields(task, config.tune.readout)
    problem = Writable(task.output, place).problem if can.grammar and not chosen else _invalid(task.output, place)
    never, findings = "can never be answered" if chosen else "can never be written", []
    for bad in _bad_rows(task, problem):
        if bad.most:
            raise InputError(
                f"{bad.count:,} of {bad.total:,} {bad.split} rows have an output that {never}{bad.told}",
                where=f"the outputs of {bad.split}",
                hint=task.output.kind.unwritable_hint(schema_given=config.output.json_schema is not None),
            )
        message = (
            f"{bad.count:,} of {bad.total:,} {bad.split} rows have an output that {never}, so no answer to them can be fully "
            f"right; they are kept{bad.told}"
        )
        findings.append(Finding(f"unwritable_in_{bad.split}", "warning", message, bad.count, bad.ids))
    if not can.hidden_states and (limit := config.endpoint.answer_tokens or config.output.max_tokens):
        key = "endpoint.answer_tokens" if config.endpoint.answer_tokens else "output.max_tokens"
        findings += _long(task, lambda text: tokens_of(text) // _SURELY, limit, key)
    return replace(task, checks=task.checks.plus(findings)) if findings else task


def check_lengths(config: RunConfig, task: Task, can: Capabilities) -> Task:
    """Report right answers that are longer than the limit in the checks of the returned task.

    Loads the model's tokenizer, but not the model; without a tokenizer, :func:`check_references` has estimated the lengths. If
    the config names no limit, it is taken from train and dev, which then fit.

    Raises:
        InputError: answers are numbers or JSON and those of most rows of train or dev are too long; or there is no tokenizer.
    """
    if not task.output.kind.written or not can.hidden_states or chooses_fields(task, config.tune.readout):
        return task
    from cotune.model.loading.bundled import resolve_model

    tokenizer = load_tokenizer(resolve_model(config.model))
    outputs = list(_outputs(task))
    # Tokenizing all at once is several times as fast as one by one.
    known = dict(zip(outputs, map(len, tokenizer(outputs, add_special_tokens=False)["input_ids"]), strict=True))

    def length(text: str) -> int:
        return known[text] if text in known else len(tokenizer(text, add_special_tokens=False)["input_ids"])

    limit = config.output.max_tokens or most_tokens(max(known.values()) + 1)
    findings = _long(task, length, limit, "output.max_tokens")
    return replace(task, checks=task.checks.plus(findings)) if findings else task


def _long(task: Task, length: Callable[[str], int], limit: int, key: str) -> list[Finding]:
    longest = max(map(length, _outputs(task)))
    findings = []
    for bad in _bad_rows(task, lambda text: f"{length(text):,} tokens" if length(text) > limit else ""):
        what = f"{bad.count:,} of {bad.total:,} {bad.split} rows have an output of more than {limit:,} tokens"
        hint = f"Raise it to {longest + 1:,} or more, or leave it out."
        if bad.most and bad.split != "test" and task.output.constraint is not None:
            raise InputError(f"{what}, and an answer may have no more{bad.told}", where=key, hint=hint)
        message = f"{what}, the maximum of an answer ({key}), so answers to them are cut; they are kept{bad.told}"
        findings.append(Finding(f"long_outputs_in_{bad.split}", "warning", message, bad.count, bad.ids))
    return findings


def _bad_rows(task: Task, problem: Problem) -> Iterator[_Bad]:
    for split, rows in (("train", task.train), ("dev", task.dev)):
        found = [(row.id, why) for row in rows if (why := problem(row.output))]
        if found:
            yield _Bad(split, len(found), len(rows), tuple(found[:_SHOWN]))
    if count := task.test.count_outputs(lambda text: bool(problem(text))):
        yield _Bad("test", count, task.test.n, ())


def _invalid(output: Output, place: str) -> Problem:
    """The problem check for a model without a grammar: a right answer must be a value of the output."""
    if output.schema is not None and (wrong := schema_problem(output.schema)):
        raise InputError(f"answers cannot be checked against it ({wrong})", where=place, hint="Give a simpler output.schema.")
    return lambda text: "" if output.fits(text) else "which does not fit the schema"


def _outputs(task: Task) -> set[str]:
    return {row.output for row in (*task.train, *task.dev)}


def _schema_place(config: RunConfig) -> str:
    given = config.output.json_schema
    if given is None:
        return "the schema of the outputs"
    return f"output.schema, {given}" if isinstance(given, str) else "output.schema"
