"""Answers that a model behind an endpoint writes: judged by what they are worth, since it tells no likelihoods."""

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
    """Asks a model behind an endpoint to write an answer to each row; races go by the metric too, so each row is answered.

    Args:
        task: what is asked.
        model: who answers.
        judge: who grades the answers; None where the metric asks nobody.
    """

    loss_bound = 1.0
    rules = False
    noise_tokens = "tokens_written"

    def __init__(self, task: Task, model: AskedModel, judge: Judge | None = None) -> None:
        self.task, self.model, self.judge = task, model, judge
        self.limit = model.answer_tokens

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """The answers, and their grades."""
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
