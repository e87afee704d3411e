"""Prediction with a prompt, an adapter and a decision rule."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, overload

import numpy as np
from numpy.typing import NDArray

from cotune.bundle.calibration import Calibration
from cotune.bundle.rows import checked_row, example_row
from cotune.errors import InputError
from cotune.evaluate.decision import Decision
from cotune.evaluate.stats.conformal import label_sets
from cotune.model.base import GREEDY, Sampling
from cotune.prompt.prompt import Prompt
from cotune.task.reading.cells import column_of
from cotune.task.reading.frames import is_frame, read_frame
from cotune.task.values.label_type import LabelType
from cotune.task.values.output import Output, label_output
from cotune.task.values.tags import chained
from cotune.task.words import text_of

if TYPE_CHECKING:
    from cotune.endpoint import EndpointError
    from cotune.model.base import Scorer, Writer
    from cotune.model.local import LocalModel
    from cotune.model.remote.model import RemoteModel
    from cotune.model.structured.limits import Writing
    from cotune.prompt.render import RenderedRow
    from cotune.task.values.output_fields import AnswerFields

Row = str | Mapping[str, Any]
_log = logging.getLogger(__name__)

# Number of rows whose rendered ids and scores are in memory at once.
_AT_ONCE = 2048


class Frame(Protocol):
    """A pandas, polars or pyarrow frame, none of which is imported here."""

    @property
    def columns(self) -> Any:
        """Its columns or their names."""
        ...


@dataclass(frozen=True)
class Prediction:
    """One row's answer.

    Attributes:
        answer: the label, or the generated answer as text. :meth:`Predictor.predict` gives labels in the type that they had in
            the data, :meth:`Predictor.answers` their texts. None if the model is undecided, which only happens with ``unsure``.
        probabilities: probability of every label after the decision rule; of every value of every field, by ``field=value``; of
            a part that is copied from the text that its answer is right, by its name. Empty if not requested, and for generated
            answers.
        truncated: whether the row's text was too long and lost a part.
        ended: whether a generated answer ended by itself; False if it was cut or, for numbers and JSON, closed at the maximum
            length.
        possible: if the answer is None, the possible labels, the likeliest first.
        confidence: probability that a whole JSON answer is right, if probabilities are requested; None for others and for
            generated ones.
    """

    answer: Any
    probabilities: dict[Any, float]
    truncated: bool
    ended: bool = True
    possible: tuple[Any, ...] = ()
    confidence: float | None = None


class Predictor:
    """A loaded bundle, see :func:`cotune.bundle.load`. Not thread-safe.

    Args:
        labels: all labels, in the decision's order; of fields the names of all values; empty for generated answers.
        input_fields: input fields of a row.
        adapter_id: id of the adapter in the model.
        bundle_id: content hash of the bundle.
        task: name of the task.
        writing: settings of generated answers; None for labels.
        label_type: type of the labels in the data.
        output: the output of answers that are read off several fields; None for labels and generated answers.
        calibration: scores of held-out rows, for abstention; None if the bundle has none.

    Attributes:
        probe: the probe that answers; None for label words and generated answers.
        fields: the fields that it answers; None for labels and generated answers.
    """

    def __init__(
        self,
        model: Scorer,
        prompt: Prompt,
        labels: Sequence[str],
        input_fields: Sequence[str],
        *,
        decision: Decision,
        adapter_id: str = "base",
        bundle_id: str = "",
        task: str = "",
        writing: Writing | None = None,
        label_type: LabelType = "text",
        output: Output | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.scorer, self.prompt, self.decision = model, prompt, decision
        self.labels, self.input_fields = tuple(labels), tuple(input_fields)
        self.adapter_id, self.bundle_id, self.task = adapter_id, bundle_id, task
        self.writing, self.label_type, self.calibration = writing, label_type, calibration
        self._output, self.fields = output, None if output is None else output.fields
        self.probe = self.model.adapters.probe(adapter_id) if decision.kind == "probe" else None
        if self.fields is not None and self.probe is not None:
            self.fields = chained(self.fields, self.probe.chain)

    def __repr__(self) -> str:
        asked = f"{', '.join(self.input_fields)} -> {self.output.summary}"
        return f"Predictor({self.task!r}, {asked}, {self.scorer.name}, adapter={self.adapter_id})"

    @property
    def output(self) -> Output:
        """The type of the answers."""
        if self.writing is not None:
            return self.writing.output
        return self._output or label_output(self.labels, self.label_type)

    @property
    def chooses_label(self) -> bool:
        """Whether an answer is a label, not a generated one or the values of several fields."""
        return self.writing is None and self.fields is None

    @property
    def has_confidence(self) -> bool:
        """Whether answers have a probability of being right: labels, and JSON that is not generated."""
        return self.writing is None and (self.fields is None or self.output.kind.nested_cells)

    @property
    def reads_words(self) -> bool:
        """Whether values are copied from a row's text by a tag on each of its words."""
        return self.fields is not None and self.fields.words

    @property
    def model(self) -> LocalModel:
        """The local model.

        Raises:
            InputError: the model is behind an endpoint.
        """
        if self.scorer.capabilities.endpoint:
            raise InputError(
                f"the bundle's model {self.scorer.name} is behind an endpoint, so there are no weights here",
                where=self.task,
                hint="Use cotune predict.",
            )
        return cast("LocalModel", self.scorer)

    @overload
    def predict(
        self, rows: Row | Sequence[Row] | Frame, *, probabilities: Literal[False] = False, unsure: float | None = None
    ) -> list[Any]: ...

    @overload
    def predict(
        self, rows: Row | Sequence[Row] | Frame, *, probabilities: Literal[True], unsure: float | None = None
    ) -> list[Prediction]: ...

    def predict(
        self, rows: Row | Sequence[Row] | Frame, *, probabilities: bool = False, unsure: float | None = None
    ) -> list[Any] | list[Prediction]:
        """Answer rows; returns labels in the type that they had in the data (texts, int, float or bool), in order.

        Args:
            rows: texts if the task has one input field; mappings with the input fields (other keys are ignored); a single text
                or mapping; or a pandas, polars or pyarrow frame with a column for each input field.
            probabilities: return :class:`Prediction` objects instead of labels. Slower for labels of several tokens, since
                every label is then scored to its end.
            unsure: share of rows that may be answered wrongly. Undecided rows get the answer None, and
                :attr:`Prediction.possible` has the possible labels; see :mod:`cotune.bundle.calibration` for the guarantee.
                None answers every row.

        Raises:
            InputError: the bundle does not support ``unsure``; there are no rows, or one lacks a field, has a non-text value or
                is empty; the message names the row, from 1.
            DivergedError: a score is not a number.
        """
        listed: Sequence[Row]
        if isinstance(rows, (str, Mapping)):
            listed = [rows]
        else:
            # Iterating over a frame would give the names of its columns.
            listed = _rows_of(rows, self.input_fields) if is_frame(rows) else list(cast("Sequence[Row]", rows))
        if not listed:
            raise InputError("there are no rows", where="predict", hint=f"Give rows like {example_row(self.input_fields)}.")
        checked = [checked_row(row, self.input_fields, f"row {number}") for number, row in enumerate(listed, 1)]
        found = list(self.answers(checked, probabilities=probabilities, unsure=unsure))
        if cut := sum(answer.truncated for answer in found):
            _log.warning("%d of %d rows were too long and lost a part of their text", cut, len(found))
        if self.label_type != "text":
            own: dict[Any, Any] = {None: None} | {label: self.output.own(label) for label in self.labels}
            found = [
                replace(
                    one,
                    answer=own[one.answer],
                    probabilities={own[label]: share for label, share in one.probabilities.items()},
                    possible=tuple(own[label] for label in one.possible),
                )
                for one in found
            ]
        return found if probabilities else [answer.answer for answer in found]

    def answers(
        self,
        rows: Sequence[Mapping[str, str]],
        *,
        probabilities: bool = False,
        sampling: Sampling = GREEDY,
        unsure: float | None = None,
    ) -> Iterator[Prediction]:
        """Answer rows from :func:`cotune.bundle.rows.checked_row`, one by one; ``sampling`` applies to generated answers."""
        highest = None if unsure is None else self.doubt(unsure)
        for start in range(0, len(rows), _AT_ONCE):
            part, short = self._shown(rows[start : start + _AT_ONCE])
            if self.writing is None:
                yield from self._chosen(part, short, highest, probabilities=probabilities)
                continue
            writer = cast("Writer", self.scorer)
            found = self.writing.write(writer, self.prompt, part, adapter=self.adapter_id, sampling=sampling)
            cut = self._cut(part, short) if found.truncated else short
            for text, truncated, ended in zip(found.texts, cut, found.ended, strict=True):
                yield Prediction(self.writing.output.canonical(text), {}, truncated, ended)

    def _chosen(
        self, rows: Sequence[Mapping[str, str]], short: Sequence[bool], highest: float | None, *, probabilities: bool
    ) -> Iterator[Prediction]:
        top = 1 if self.decision.kind == "raw" and not probabilities and highest is None else None
        scores = self.scorer.score(self.prompt, rows, self.labels, adapter=self.adapter_id, top=top)
        cut = self._cut(rows, short) if scores.truncated else short
        if self.fields is not None:
            yield from self._read_off(self.fields, scores.log_probs, rows, cut, probabilities=probabilities)
            return
        answers = [self.labels[int(place)] for place in self.decision.predict(scores.log_probs)]
        log_probs = self.decision.log_probs(scores.log_probs) if probabilities or highest is not None else None
        shares = np.exp(log_probs) if log_probs is not None and probabilities else None
        open_ = self._open(log_probs, highest)
        for i, answer in enumerate(answers):
            by_label = {} if shares is None else dict(zip(self.labels, map(float, shares[i]), strict=True))
            possible = open_.get(i, ())
            yield Prediction(None if possible else answer, by_label, cut[i], possible=possible)

    def _read_off(
        self,
        fields: AnswerFields,
        log_probs: NDArray[np.float64],
        rows: Sequence[Mapping[str, str]],
        cut: Sequence[bool],
        *,
        probabilities: bool,
    ) -> Iterator[Prediction]:
        """Answers of several fields."""
        texts = [text_of(row) for row in rows]
        if not probabilities:
            yield from (Prediction(answer, {}, was) for answer, was in zip(fields.answers(log_probs, texts), cut, strict=True))
            return
        found = fields.judged(log_probs, texts)
        confidence = [None] * len(rows) if found.confidence is None else found.confidence.tolist()
        for answer, shares, sure, was in zip(found.outputs, found.shares, confidence, cut, strict=True):
            yield Prediction(answer, dict(zip(fields.shown, shares.tolist(), strict=True)), was, confidence=sure)

    def rendered(self, rows: Sequence[Mapping[str, str]]) -> Sequence[RenderedRow]:
        """Token ids of rows, as the local model reads them."""
        renderer = self.model.renderer
        if self.writing is not None:
            return renderer.render_answers(self.prompt, rows, None)
        if self.reads_words:
            return renderer.render_twice(self.prompt, rows, self.labels)
        return renderer.render(self.prompt, rows, self.labels)

    def _cut(self, rows: Sequence[Mapping[str, str]], short: Sequence[bool]) -> list[bool]:
        """Which rows were cut, when they were shortened or when they were rendered."""
        return [was or row.truncated for was, row in zip(short, self.rendered(rows), strict=True)]

    def each(
        self, rows: Sequence[Mapping[str, str]], *, probabilities: bool = False, unsure: float | None = None
    ) -> list[Prediction | EndpointError]:
        """Answer rows as :meth:`answers` does; where a model behind an endpoint gave no answer, the error is in its place.

        So no answer that was paid is lost. A refusal (``is_refusal``) concerns its row alone; any other error is the one after
        which no further row was asked.
        """
        if not self.scorer.capabilities.endpoint:
            return [*self.answers(rows, probabilities=probabilities, unsure=unsure)]
        errors = cast("RemoteModel", self.scorer).fetch(self.prompt, rows, self.labels)
        taken = [row for row, error in zip(rows, errors, strict=True) if error is None]
        found = self.answers(taken, probabilities=probabilities, unsure=unsure)
        return [next(found) if error is None else error for error in errors]

    def doubt(self, share: float) -> float:
        """The threshold for an error rate.

        Raises:
            InputError: the bundle's answers cannot be undecided, or it has no scores of held-out rows, or too few.
        """
        where = self.task or "the bundle"
        if not self.chooses_label:
            sorts = ", and sort by the confidence that --probabilities adds" if self.has_confidence else ""
            raise InputError(
                "the bundle does not answer with labels, and only for labels can a share of wrong answers be promised",
                where=where,
                hint=f"Remove --unsure{sorts}.",
            )
        if self.calibration is None:
            raise InputError(
                "the bundle has no scores of held-out rows, which --unsure needs",
                where=where,
                hint="Its run has not ended, or its model gives no probabilities. Finish the run, or remove --unsure.",
            )
        return self.calibration.highest(share, where)

    def _open(self, log_probs: NDArray[np.float64] | None, highest: float | None) -> dict[int, tuple[str, ...]]:
        """Undecided rows, with their possible labels, the likeliest first."""
        if log_probs is None or highest is None:
            return {}
        sets = label_sets(log_probs, highest)
        return {
            int(row): tuple(self.labels[i] for i in np.argsort(-log_probs[row], kind="stable") if sets[row, i])
            for row in np.flatnonzero(sets.sum(axis=1) > 1)
        }

    def shortened(self, row: Mapping[str, str]) -> dict[str, str] | None:
        """A shortened copy of a row with a very long text that gets the same answer; None for any other row.

        TF-IDF and tags of words read more of a text than the prompt shows, so a bundle with them shortens none. Unlike all
        other methods, this one may be called while another thread uses the predictor.
        """
        reads_more = self.reads_words or (self.probe is not None and self.probe.terms is not None)
        if self.scorer.capabilities.endpoint or reads_more:
            return None
        return self.model.renderer.shortened(self.prompt, row, self.labels)

    def states(self, rows: Sequence[Mapping[str, str]]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Hidden states and label log-probabilities of rows from :func:`cotune.bundle.rows.checked_row`.

        Returns:
            Hidden states, divided by their root mean square: the ``[rows, 2 x width]`` that the probe reads, or without a
                probe the ``[rows, width]`` at the last prompt token after the last layer. Of a probe that reads words, the
                ``[rows, width]`` mean over the row's text.
            ``[rows, labels]`` log-probabilities after the decision rule; of fields those of all values, at each state that
                :meth:`AnswerFields.judged` reads.

        Raises:
            InputError: the model is behind an endpoint, or answers are generated.
            DivergedError: a score is not a number.
        """
        if self.writing is not None:
            raise InputError("the bundle generates its answers and has no labels", where=self.task)
        model, probe = self.model, self.probe
        shown, _ = self._shown(rows)
        rendered = self.rendered(shown)
        layer = model.depth if probe is None else probe.layer
        reads = None if probe is None else [row.read for row in rendered]
        ids, bare = [row.prompt_ids for row in rendered], model.adapters.without_probe(self.adapter_id)
        states = model.layer_states(ids, [layer], reads=reads, adapter=bare)[0]
        if probe is not None:
            found = probe.with_terms(probe.log_probs(states, self.labels), shown, self.labels)
            # The last of a row's words is its whole text.
            whole = np.cumsum([len(row.words) for row in rendered]) - 1 if probe.words else slice(None)
            return states[whole], found if self.fields is not None else self.decision.log_probs(found)
        scores = model.score(self.prompt, shown, self.labels, adapter=self.adapter_id)
        return states, self.decision.log_probs(scores.log_probs)

    def _shown(self, rows: Sequence[Mapping[str, str]]) -> tuple[list[Mapping[str, str]], list[bool]]:
        """Rows with very long texts shortened, and which rows were shortened."""
        short = [self.shortened(row) for row in rows]
        return [row if less is None else less for row, less in zip(rows, short, strict=True)], [
            each is not None for each in short
        ]


def _rows_of(frame: Any, input_fields: Sequence[str]) -> list[dict[str, str | None]]:
    """The rows of a frame, as training reads them.

    Raises:
        InputError: it has no rows, or an input cell cannot be shown as text.
    """
    table = read_frame(frame)
    for name in input_fields:
        if (column := column_of(name, table.columns)) is not None:
            table.need_input(column)
    return [{name: table.shown(index, name) for name in table.columns} for index in range(len(table))]


def ending_error(part: Sequence[Prediction | EndpointError], *, first: bool) -> EndpointError | None:
    """The error after which no further row should be asked; None if there is none.

    Args:
        part: answers to some rows, from :meth:`Predictor.each`.
        first: whether no row was answered before. Then a refusal of every row, of several, is not about the rows.
    """
    errors = [one for one in part if not isinstance(one, Prediction)]
    if first and len(errors) == len(part) > 1:
        return errors[0]
    return next((error for error in errors if not error.is_refusal), None)
