"""Search policies, chosen by the model's capabilities and the kind of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

from cotune.config import RunConfig
from cotune.cycle.answer_search.loop import AnswerPolicy
from cotune.cycle.backends.base import Backend
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.policy import ProbePolicy, searches_by_probes
from cotune.cycle.search.arms import Confirmed
from cotune.cycle.search.result import SearchResult
from cotune.errors import InputError, counted, shortened, shown_names
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task
from cotune.task.values.closed import open_parts
from cotune.task.values.copied import obstacles, values_in_texts
from cotune.task.values.output_fields import Spelling
from cotune.task.values.spelling import SPELLINGS

S = TypeVar("S", bound=SearchResult)
MOST_OPEN = 3
"""Maximum number of obstacles that a run names; of more it says how many."""


class SearchPolicy(Protocol[S]):
    """Searches within the budget, and returns the arms.

    A policy plans when it is created, and then refuses a budget that is too small.

    Attributes:
        fixed: cost of saving and the report under a time budget.
    """

    fixed: float

    def search(self) -> S:
        """Search until the rest of the budget is needed for the arms and the test."""
        ...

    def confirm(self, found: S) -> Confirmed:
        """Fit the arms on the result of the search, and record them."""
        ...


def policy_for(
    context: RunContext,
    config: RunConfig,
    own: tuple[Prompt, ...],
    previous: Previous | None,
    bundle: Path,
    read: Embedding | None = None,
) -> SearchPolicy[Any]:
    """The policy that fits the model and the task.

    ``own`` holds the seed prompt first, then the user's further prompts. ``bundle`` is the folder of the run's bundle, where a
    first one may be saved early. ``read`` holds states that are known already.

    Raises:
        InputError: the budget is too small, or the model cannot do what the config asks for.
    """
    if searches_by_probes(context, config):
        if context.choosing.reads_words:
            _tell_copied(context)
        if listed := _listed(context.task):
            context.journal.tell(
                f"the values of {shown_names(listed)} are chosen from those in train and dev; others are never answered"
            )
        return ProbePolicy(context, config, own, previous, bundle, read)
    if config.tune.readout == "probe":
        measure = context.task.measure
        if context.task.output.fields is not None and (measure.graded or not measure.needs_answers):
            raise _no_probes(f"the metric {measure.name} needs generated answers")
        if context.can.hidden_states and context.model.reads_layers:
            raise _no_probes("an output of train or dev has a value that the schema's closed fields do not list")
        raise _no_probes(f"the engine gives no states between the layers of {context.scorer.name}")
    if config.tune.readout != "words" and context.can.hidden_states:
        _advise_probes(context)
    return AnswerPolicy(context, config, own, previous)


def _advise_probes(context: RunContext) -> None:
    """Say what keeps JSON or numbers from being read off hidden states, if that may be changed."""
    task, tell = context.task, context.journal.tell
    output, measure = task.output, task.measure
    if output.fields is not None and measure.exact and not output.kind.by_field:
        tell(
            f"the numbers are generated, because {measure.name} counts exact answers only; under a metric for which near is "
            "nearly right (metric=r2, spearman or 'within 5%') they are read off hidden states in a fraction of the time"
        )
    if output.fields is None and (found := _obstacles(task)):
        # A note apart, because a long one is cut.
        tell(f"the JSON is generated, because {found}")
        tell(
            "if each part has few values (output.schema: enum, or minimum and maximum) or is written as it stands in the text, "
            "or always in one letter case, all is read off hidden states in a fraction of the time; leave out a part that "
            "cannot be"
        )


def _obstacles(task: Task) -> str:
    """What keeps JSON from being read off hidden states; empty if it is nothing, and for other outputs."""
    if not task.output.kind.nested_cells:
        return ""
    rows = (*task.train, *task.dev)
    found = obstacles(task.output.schema, [row.output for row in rows], [row.text for row in rows])
    more = [f"and so on for {counted(len(found) - MOST_OPEN, 'part')} more"] if len(found) > MOST_OPEN else []
    return "; ".join([*found[:MOST_OPEN], *more])


def _listed(task: Task) -> list[str]:
    """The parts of JSON that are chosen from the labelled rows' values, although their schema allows others."""
    if not task.output.read_text:
        return []
    copied = {one.path.removesuffix("[]") for one in task.output.copied}
    return [path or "the output" for path in open_parts(task.output.schema) if path not in copied]


def _tell_copied(context: RunContext) -> None:
    """Say which parts of JSON are copied from the text, how they are written, and how many values cannot be answered."""
    task = context.task
    rows, copied = (*task.train, *task.dev), {one.path: one.spelling for one in task.output.copied}
    standing = values_in_texts(task.output.reading, [row.output for row in rows], [row.text for row in rows], copied)
    # The output may itself be a list.
    names = shown_names([path.removesuffix("[]") for path in standing if path != "[]"]) or "the list"
    spellings: dict[Spelling, list[str]] = {}
    for path, spelling in copied.items():
        if spelling != "same":
            spellings.setdefault(spelling, []).append(path.removesuffix("[]") or "the list")
    how = "".join(f"; {shown_names(paths)} {SPELLINGS[spelling]}" for spelling, paths in spellings.items())
    values = sum(one.values for one in standing.values())
    lost = values - sum(one.found for one in standing.values())
    example = shortened(next((one.missing for one in standing.values() if one.missing), ""), 40)
    cased = sum(one.cased for one in standing.values())
    case = f", {cased:,} of these only by their letter case" if cased else ""
    but = f"; {lost:,} of {values:,} do not stand there as they are written (such as {example!r}){case}" if lost else ""
    context.journal.tell(f"the values of {names} are copied from the text, word by word{how}{but}")
    for path, grouping in {one.within[0]: one.grouping for one in task.output.copied if one.grouping is not None}.items():
        context.journal.tell(f"the objects of {repr(path) if path else 'the list'} {grouping.text}")


def check_probes(config: RunConfig, task: Task, backend: Backend) -> None:
    """Check before any computation that the probes that a config asks for are possible.

    Raises:
        InputError: ``tune.readout`` is ``probe`` and probes are impossible, or the rows of a warm start have a single label.
    """
    rows = (*task.train, *task.dev)
    reads = config.tune.readout != "words" and not task.output.kind.written and backend.capabilities.hidden_states
    if reads and len(names := {row.output for row in rows}) == 1:
        raise InputError(
            f"all labelled rows have the label {names.pop()!r}, and a probe needs two",
            where="data.train",
            hint="Learn from the old rows too with --replay, or read label words with tune.readout=words.",
        )
    if config.tune.readout != "probe":
        return
    if task.output.kind.written and task.output.fields is None:
        found = _obstacles(task)
        raise _no_probes(task.output.kind.why_no_fields + (f" ({found})" if found else ""))
    if not backend.capabilities.hidden_states:
        raise _no_probes(f"the model answers {backend.place}")


def _no_probes(why: str) -> InputError:
    return InputError(
        f"answers cannot be read off hidden states here: {why}",
        where="tune.readout",
        hint="Leave tune.readout out, so that the run chooses a possible one.",
    )
