"""What a row costs, in the budget's own unit: by what rows like it took, as soon as any were run."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.cycle.answering.base import Answering, LabelAnswering
from cotune.cycle.budget.rates import CostModel
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example


class RowCosts:
    """Prices rows of a prompt.

    What a row reads can be counted beforehand on a few of them. What a model writes is known once it has written: an untuned
    one often goes on to the limit under one prompt and stops at once under another, a tuned one has learnt how long they are.

    Args:
        answering: how rows are answered.
        costs: what tokens cost.
        sample: rows whose tokens are counted where none of a prompt were run yet.
        writes: whether answers are written at all.
    """

    def __init__(self, answering: Answering, costs: CostModel, sample: Sequence[Example], *, writes: bool) -> None:
        self._answering, self._costs, self._sample, self._writes = answering, costs, sample, writes
        self._counted: dict[str, tuple[float, int]] = {}
        self._asked: dict[str, tuple[float, int]] = {}
        self._again: dict[str, float] = {}
        self._read: dict[str, tuple[int, float]] = {}
        self._base: dict[str, float] = {}
        self._tuned: float | None = None

    def saw_reading(self, prompt: Prompt, rows: int, tokens: int, saved: int) -> None:
        """So many rows of a prompt were scored, and their shared prefix was run once for all. The largest request counts."""
        if rows >= self._read.get(prompt.id, (2, 0.0))[0]:
            self._read[prompt.id] = (rows, (tokens - saved / (rows - 1)) / rows)

    def saw_writing(self, prompt: Prompt, adapter: str, rows: int, tokens: int) -> None:
        """So many answers were written, of so many tokens in all."""
        if adapter == BASE:
            self._base[prompt.id] = tokens / rows
        else:
            self._tuned = tokens / rows

    def knows_answers(self, prompt: Prompt) -> bool:
        """Whether the untuned model was seen to answer this prompt."""
        return prompt.id in self._base

    def scored(self, prompt: Prompt) -> float:
        """Cost of scoring a row."""
        if prompt.id in self._read:
            return self._costs.scoring(self._read[prompt.id][1])
        return self._costs.scoring(self.counted(prompt)[0])

    def counted(self, prompt: Prompt) -> tuple[float, int]:
        """Mean own tokens of a scored row of the sample, and the prefix's tokens."""
        if prompt.id not in self._counted:
            self._counted[prompt.id] = self._answering.tokens_a_row(prompt, self._sample)
        return self._counted[prompt.id]

    def without_words(self, prompt: Prompt) -> tuple[float, int]:
        """The same without the labels' words: what embedding a row reads."""
        if prompt.id not in self._asked:
            assert isinstance(self._answering, LabelAnswering)
            self._asked[prompt.id] = self._answering.own_tokens(prompt, self._sample)
        return self._asked[prompt.id]

    def written(self, prompt: Prompt, *, tuned: bool, apart: bool = False, new: bool = False) -> float:
        """Cost of writing a row's answer beyond scoring it; none where nothing is written.

        Args:
            prompt: how it is asked.
            tuned: whether the weights are.
            apart: whether it is written some time after it was scored, so that the row is read again.
            new: whether ``prompt`` only stands for one that nobody knows yet.
        """
        if not self._writes:
            return 0.0
        return self._costs.writing(self._read_again(prompt, apart), self.answer_tokens(prompt, tuned=tuned, new=new))

    def answer_tokens(self, prompt: Prompt, *, tuned: bool, new: bool = False) -> float:
        """Tokens of a written answer: as many as were seen.

        Untuned under a prompt that was not answered yet, as many as under the one that was answered at the greatest length;
        tuned at least as many as right answers have, since that is where more steps lead.
        """
        usual = self._answering.answer_tokens(tuned=tuned)
        if tuned:
            return usual if self._tuned is None else max(usual, self._tuned)
        if prompt.id in self._base and not new:
            return self._base[prompt.id]
        return max(self._base.values(), default=usual)

    def _read_again(self, prompt: Prompt, apart: bool) -> float:
        key = f"{prompt.id} {apart}"
        if key not in self._again:
            self._again[key] = self._answering.tokens_read_again(prompt, self._sample, apart=apart)
        return self._again[key]
