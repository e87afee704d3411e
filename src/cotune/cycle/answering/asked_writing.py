"""Answers that a model behind an endpoint writes; they are judged by the metric, because endpoints return no likelihoods."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.cycle.answering.base import AskedAnswering, Reply
from cotune.cycle.answering.judging import graded
from cotune.evaluate.judge import Judge
from cotune.evaluate.responses import TextOutputs
from cotune.model.base import AskedModel, Progress
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example
from cotune.task.task import Task


class AskedWriting(AskedAnswering):
    """Asks a model behind an endpoint to write an answer to each row, also in races, which use the metric too.

    Args:
        judge: grades the answers; None if the metric needs no judge.
    """

    loss_bound = 1.0
    rules = False
    noise_tokens = "tokens_written"

    def __init__(self, task: Task, model: AskedModel, judge: Judge | None = None) -> None:
        self.task, self.model, self.judge = task, model, judge
        self.limit = model.answer_tokens

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """The answers with their grades."""
        found = self.model.generate(prompt, [row.fields for row in rows], adapter=adapter, limit=self.limit, progress=progress)
        reply = Reply(
            TextOutputs(found.texts),
            found.tokens,
            0,
            0,
            bool(found.cached),
            round(found.cost, 9),
            sum(not self.task.output.fits(text) for text in found.texts),
        )
        return graded(self.judge, reply, rows, progress)
