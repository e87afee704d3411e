"""A model's outputs on rows: requested once, recorded in the journal, paid for, and judged by the task's metric."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from cotune.cycle.answering.base import Answering, LabelAnswering, Reply, rules_of
from cotune.cycle.answering.factory import answering_for
from cotune.cycle.budget.spending import Spending
from cotune.cycle.candidate import Own
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Watcher
from cotune.cycle.workers.pending import Pending
from cotune.cycle.workers.pool import WorkerPool, Workers
from cotune.cycle.workers.scores import PendingScores
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.judge import Judge
from cotune.evaluate.responses import ModelOutputs, best_rule
from cotune.evaluate.scoring import Evaluation, finite
from cotune.files import content_hash
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example
from cotune.task.task import Task


class Answers:
    """Asks the model about rows of a task.

    Args:
        grader: the judge whose grades are the metric; None without a judge.
        workers: workers that score labels.
    """

    def __init__(
        self,
        task: Task,
        answering: Answering,
        journal: Journal,
        spending: Spending,
        watcher: Watcher,
        grader: Judge | None,
        workers: Workers,
    ) -> None:
        self.answering, self.grader = answering, grader
        self._task, self._journal, self._spending, self._watcher = task, journal, spending, watcher
        self._every_label = True
        self._known: dict[str, ModelOutputs] = {}
        self._pending = Pending[PendingScores](workers)

    @property
    def calibrates(self) -> bool:
        """Whether decision rules with a bias are tried, which need probabilities and rows of every label."""
        return self.answering.rules and self._every_label

    @property
    def written_late(self) -> bool:
        """Whether the search uses the right answers' log-loss and only finalists write answers.

        A written answer costs many passes, its likelihood only one. Endpoints return no likelihoods.
        """
        can, task = self.answering.model.capabilities, self._task
        writes = task.output.kind.written and not isinstance(self.answering, LabelAnswering)
        return can.likelihoods and writes and task.measure.needs_answers

    def scores(
        self,
        prompt: Prompt,
        adapter: str,
        rows: Sequence[Example],
        stage: str,
        *,
        answers: bool = True,
        own: Own | None = None,
        **note: Any,
    ) -> ModelOutputs:
        """Outputs of a prompt and an adapter on rows; a ``score`` step, and for written answers a ``write`` step.

        Args:
            rows: rows of one split.
            stage: purpose, for the journal and progress.
            answers: whether the metric is needed; False if the log-loss decides, which is far cheaper if answers are written.
            own: an earlier bundle's output, if it differs from the task's.
            note: further values for the journal.

        Raises:
            DivergedError: an output is not finite.
        """
        key = _key(prompt, adapter, rows, own)
        name = content_hash(key)
        answering = self.by(own)
        wanted = answers and self._task.measure.needs_answers
        if f"{name}+" in self._known or (name in self._known and not wanted):
            return self._known.get(f"{name}+") or self._known[name]

        def told(tokens: int) -> None:
            self._watcher.progress(stage, prompt.text, tokens)

        facts = {"stage": stage, "prompt_id": prompt.id, "adapter_id": adapter, "rows": len(rows)}
        given = self._known.get(name)
        started = time.monotonic()
        if given is None:
            request = self._pending.pop(name, partial(self._request, prompt, adapter, rows, own))
            if request is not None:
                request.result()
        both = answering.both(prompt, adapter, rows, told) if given is None and wanted else None
        if given is None:
            reply = both[0] if both else answering.score(prompt, adapter, rows, told)
            seconds = both[2] if both else time.monotonic() - started
            value = self._journal.step("score", key, lambda: {**facts, **self._told(reply, rows, seconds), **note})
            self._spending.charge(value, "tokens_scored", self._spending.costs.saw_scoring)
            if own is None and not reply.by_probe:
                self._spending.rows.saw_reading(prompt, len(rows), int(value["tokens"]), int(value["saved"]))
            given = self._known[name] = reply.given
        if wanted:
            started = started + both[2] if both else time.monotonic()
            written = both[1] if both else answering.write(prompt, adapter, rows, given, told)
            if written is not None:
                seconds = time.monotonic() - started
                value = self._journal.step("write", key, lambda: {**facts, **self._told(written, rows, seconds), **note})
                count = int(value.get("written", 0))
                self._spending.charge(
                    value, "tokens_written", lambda t, s: self._spending.costs.saw_writing(t - count, count, len(rows), s)
                )
                if own is None:
                    self._spending.rows.saw_writing(prompt, adapter, len(rows), count)
                given = written.given
            self._known[f"{name}+"] = given
        return given

    def ahead(self, prompt: Prompt, adapter: str, rows: Sequence[Example], own: Own | None = None) -> None:
        """Let workers score labels before :meth:`scores` is called; does nothing without workers."""
        if (name := content_hash(_key(prompt, adapter, rows, own))) not in self._known:
            self._pending.submit(name, partial(self._request, prompt, adapter, rows, own))

    def _request(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], own: Own | None, workers: WorkerPool
    ) -> PendingScores | None:
        """A request for label scores as jobs; None if answers are written."""
        answering = self.by(own)
        if not isinstance(answering, LabelAnswering):
            return None
        fields = [row.fields for row in rows]
        return PendingScores(workers, answering.model, prompt, fields, answering.labels, adapter)

    def _told(self, reply: Reply, rows: Sequence[Example], seconds: float) -> dict[str, Any]:
        """A reply as a record for the journal."""
        judged = self.judge(reply.given, rows, RAW)
        return {
            "score": finite(judged.score),
            "log_loss": finite(judged.log_loss),
            "tokens": reply.tokens,
            "saved": reply.saved,
            "truncated": reply.truncated,
            "seconds": round(seconds, 3) if not reply.cached else None,
            **({} if reply.dollars is None else {"dollars": reply.dollars, "unmatched": reply.unmatched}),
            **({"written": reply.written} if reply.written else {}),
            **({"judged": dict(reply.judged)} if reply.judged else {}),
        }

    def judge(self, given: ModelOutputs, rows: Sequence[Example], decision: Decision) -> Evaluation:
        """Evaluate outputs against the rows' right answers."""
        return given.judge(rows, decision, self._task)

    def judge_best(
        self, given: ModelOutputs, rows: Sequence[Example], rules: Sequence[Decision] | None = None
    ) -> tuple[Evaluation, Decision]:
        """The evaluation under the best of ``rules``, and that rule; None chooses from :meth:`rules` of the outputs."""
        return best_rule(given, rows, self.rules(given) if rules is None else rules, self._task)

    def bias(self, given: ModelOutputs) -> Decision:
        """The calibrated rule by outputs on some rows, without their right answers; the raw rule if none can be fitted."""
        return given.calibrated(self._task) if self.answering.rules else RAW

    def by(self, own: Own | None = None) -> Answering:
        """The answering with the task's output, or with that of an earlier bundle."""
        return self.answering if own is None else answering_for(self._task, self.answering.model, own, judge=self.grader)

    def rules(self, given: ModelOutputs) -> tuple[Decision, ...]:
        """The decision rules to choose from."""
        return rules_of(self.answering, given, self._task) if self._every_label else (RAW,)

    def leave_out_rules(self) -> None:
        """Stop trying decision rules with a bias, because some labels have no row."""
        self._every_label = False


def _key(prompt: Prompt, adapter: str, rows: Sequence[Example], own: Own | None) -> list[Any]:
    """Journal key of a request."""
    return [prompt.id, adapter, [row.id for row in rows], *([own.to_json()] if own is not None else [])]
