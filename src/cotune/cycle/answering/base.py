"""How a model answers a task's rows: by scoring labels, or by writing. All that differs between types of output stands here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cotune.errors import CotuneError
from cotune.evaluate.answer_noise import AnswerNoise
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.noise import Noise, compare
from cotune.evaluate.responses import LabelOutputs, ModelOutputs, OwnLabelOutputs, label_indices
from cotune.evaluate.stats.racing import loss_bound
from cotune.model.base import AskedModel, ModelBackend, Progress
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow, shared_prefix
from cotune.task.example import Example
from cotune.task.task import Task
from cotune.tune.batches import TrainingRow, training_rows

ODD_ROWS = 3
"""Rows of the small batches that noise is looked for with, at least."""


@dataclass(frozen=True)
class Reply:
    """What a request to the model brought, and what it cost.

    Attributes:
        given: what was given.
        tokens: tokens that were run.
        saved: tokens that the shared prefix spared.
        truncated: rows whose text was shortened.
        cached: whether any of it came from the cache.
        dollars: what it cost, a judge's grades included; None where nobody behind an endpoint was asked.
        unmatched: rows whose answer, by an endpoint, names no label, or is no value of the task's output.
        written: those of ``tokens`` that were written one by one.
        judged: what a judge did for it, ``rows``, ``tokens`` and ``dollars``; empty without one.
    """

    given: ModelOutputs
    tokens: int
    saved: int
    truncated: int
    cached: bool
    dollars: float | None = None
    unmatched: int = 0
    written: int = 0
    judged: Mapping[str, float] = field(default_factory=dict)


class Answering(Protocol):
    """Asks a model about a task's rows.

    Attributes:
        loss_bound: cap on a row's loss in a race, in nats.
        rules: whether a decision rule other than the raw one can be fitted.
        limit: tokens that a written answer may have; 0 where none is written.
        noise_tokens: which count of the account the tokens of :meth:`noise` belong to.
    """

    loss_bound: float
    rules: bool
    limit: int
    noise_tokens: str

    @property
    def model(self) -> ModelBackend:
        """Who answers."""
        ...

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """What a cheap pass over the rows gives: enough for a log-loss."""
        ...

    def write(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], given: ModelOutputs, progress: Progress
    ) -> Reply | None:
        """Answers to add to what :meth:`score` gave; None where that holds them already."""
        ...

    def both(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress
    ) -> tuple[Reply, Reply, float] | None:
        """What :meth:`score` and :meth:`write` give, each row's prompt being read once for both, and the seconds that the first
        took of them; None where nothing is spared."""
        ...

    def render(self, prompt: Prompt, rows: Sequence[Example]) -> list[RenderedRow]:
        """The rows' token ids with whatever may be answered."""
        ...

    def training_rows(self, prompt: Prompt, rows: Sequence[Example]) -> list[TrainingRow]:
        """The rows' token ids with what is right for each."""
        ...

    def own_prefix(self, prompt: Prompt) -> Sequence[int]:
        """What every row of a prompt begins with, whatever stands in it."""
        ...

    def tokens_a_row(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """Mean own tokens of a row in :meth:`score`, and tokens of the prefix."""
        ...

    def tokens_read_again(self, prompt: Prompt, rows: Sequence[Example], *, apart: bool) -> float:
        """Mean tokens of a row that writing an answer reads beyond :meth:`score`, more where it comes ``apart`` from that."""
        ...

    def answer_tokens(self, *, tuned: bool) -> float:
        """Tokens of a written answer, about, before any was seen; ``tuned`` weights know how long an answer is."""
        ...

    def odd_rows(self, count: int) -> int:
        """Rows of the small batches that noise is looked for with, where there are ``count`` in all."""
        ...

    def noise(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], decision: Decision, *, odd: int, progress: Progress
    ) -> tuple[Noise | AnswerNoise, int] | None:
        """How two passes over the same rows in other batches differ, and their tokens; None where that is not measured."""
        ...


class OnePass:
    """What scoring gives is the answer: nothing is written afterwards."""

    limit = 0

    def write(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], given: ModelOutputs, progress: Progress
    ) -> Reply | None:
        """The scores are the answer."""
        return None

    def both(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress
    ) -> tuple[Reply, Reply, float] | None:
        """The scores are the answer."""
        return None

    def tokens_read_again(self, prompt: Prompt, rows: Sequence[Example], *, apart: bool) -> float:
        """None beyond scoring."""
        return 0.0

    def answer_tokens(self, *, tuned: bool) -> float:
        """None beyond scoring."""
        return 0.0


class LabelAnswering(OnePass):
    """Scores every label of every row.

    Args:
        task: what is asked.
        model: who answers.
    """

    rules = True
    noise_tokens = "tokens_scored"

    def __init__(self, task: Task, model: LocalModel) -> None:
        self.task, self.model = task, model
        self.loss_bound = loss_bound(len(task.labels))

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """``[rows, labels]`` log-probabilities."""
        found = self.model.score(prompt, [row.fields for row in rows], self.task.labels, adapter=adapter, progress=progress)
        return Reply(LabelOutputs(found.log_probs), found.tokens, found.tokens_saved, found.truncated, bool(found.cached))

    def render(self, prompt: Prompt, rows: Sequence[Example]) -> list[RenderedRow]:
        """Each row with all labels."""
        return self.model.renderer.render(prompt, [row.fields for row in rows], self.task.labels)

    def training_rows(self, prompt: Prompt, rows: Sequence[Example]) -> list[TrainingRow]:
        """Each row with its label."""
        return training_rows(self.render(prompt, rows), [int(i) for i in label_indices(rows, self.task)])

    def own_prefix(self, prompt: Prompt) -> Sequence[int]:
        """With the list of labels in it."""
        return self.model.own_prefix(prompt, self.task.input_fields, self.task.labels)

    def tokens_a_row(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """A row's text and the labels' trie."""
        from cotune.model.engine.trie import build_trie

        own, prefix = self.own_tokens(prompt, rows)
        (first,) = self.render(prompt, rows[:1])
        return own + len(build_trie(first.completions).tree.tokens), prefix

    def own_tokens(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """Mean own tokens of a row without the labels' words, and tokens of the prefix."""
        rendered = self.render(prompt, rows)
        prefix = shared_prefix([row.prompt_ids for row in rendered])
        return sum(len(row.prompt_ids) + row.looked_up for row in rendered) / len(rendered) - prefix, prefix

    def odd_rows(self, count: int) -> int:
        """Three, whatever there are."""
        return ODD_ROWS

    def noise(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], decision: Decision, *, odd: int, progress: Progress
    ) -> tuple[Noise, int] | None:
        """Both are run anew: a score from the cache is the same to the last bit and would hide what is looked for."""
        asked: tuple[Any, ...] = (prompt, [row.fields for row in rows], self.task.labels)
        whole, pieces = (
            self.model.score(*asked, adapter=adapter, batch_rows=size, fresh=True, progress=progress) for size in (None, odd)
        )
        return compare(whole.log_probs, pieces.log_probs, decision), whole.tokens + pieces.tokens


class OwnLabelAnswering(LabelAnswering):
    """Scores labels that are not the task's: an earlier bundle's, unchanged.

    Args:
        task: what is asked.
        model: who answers.
        labels: those to choose from.
    """

    rules = False

    def __init__(self, task: Task, model: LocalModel, labels: tuple[str, ...]) -> None:
        super().__init__(replace(task, output=replace(task.output, labels=labels)), model)

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """``[rows, labels]`` log-probabilities."""
        reply = super().score(prompt, adapter, rows, progress)
        assert isinstance(reply.given, LabelOutputs)
        return replace(reply, given=OwnLabelOutputs(reply.given.log_probs, self.task.labels))


class AskedAnswering(OnePass):
    """Asks a model behind an endpoint for each row's label: nothing of it can be rendered, tuned or run in other batches.

    Args:
        task: what is asked.
        model: who answers.

    Attributes:
        rules: whether its scores are probabilities, so that a bias can be fitted to them.
    """

    noise_tokens = "tokens_scored"

    def __init__(self, task: Task, model: AskedModel) -> None:
        self.task, self.model = task, model
        self.loss_bound = loss_bound(len(task.labels))
        self.rules = model.tells_probabilities

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """``[rows, labels]`` log-probabilities."""
        found = self.model.score(prompt, [row.fields for row in rows], self.task.labels, adapter=adapter, progress=progress)
        return Reply(
            LabelOutputs(found.log_probs), found.tokens, 0, 0, bool(found.cached), round(found.cost, 9), found.unmatched
        )

    def render(self, prompt: Prompt, rows: Sequence[Example]) -> list[RenderedRow]:
        """Raises CotuneError: there are no token ids."""
        raise self._elsewhere()

    def training_rows(self, prompt: Prompt, rows: Sequence[Example]) -> list[TrainingRow]:
        """Raises CotuneError: there are no token ids."""
        raise self._elsewhere()

    def own_prefix(self, prompt: Prompt) -> Sequence[int]:
        """Raises CotuneError: there are no token ids."""
        raise self._elsewhere()

    def tokens_a_row(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """Question and answer, about; an endpoint shares no prefix."""
        return self.model.row_tokens(prompt, [row.fields for row in rows], self.task.labels), 0

    def odd_rows(self, count: int) -> int:
        """Its batches are its own affair."""
        return count

    def noise(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], decision: Decision, *, odd: int, progress: Progress
    ) -> tuple[Noise, int] | None:
        """Its batches are its own affair."""
        return None

    def _elsewhere(self) -> CotuneError:
        return CotuneError(f"{self.model.name} answers behind an endpoint and cannot be tuned or seen into")


def rules_of(answering: Answering, given: ModelOutputs, task: Task) -> tuple[Decision, ...]:
    """The decision rules to choose from: the raw one, and the one that the inputs suggest where there is one."""
    return (RAW, given.calibrated(task)) if answering.rules else (RAW,)
