"""Written answers: texts, numbers and JSON, judged also by the likelihood of the right answers if the model gives it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cotune.cycle.answering.base import ODD_ROWS, Answering, AskedAnswering, Reply
from cotune.cycle.answering.judging import graded
from cotune.errors import InputError
from cotune.evaluate.answer_noise import AnswerNoise, compare_answers
from cotune.evaluate.decision import Decision
from cotune.evaluate.judge import Judge
from cotune.evaluate.responses import AnswerOutputs, ModelOutputs
from cotune.model.adapters.slots import BASE
from cotune.model.base import AskedModel, Progress
from cotune.model.local import LocalModel
from cotune.model.structured.limits import Writing, most_tokens
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow, shared_prefix
from cotune.task.example import Example
from cotune.task.task import Task
from cotune.task.values.output import Output
from cotune.tune.batches import TrainingRow, training_rows

_LEAST_PROMPT = 64
LOSS_BOUND = 6.0
"""Cap on the loss in races, in nats per token. An untuned model has about 3 for a short answer."""


class WrittenAnswering(Answering):
    """Computes the right answers' likelihood, and writes answers if they are needed.

    Args:
        limit: maximum tokens of an answer; None takes a quarter more than the longest right answer of train and dev.
        judge: grades the answers; None if the metric needs no judge.
        output: output that answers must fit; None takes the task's. An earlier bundle may have another one.

    Attributes:
        model: the model with shorter prompts, so that an answer fits into its positions.

    Raises:
        InputError: the task's schema cannot be enforced while writing, or answers leave no room for a prompt.
    """

    model: LocalModel
    rules = False
    loss_bound = LOSS_BOUND
    noise_tokens = "tokens_written"

    def __init__(
        self, task: Task, model: LocalModel, limit: int | None = None, judge: Judge | None = None, output: Output | None = None
    ) -> None:
        self.task, self.judge = task, judge
        lengths = _lengths(model, list({row.output for row in (*task.train, *task.dev)}))
        self.limit = limit or most_tokens(max(lengths))
        # Right answers are read whole; in a text without a chat template they begin with a space.
        longest = max(max(lengths), task.test.longest_output(lambda texts: _lengths(model, texts))) + 1
        self.model = _with_room(model, max(self.limit, longest))
        self.writing = Writing.of(output or task.output, self.limit)
        self._usual = sum(lengths) / len(lengths)

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """Loss per token of the right answers."""
        found = self.model.answer_losses(
            prompt, [row.fields for row in rows], [row.output for row in rows], adapter=adapter, progress=progress
        )
        given = AnswerOutputs(found.losses / found.lengths)
        return Reply(given, found.tokens, found.tokens_saved, found.truncated, bool(found.cached))

    def write(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], given: ModelOutputs, progress: Progress
    ) -> Reply | None:
        """Greedy answers, constrained to the output's type, with their grades."""
        assert isinstance(given, AnswerOutputs)
        found = self.writing.write(self.model, prompt, [row.fields for row in rows], adapter=adapter, progress=progress)
        both = AnswerOutputs(given.losses, found.texts)
        reply = Reply(both, found.tokens, found.tokens_saved, found.truncated, bool(found.cached), written=found.written)
        return graded(self.judge, reply, rows, progress)

    def both(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress
    ) -> tuple[Reply, Reply, float] | None:
        """Loss per token of the right answers, and greedy answers; tokens of prompts and right answers count as scored."""
        if not self.model.shared:
            return None
        found = self.model.generate(
            prompt,
            [row.fields for row in rows],
            adapter=adapter,
            limit=self.limit,
            grammar=self.writing.grammar,
            references=[row.output for row in rows],
            progress=progress,
        )
        assert found.reference_losses is not None
        losses = found.reference_losses.losses / found.reference_losses.lengths
        read = found.tokens - found.written
        cached = bool(found.cached)
        scored = Reply(AnswerOutputs(losses), read, found.tokens_saved, found.truncated, cached)
        both = AnswerOutputs(losses, found.texts)
        written = Reply(both, found.written, 0, found.truncated, cached, written=found.written)
        return scored, graded(self.judge, written, rows, progress), found.entering_s

    def warm_up(self, prompt: Prompt, rows: Sequence[Example]) -> None:
        """Write answers that are discarded, so that the grammar is compiled before a rate is measured."""
        self.writing.write(self.model, prompt, [row.fields for row in rows], adapter=BASE)

    def render(self, prompt: Prompt, rows: Sequence[Example]) -> list[RenderedRow]:
        """Token ids of each row up to its answer."""
        return self.model.renderer.render_answers(prompt, [row.fields for row in rows], None)

    def training_rows(self, prompt: Prompt, rows: Sequence[Example]) -> list[TrainingRow]:
        """Token ids of each row with its right answer."""
        fields, answers = [row.fields for row in rows], [row.output for row in rows]
        return training_rows(self.model.renderer.render_answers(prompt, fields, answers), [0] * len(rows))

    def tokens_a_row(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """As :meth:`tokens_with_answer`."""
        return self.tokens_with_answer(prompt, rows)

    def tokens_read_again(self, prompt: Prompt, rows: Sequence[Example], *, apart: bool) -> float:
        """Mean number of tokens of a row's text if it must be read again, otherwise 0."""
        if self.model.shared and not apart:
            return 0.0
        asked = self.render(prompt, rows)
        prefix = shared_prefix([row.prompt_ids for row in asked])
        return sum(len(row.prompt_ids) for row in asked) / len(asked) - prefix

    def answer_tokens(self, *, tuned: bool) -> float:
        """Mean length of a right answer; for untuned models, which do not know where to stop, halfway to the limit."""
        return self._usual if tuned else (self._usual + self.limit) / 2

    def odd_rows(self, count: int) -> int:
        """A quarter of the rows, because a written token costs a pass over all weights for three rows as for twelve."""
        return max(ODD_ROWS, count // 4)

    def noise(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], decision: Decision, *, odd: int, progress: Progress
    ) -> tuple[AnswerNoise, int] | None:
        """Compare answers to all rows at once with answers to a few at a time.

        None with a judge, who would have to grade everything twice, or if the metric needs no answers.
        """
        if self.judge is not None or not self.task.measure.needs_answers:
            return None
        parts = [rows, *(rows[start : start + odd] for start in range(0, len(rows), odd))]
        whole, *pieces = (
            self.writing.write(self.model, prompt, [row.fields for row in part], adapter=adapter, progress=progress)
            for part in parts
        )
        answers = whole.texts, tuple(text for piece in pieces for text in piece.texts)
        first, second = (AnswerOutputs(np.zeros(len(rows)), texts).judge(rows, decision, self.task) for texts in answers)
        return compare_answers(first, second), sum(found.tokens for found in (whole, *pieces))


class AskedWriting(AskedAnswering):
    """Asks a model behind an endpoint to write an answer to each row, also in races, which use the metric too."""

    loss_bound = 1.0
    rules = False

    def __init__(self, task: Task, model: AskedModel, judge: Judge | None = None) -> None:
        self.task, self.model, self.judge = task, model, judge
        self.limit = model.answer_tokens

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """The answers with their grades."""
        found = self.model.generate(prompt, [row.fields for row in rows], adapter=adapter, limit=self.limit, progress=progress)
        reply = Reply(
            AnswerOutputs(None, found.texts),
            found.tokens,
            0,
            0,
            bool(found.cached),
            round(found.cost, 9),
            sum(not self.task.output.fits(text) for text in found.texts),
        )
        return graded(self.judge, reply, rows, progress)


def _with_room(model: LocalModel, longest: int) -> LocalModel:
    """The model with prompts limited so that an answer of ``longest`` tokens fits into its positions."""
    most = model.longest_sequence
    if most is None or model.renderer.max_tokens + longest <= most:
        return model
    if most - longest < _LEAST_PROMPT:
        raise InputError(
            f"answers of up to {longest} tokens leave no room for a prompt among the model's {most}",
            where="output.max_tokens",
            hint="Lower it, shorten the outputs, or take a model with a longer context.",
        )
    return model.with_max_tokens(most - longest)


def _lengths(model: LocalModel, texts: Sequence[str]) -> list[int]:
    """Numbers of tokens of answers, including their stop tokens."""
    plain = [model.renderer.harmless(text) for text in texts]
    return [len(ids) + 1 for ids in model.tokenizer(plain, add_special_tokens=False)["input_ids"]] if plain else []
