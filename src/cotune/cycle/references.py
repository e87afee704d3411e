"""References for the arms: baselines without a language model, and zero-shot label words of the seed prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.answering.base import LabelAnswering
from cotune.cycle.budget.reserve import shortage
from cotune.cycle.context import RunContext
from cotune.cycle.search.arms import ArmResult
from cotune.errors import DivergedError, InputError
from cotune.evaluate.arms import ArmScores
from cotune.evaluate.decision import RAW
from cotune.evaluate.previous import compare_parts
from cotune.evaluate.references import majority_log_probs, tfidf_log_probs
from cotune.evaluate.responses import LabelOutputs
from cotune.evaluate.scoring import Evaluation, finite, score_interval
from cotune.evaluate.side_by_side import gain_between
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE
from cotune.probe.fields import log_softmax_by_field, row_correct
from cotune.probe.term_fits import TermFits
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example, groups_of
from cotune.task.metrics.metric import Metric
from cotune.task.split import fold_units

MAJORITY, CONSTANT, TFIDF, ZERO_SHOT = "majority", "constant", "tfidf", "zero_shot"

_MOST_ROWS = 4000
"""Maximum number of rows that TF-IDF is cross-fitted on for the first verdict; its regression has as many dimensions."""
_MOST_FURTHER = 1000
"""The same if a run has no time for all its rows."""
_MOST_LEARNT, _MOST_CHARACTERS, _MOST_CELLS = 20_000, 4_000_000, 150_000
"""Maximum of rows, of their characters, and of rows times labels that TF-IDF is fitted to if the arms use a sample of the rows:
a few seconds of one processor.
"""
ZERO_SHOT_ROWS = 300
"""Maximum number of test rows for the zero-shot reference. It runs all layers and labels, and on a long test would cost as much
as an epoch of tuning; 300 rows give a share to 6 points.
"""


def reference_ids(context: RunContext, seed: Prompt) -> dict[str, str]:
    """Content hashes of the references, by name, which the opening of the test freezes."""
    if not isinstance(context.answering, LabelAnswering):
        return {}
    given = [] if context.given is context.task else [context.given.fingerprint]
    parts = [context.task.fingerprint, seed.id, context.seed, *given]
    names: tuple[str, ...] = (MAJORITY, TFIDF, ZERO_SHOT)
    if context.choosing.sizes:
        names = (CONSTANT,) if context.choosing.reads_words else (CONSTANT, TFIDF)
    return {f"reference_{name}": content_hash([name, *parts]) for name in names}


def reference_rows(context: RunContext) -> tuple[Example, ...]:
    """Labelled rows that references learn from, in random order: all that the user gave, even if the arms use fewer.

    References cost seconds and arms minutes; fitting references to the arms' sample would favour the language model unfairly.
    """
    task, given = context.task, context.given
    if (len(task.train), len(task.dev)) == (len(given.train), len(given.dev)):
        return (*task.train, *task.dev)
    rows = (*given.train, *given.dev)
    most = min(_MOST_LEARNT, _MOST_CELLS // len(context.choosing.labels))
    mixed = [rows[i] for i in np.random.default_rng([context.seed, 17]).permutation(len(rows))[:most]]
    fits = np.cumsum([len(row.text) for row in mixed]) <= _MOST_CHARACTERS
    used = (*task.train, *task.dev)
    return tuple(mixed[: int(fits.sum())]) if int(fits.sum()) > len(used) else used


def zero_shot_cost(context: RunContext, seed: Prompt) -> float:
    """Cost of asking the untuned model for label words on the test, in the budget's unit; 0 for fields, which have none."""
    if context.choosing.sizes:
        return 0.0
    return min(context.task.test.n, ZERO_SHOT_ROWS) * context.spending.rows.scored(seed)


def measure_references(context: RunContext, seed: Prompt, shipped: ArmResult, room: float) -> dict[str, Any]:
    """Score the references on the rows of the shipped arm, and compare them with it; each is recorded as a ``reference`` step.

    The zero-shot reference, by the seed prompt's label words, is left out if ``room``, the budget that may be spent, is too
    small.

    Returns:
        ``score``, ``ci``, ``n``, ``log_loss`` and ``difference`` by name; None if a reference could not be computed.
        ``difference`` is the arm's score minus the reference's by the task's metric, with paired ``ci`` and ``p``.
        ``learnt_from`` is the number of labelled rows that a reference was fitted to, if the arms used fewer.
    """
    task, choosing, rows, learn = context.task, context.choosing, shipped.rows, reference_rows(context)
    truth, classes, sizes = choosing.targets(learn), len(choosing.labels), choosing.sizes
    texts, asked = [row.text for row in learn], [row.text for row in rows]

    def recorded(
        name: str, answer: Callable[[], NDArray[np.float64]], places: NDArray[np.int64] | None = None
    ) -> dict[str, Any] | None:
        def effect() -> dict[str, Any]:
            try:
                found = answer()
                commonest = {"label": task.labels[int(found[0].argmax())]} if name == MAJORITY else {}
                sampled = len(learn) != len(task.train) + len(task.dev)
                learnt = {"learnt_from": len(learn)} if sampled and name != ZERO_SHOT else {}
                return {"name": name, **told(context, found, shipped, places), **commonest, **learnt}
            except ValueError as error:
                return {"name": name, "skipped": str(error)}

        value = context.journal.step("reference", [name, task.test.content_hash], effect)
        return None if "skipped" in value else {key: item for key, item in value.items() if key != "name"}

    same, owners = CONSTANT if sizes else MAJORITY, choosing.owners(rows)
    count = len(asked) if owners is None else len(owners)
    found = {same: recorded(same, lambda: majority_log_probs(truth, classes, count, sizes))}
    if not choosing.reads_words:
        found[TFIDF] = recorded(TFIDF, partial(_by_terms, texts, truth, classes, asked, sizes))
    if sizes:
        return found
    try:
        cost = zero_shot_cost(context, seed)
    except InputError as error:
        # Two labels may have the same tokens; then words cannot tell them apart, which probes do.
        why = {"name": ZERO_SHOT, "skipped": error.what}
        context.journal.step("reference", [ZERO_SHOT, task.test.content_hash], lambda: why)
        return {**found, ZERO_SHOT: None}
    if cost > room:
        skipped = {"name": ZERO_SHOT, "skipped": shortage(context.spending.budget, cost, room, room)}
        context.journal.step("reference", [ZERO_SHOT, task.test.content_hash], lambda: skipped)
        return {**found, ZERO_SHOT: None}
    some = np.sort(np.random.default_rng([context.seed, 14]).permutation(len(rows))[:ZERO_SHOT_ROWS])
    try:
        words = context.answers.scores(seed, BASE, [rows[i] for i in some], "test", arm=f"reference_{ZERO_SHOT}")
    except DivergedError:
        return {**found, ZERO_SHOT: None}
    assert isinstance(words, LabelOutputs)
    log_probs = (context.answers.bias(words) if context.answers.calibrates else RAW).log_probs(words.log_probs)
    return {**found, ZERO_SHOT: recorded(ZERO_SHOT, lambda: log_probs, some)}


def _by_terms(
    texts: Sequence[str], truth: NDArray[np.int64], classes: int, asked: Sequence[str], sizes: tuple[int, ...]
) -> NDArray[np.float64]:
    """``[asked, classes]`` log-probabilities by TF-IDF with logistic regression.

    Several fields share the products of rows, since a regression on all terms for each of them would take too long.
    """
    if not sizes:
        return tfidf_log_probs(texts, truth, classes, asked)
    fitted = TermFits(texts, truth, classes, sizes).fit(np.ones(len(texts), dtype=bool), ())
    return log_softmax_by_field(fitted.logits(asked), sizes)


def told(
    context: RunContext, log_probs: NDArray[np.float64], shipped: ArmResult, places: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """A reference's scores, and its paired difference from an arm, on the arm's rows or those at ``places``."""
    task, seed = context.task, context.seed
    chosen = np.arange(len(shipped.rows)) if places is None else places
    rows = tuple(shipped.rows[i] for i in chosen)
    groups, references = groups_of(rows), [row.output for row in rows]
    evaluation = context.choosing.outputs(log_probs, rows).judge(rows, RAW, task)
    interval = score_interval(evaluation, references, task.measure, task.output, seed=seed, groups=groups)
    return {
        "score": round(evaluation.score, 6),
        "ci": interval.rounded(),
        "n": evaluation.n,
        "log_loss": finite(evaluation.log_loss),
        **task.output.kind.errors(references, evaluation.answers),
        "difference": _difference(task.measure, shipped.evaluation, chosen, evaluation, groups, seed),
    }


def _difference(
    metric: Metric,
    shipped: Evaluation,
    chosen: NDArray[np.int64],
    reference: Evaluation,
    groups: NDArray[np.str_] | None,
    seed: int,
) -> dict[str, Any]:
    """The arm's score on the chosen rows less the reference's, by the task's metric."""
    if metric.name == "accuracy":
        right = shipped.correct[chosen]
        gain = compare_parts(right, reference.correct, np.ones(len(right)), groups=groups, seed=seed)["all"].gain
    else:
        counts = None if shipped.counts is None else shipped.counts[chosen]
        after = ArmScores(shipped.values[chosen], counts=counts, candidate="shipped")
        before = ArmScores(reference.values, counts=reference.counts, candidate="reference")
        gain = gain_between(before, after, metric.aggregate or "mean", groups=groups, seed=seed)
    return {"metric": metric.name, "value": round(gain.value, 6), "ci": gain.ci.as_list(), "p": gain.p}


def labelled_tfidf(context: RunContext, rows: Sequence[Example]) -> tuple[float, int] | None:
    """Cross-fitted score of TF-IDF with logistic regression, and its number of rows; None if there is none, as for tags.

    The score is that of :meth:`LabelAnswering.held_out_score`.

    ``rows`` are those that the run uses, in random order. If they are a sample, all labelled rows of the user are used; of very
    many rows the first ones suffice.
    """
    choosing = context.choosing
    if choosing.reads_words:
        return None
    further = tuple(row for row in reference_rows(context) if not row.taught)[:_MOST_FURTHER]
    rows = further if len(further) > len(rows) else rows[:_MOST_ROWS]
    truth, sizes = choosing.targets(rows), choosing.sizes
    fits = TermFits([row.text for row in rows], truth, len(choosing.labels), sizes)
    found = fits.cross_fitted(groups=fold_units(rows), seed=context.seed)
    return None if found is None else (choosing.held_out_score(found, rows, row_correct(found, truth, sizes)), len(rows))
