"""The teacher writes rows for the labels that a probe confuses most; they are used for training only, if that helps."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.near_duplicates import repeats_in_meaning
from cotune.cycle.endpoints import prices_of
from cotune.cycle.probe_search.fits import PromptFit
from cotune.cycle.probe_search.possible import why_no_probes
from cotune.cycle.probe_search.splits import Split
from cotune.cycle.teaching.asking import WHY_STOPPED, Bounds, ask, open_teacher
from cotune.cycle.teaching.confusion import confused_pairs
from cotune.cycle.teaching.writing import (
    MEANING,
    REASONS,
    ROWS,
    TEST,
    Asking,
    Draft,
    Drafts,
    answer_limit,
    answer_schema,
    messages_for,
    plan,
    repeats,
    take,
)
from cotune.endpoint import EndpointError, Usage
from cotune.errors import InputError, counted
from cotune.files import write_text
from cotune.model.remote.model import RemoteModel
from cotune.refine.copied import RowGrams
from cotune.run_files import WRITTEN_ROWS
from cotune.task.checks import Finding
from cotune.task.task import Task

STAGE = "written_rows"
_PAIRS = 8
"""Maximum number of pairs of labels."""
_TIMES = 2
"""Ratio of requested rows to rows that may be kept, because some are refused."""
_TIME_SHARE = 0.2
"""Maximum share of a time budget for waiting for the teacher."""
_TEMPERATURE = 0.8
_BUDGET_SHARE = 0.1
"""Maximum share of the remaining tokens or time for the comparison of new rows with known ones."""


def check_writing(config: RunConfig, task: Task) -> None:
    """Check before any computation that rows can be written for a run.

    Raises:
        InputError: the run does not read labels off hidden states.
    """
    if not config.teacher.write:
        return
    why = why_no_probes(config, task) or ("tune.readout is words" if config.tune.readout == "words" else "")
    if why:
        raise no_writing(why)


def no_writing(why: str) -> InputError:
    """The error if no rows can be written."""
    return InputError(
        f"a teacher writes rows for labels that are read off hidden states, and {why}",
        where="teacher.write",
        hint="Leave teacher.write out.",
    )


def write_rows(context: RunContext, config: RunConfig, fit: PromptFit, splits: Sequence[Split]) -> tuple[Draft, ...]:
    """Let the teacher write rows for the labels that a cross-fitted probe confuses most; a ``written_rows`` step.

    Does nothing unless the config asks for it. Dev rows are never shown, and rows that are shown together are held out
    together. If the endpoint fails, the writing ends but not the run, and the answers so far count.

    Args:
        context: context of the run.
        config: names the teacher, its bounds, and the share of rows that may be written.
        fit: cross-fitted probe, whose confusions count.
        splits: splits of the search.

    Returns:
        The rows that are kept. They are also saved in the run's folder.
    """
    section, task = config.teacher, context.task
    most = int(section.write * len(task.train))
    if not section.write:
        return ()
    left = context.spending.left()
    train = {row.id for row in task.train}
    pairs = confused_pairs(fit, task, train, _PAIRS)
    # Names of labels may be learnt from too; a question shows labelled rows.
    parts = [split.held for split in splits[1:]] or [tuple(row for row in splits[0].learn if row.id in train)]
    rng = np.random.default_rng([context.seed, 27])
    askings = plan(pairs, parts, _TIMES * -(-most // ROWS), rng)

    def effect() -> dict[str, Any]:
        empty: dict[str, Any] = {"rows": [], "tokens": 0, "embedded": 0, "seconds": 0.0}
        if most < 1 or not askings:
            why = (
                "there are no two labels with train rows to show" if most else f"teacher.write={section.write:g} allows no row"
            )
            return {**empty, "skipped": why}
        # Each new row is compared with two similar ones.
        own, _ = context.spending.rows.without_words(fit.prompt)
        if context.spending.costs.scoring(3 * _TIMES * most * own) > _BUDGET_SHARE * left:
            return {**empty, "skipped": "the budget has no room for comparing new rows with known ones"}
        started = time.monotonic()
        found = _Writing(context, config, askings, most).run()
        return {"model": section.model, "most": most, "pairs": [[*p.labels, p.mass] for p in pairs], **found} | {
            "seconds": round(time.monotonic() - started, 3)
        }

    key = [section.model, section.write, fit.prompt.id, [[*asking.labels, *(r.id for r in asking.shown)] for asking in askings]]
    value: dict[str, Any] = context.journal.step("written_rows", key, effect)
    context.spending.account.counts["tokens_embedded"] += int(value["embedded"])
    context.spending.account.pay(value)
    drafts = tuple(map(Draft.from_json, value["rows"]))
    if drafts:
        lines = (json.dumps({**draft.to_json(), "synthetic": True}, ensure_ascii=False) + "\n" for draft in drafts)
        write_text(context.folder / WRITTEN_ROWS, "".join(lines))
    return drafts


class _Writing:
    """Asks questions until enough rows are kept or a bound is reached."""

    def __init__(self, context: RunContext, config: RunConfig, askings: Sequence[Asking], most: int) -> None:
        self.context, self.config, self.askings, self.most = context, config, list(askings), most
        self.kept: list[Draft] = []
        self.refused: Counter[str] = Counter()
        self.spent, self.asked, self.embedded = Usage(), 0, 0
        budget = context.spending.budget
        self._ends = time.monotonic() + (_TIME_SHARE * budget.amount if budget.kind == "time" else float("inf"))
        self._grams = RowGrams(context.task)

    def run(self) -> dict[str, Any]:
        """Ask, and return the value of the ``written_rows`` step."""
        context, section = self.context, self.config.teacher
        task, stopped, failed = context.task, "", ""
        teacher = open_teacher(
            self.config,
            context.folder,
            tokens=answer_limit(task.train),
            schema=answer_schema(task, self.askings),
            temperature=_TEMPERATURE,
            patience=self._patience(),
        )
        bounds = self._bounds()
        questions = [messages_for(task, asking) for asking in self.askings]
        with closing(teacher):
            try:
                if bounds.calls > 0 and bounds.tokens > 0:
                    teacher.settle_with(questions[0])
                while len(self.kept) < self.most and self.asked < len(questions) and not stopped:
                    if self._left() <= 0:
                        stopped = "a fifth of the time budget was spent waiting for it"
                        break
                    teacher.patience = self._patience()
                    end = self.asked + max(1, min(section.concurrency, -(-(self.most - len(self.kept)) // ROWS)))
                    part = Bounds(max(0, bounds.calls - self.asked), max(0, bounds.tokens - self.spent.total))
                    stopped = WHY_STOPPED.get(ask(teacher, questions[self.asked : end], part).stopped, "")
                    self._read(teacher, questions, end)
            except EndpointError as error:
                failed = str(error)
                self._read(teacher, questions, len(questions))
        return {
            "rows": [draft.to_json() for draft in self.kept],
            "asked": self.asked,
            "refused": {why: self.refused[why] for why in REASONS if self.refused[why]},
            "stopped": stopped,
            **({"failed": failed} if failed else {}),
            "tokens": self.spent.total,
            "embedded": self.embedded,
            "dollars": round(prices.cost(self.spent), 9) if (prices := prices_of(section)) else 0.0,
        }

    def _bounds(self) -> Bounds:
        """The teacher's bounds without what answers to unlabelled rows have used."""
        section = self.config.teacher
        taught: Mapping[str, Any] = next(
            (event["value"] for event in self.context.journal.events if event["kind"] == "teach"), {}
        )
        calls, tokens = section.calls - int(taught.get("asked", 0)), section.tokens - int(taught.get("tokens", 0))
        return Bounds(max(0, calls), max(0, tokens))

    def _patience(self) -> float:
        """Maximum seconds for one question; the run can continue without an answer."""
        return min(2 * self.config.teacher.timeout, self._left())

    def _left(self) -> float:
        return self._ends - time.monotonic()

    def _read(self, teacher: RemoteModel, questions: Sequence[Any], end: int) -> None:
        """Take the answers to the questions up to ``end``."""
        drafts = Drafts()
        for number, said in enumerate(teacher.kept(questions[self.asked : end]), start=self.asked):
            if said is None:
                continue
            self.asked = number + 1
            self.spent += said.usage
            self.context.watcher.progress(STAGE, f"{teacher.endpoint.model} writes rows", 0)
            take(said.text, self.askings[number], self.context.task, self._grams, drafts, number)
        self.refused += drafts.refused
        self._keep(drafts.taken)

    def _keep(self, taken: Sequence[Draft]) -> None:
        """Keep rows that repeat no other, up to the wanted number."""
        task, kept = self.context.task, [draft.row for draft in self.kept]
        found = repeats(taken, task, kept)
        rest = [draft for draft in taken if draft.row.id not in found]
        alike, tokens = repeats_in_meaning(self.context, [draft.row for draft in rest], [*task.train, *task.dev, *kept], STAGE)
        self.embedded += tokens
        found |= {row: TEST if of_test else MEANING for row, of_test in alike.items()}
        self.refused.update(found.values())
        self.kept += [draft for draft in rest if draft.row.id not in found][: self.most - len(self.kept)]


def with_written(splits: Sequence[Split], drafts: Sequence[Draft]) -> tuple[Split, ...]:
    """Splits that also learn from written rows, except rows whose question showed a row that the split holds out."""
    found = []
    for split in splits:
        held = {row.id for row in split.held}
        found.append(Split((*split.learn, *(draft.row for draft in drafts if held.isdisjoint(draft.shown))), split.held))
    return tuple(found)


def judge_written(context: RunContext, rows: Sequence[Draft], without: float, having: float) -> bool:
    """Whether written rows are used: a probe that learns from them is better on held-out rows; a ``written_judged`` step.

    Args:
        context: context of the run.
        rows: the written rows.
        without: held-out log-loss of the leading prompt's frozen probe without them.
        having: held-out log-loss with them.
    """

    def effect() -> dict[str, Any]:
        used = having < without
        told = {"rows": len(rows), "log_loss": round(having, 6), "without": round(without, 6), "used": used}
        return {**told, "text": verdict_on(told)}

    return bool(context.journal.step("written_judged", [row.row.id for row in rows], effect)["used"])


def verdict_on(told: Mapping[str, Any]) -> str:
    """A sentence on whether written rows are used."""
    rows, between = counted(told["rows"], "written row"), f"{told['log_loss']:.3f} with, {told['without']:.3f} without"
    verb = "is" if told["rows"] == 1 else "are"
    return f"{rows} {verb} {'' if told['used'] else 'not '}used: held-out log-loss {between}"


def written_told(context: RunContext) -> dict[str, Any] | None:
    """The summary's ``written_rows``; None if no teacher was asked to write rows."""
    events = {event["kind"]: event["value"] for event in context.journal.events if event["kind"] in (STAGE, "written_judged")}
    if STAGE not in events:
        return None
    value, judged = events[STAGE], events.get("written_judged")
    told = {"kept": len(value["rows"]), "used": bool(judged and judged["used"])}
    told |= {name: value[name] for name in ("model", "asked", "refused", "stopped", "failed", "skipped") if name in value}
    told |= {"tokens": value["tokens"], "dollars": value.get("dollars", 0.0)}
    told |= {name: judged[name] for name in ("log_loss", "without")} if judged else {}
    return {**told, "sentence": sentence(value) + (f"; {judged['text']}" if judged else "")}


def sentence(value: Mapping[str, Any]) -> str:
    """A sentence on the rows that the teacher wrote."""
    if why := value.get("skipped"):
        return f"the teacher was not asked for rows: {why}"
    kept, refused = len(value["rows"]), sum(value["refused"].values())
    told = f"of the rows that the teacher {value['model']} wrote to {counted(value['asked'], 'question')}, {kept} were kept"
    if refused:
        told += f" and {refused} refused ({', '.join(f'{why}: {count}' for why, count in value['refused'].items())})"
    if value.get("failed"):
        told += f"; it failed: {value['failed']}"
    return told + (f"; it was not asked again, as {value['stopped']}" if value.get("stopped") else "")


def written_findings(told: Mapping[str, Any] | None) -> list[Finding]:
    """The finding of the data checks on written rows."""
    return [] if told is None else [Finding("written_rows", "info", told["sentence"], told["kept"])]
