"""Prices of rows in the budget's unit, by measured tokens as soon as there are any."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.cycle.answering.base import Answering, LabelAnswering
from cotune.cycle.budget.rates import CostModel
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example


class RowCosts:
    """Prices rows of a prompt.

    The tokens that a row reads can be counted beforehand on a few rows. The length of answers is known only after some are
    written: an untuned model may write up to the limit under one prompt and stop at once under another, while a tuned model has
    learnt the length.

    Args:
        sample: rows whose tokens are counted before a prompt's rows have been run.
        writes: whether answers are written at all.
    """

    def __init__(self, answering: Answering, costs: CostModel, sample: Sequence[Example], *, writes: bool) -> None:
        self._answering, self._costs, self._sample, self._writes = answering, costs, sample, writes
        self._counted: dict[str, tuple[float, int]] = {}
        self._asked: dict[str, tuple[float, int]] = {}
        self._again: dict[tuple[str, bool], float] = {}
        self._read: dict[str, tuple[int, float]] = {}
        self._base: dict[str, float] = {}
        self._tuned: float | None = None

    def saw_reading(self, prompt: Prompt, rows: int, tokens: int, saved: int) -> None:
        """Record that rows of a prompt were scored, with one pass for their shared prefix. The largest request counts."""
        if rows >= self._read.get(prompt.id, (2, 0.0))[0]:
            self._read[prompt.id] = (rows, (tokens - saved / (rows - 1)) / rows)

    def saw_writing(self, prompt: Prompt, adapter: str, rows: int, tokens: int) -> None:
        """Record that answers of ``tokens`` tokens in all were written to ``rows`` rows."""
        if adapter == BASE:
            self._base[prompt.id] = tokens / rows
        else:
            self._tuned = tokens / rows

    def knows_answers(self, prompt: Prompt) -> bool:
        """Whether the untuned model has answered this prompt."""
        return prompt.id in self._base

    def scored(self, prompt: Prompt) -> float:
        """Cost of scoring a row."""
        return self._costs.scoring(self._read[prompt.id][1] if prompt.id in self._read else self.counted(prompt)[0])

    def counted(self, prompt: Prompt) -> tuple[float, int]:
        """Mean number of own tokens of a scored row of the sample, and number of tokens of the prefix."""
        if prompt.id not in self._counted:
            self._counted[prompt.id] = self._answering.tokens_a_row(prompt, self._sample)
        return self._counted[prompt.id]

    def without_words(self, prompt: Prompt) -> tuple[float, int]:
        """The same without the label words, which is what embedding a row reads."""
        if prompt.id not in self._asked:
            assert isinstance(self._answering, LabelAnswering)
            self._asked[prompt.id] = self._answering.own_tokens(prompt, self._sample)
        return self._asked[prompt.id]

    def written(self, prompt: Prompt, *, tuned: bool, apart: bool = False, new: bool = False) -> float:
        """Cost of writing a row's answer in addition to scoring it; 0 if nothing is written.

        Args:
            tuned: whether the weights are tuned.
            apart: whether the answer is written some time after scoring, so that the row is read again.
            new: whether ``prompt`` stands for an unknown prompt of its length.
        """
        if not self._writes:
            return 0.0
        if (key := (prompt.id, apart)) not in self._again:
            self._again[key] = self._answering.tokens_read_again(prompt, self._sample, apart=apart)
        return self._costs.writing(self._again[key], self.answer_tokens(prompt, tuned=tuned, new=new))

    def answer_tokens(self, prompt: Prompt, *, tuned: bool, new: bool = False) -> float:
        """Expected tokens of a written answer, by those that were written.

        For an untuned model under a new prompt, it is the maximum over the prompts so far. For a tuned model it is at least the
        mean length of right answers, which more steps lead to.
        """
        usual = self._answering.answer_tokens(tuned=tuned)
        if tuned:
            return usual if self._tuned is None else max(usual, self._tuned)
        if prompt.id in self._base and not new:
            return self._base[prompt.id]
        return max(self._base.values(), default=usual)
