"""A language model on this machine that writes new instructions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from cotune.config.endpoints import ProposerConfig
from cotune.cycle.attempt import attempt
from cotune.cycle.lab import Lab
from cotune.cycle.proposing import ANSWER_TOKENS, LEAST_ANSWER, SHARE, Messages, given_up
from cotune.model.adapters import BASE
from cotune.model.generations import Generations, Sampling
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.refine.rewriting import ANSWER_SCHEMA

_QUESTION_TOKENS = 700
"""About how long a question is, before one was asked."""
_TRIED = 60
"""Tokens that tell how fast a model writes."""
_LONGEST = 8192
"""Positions of a model that does not say how many it has."""
_TEMPLATE_TOKENS = 64
"""About what a chat template adds to a question, at most."""
_TEMPERATURE = 0.7
_WRITTEN_SCHEMA = {
    **ANSWER_SCHEMA,
    "properties": {"prompts": {"type": "array", "minItems": 1, "maxItems": 4, "items": {"type": "string", "minLength": 1}}},
}
"""What an answer is held to token by token."""


class LocalProposer:
    """Writes with a model on this machine, held to the answer's JSON; its tokens and seconds are the run's own.

    Args:
        lab: whose budget it keeps to; where the run's own model is named, its base weights write.
        config: names the model.

    Raises:
        InputError: there is no such model.
    """

    def __init__(self, lab: Lab, config: ProposerConfig) -> None:
        assert config.model is not None
        self.lab, self.config, self.name = lab, config, config.model
        self._tokens, self._in_vain = 0, 0
        self._reading = self._pace = 0.0
        self._shares = lab.remote is None and _is_of(lab.model, config.model)

    def cost(self) -> float:
        """Of a question and its answer, in the budget's unit; no money. Before the first that is the most that it may take."""
        if self.lab.costs.budget.kind == "money" or given_up(self._in_vain):
            return 0.0
        length = self._room(_QUESTION_TOKENS, self._pace, self._reading)
        if length < LEAST_ANSWER:
            return 0.0
        if self.lab.costs.budget.kind == "tokens":
            return float(_QUESTION_TOKENS + length)
        return self._reading + length * self._pace if self._pace else self._share()

    def asked(self, messages: Messages, cycle: int, room: float) -> dict[str, Any]:
        """See :class:`cotune.cycle.proposing.Proposer`. Whatever goes wrong costs the cycle its instructions and no more."""
        if over := given_up(self._in_vain):
            return {"skipped": over}
        return attempt(self.lab.journal, lambda: self._write(messages, cycle), told="failed")

    def saw(self, value: Mapping[str, Any]) -> None:
        """See :class:`cotune.cycle.proposing.Proposer`."""
        self._tokens += int(value["tokens"])
        self.lab.account.counts["tokens_written"] += int(value["tokens"])
        self._reading = float(value.get("reading", self._reading))
        self._pace = float(value.get("pace", self._pace))
        self._in_vain = self._in_vain + 1 if "failed" in value else 0 if value["tokens"] else self._in_vain

    def _write(self, messages: Messages, cycle: int) -> dict[str, Any]:
        started, timed = time.monotonic(), self.lab.costs.budget.kind == "time"
        model = self._model
        asking = len(model.tokenizer("\n".join(message["content"] for message in messages))["input_ids"])
        fitting = (model.longest_sequence or _LONGEST) - asking - _TEMPLATE_TOKENS
        if fitting < LEAST_ANSWER:
            return {"skipped": f"a question of {asking} tokens leaves {self.name} no room for an answer"}
        told: dict[str, Any] = {"tokens": 0}
        reading, pace = self._reading, self._pace
        if timed and not pace:
            # How fast it writes here nobody knows yet, and an answer cannot be broken off. A first one is slow by what is made
            # once for all, such as the table of its tokens.
            first = self._written(messages, cycle, _TRIED, draw=1)
            begun, tried = time.monotonic(), self._written(messages, cycle, _TRIED, draw=2)
            reading, pace = _paces(tried, time.monotonic() - begun)
            told = {"tokens": first.tokens + tried.tokens, "reading": reading, "pace": pace}
        length = self._room(asking, pace, reading + time.monotonic() - started)
        if length < LEAST_ANSWER:
            return {**told, "skipped": f"proposer.tokens, or {SHARE:.0%} of the budget, leave no room for an answer"}
        begun, found = time.monotonic(), self._written(messages, cycle, min(length, fitting))
        if timed and not found.cached:
            told["reading"], told["pace"] = _paces(found, time.monotonic() - begun)
        return {**told, "text": found.texts[0], "tokens": told["tokens"] + found.tokens, "written": found.written}

    def _written(self, messages: Messages, cycle: int, limit: int, draw: int = 0) -> Generations:
        from cotune.model.grammar import Grammar

        self.lab.watcher.progress("rewrite", f"{self.name} reads what goes wrong", 0)
        system, question = (message["content"] for message in messages)
        return self._model.generate(
            Prompt(system=system, input_template="{question}"),
            [{"question": question}],
            adapter=BASE,
            limit=limit,
            grammar=Grammar.json(_WRITTEN_SCHEMA),
            sampling=Sampling(_TEMPERATURE, self.lab.seed + 1000 * draw + cycle),
        )

    @cached_property
    def _model(self) -> LocalModel:
        if self._shares:
            found = self.lab.model
        else:
            from cotune.model.opening import open_model

            # Threads are the whole process's, so they have to stay as the run's own model has them.
            engine = None if self.lab.remote is not None else self.lab.model.settings
            device, threads = (engine.device, engine.threads) if engine else ("auto", None)
            found = open_model(self.name, device=device, threads=threads, light=True)
        return found.with_max_tokens(found.longest_sequence or _LONGEST)

    def _share(self) -> float:
        return SHARE * self.lab.costs.budget.amount

    def _room(self, asking: int, pace: float, spent: float = 0.0) -> int:
        """Tokens that an answer to a question of so many may have.

        Args:
            asking: tokens of the question.
            pace: seconds a written token; 0 where that is not known.
            spent: seconds that are gone already, or that reading takes.
        """
        most, kind = min(ANSWER_TOKENS, self.config.tokens - self._tokens - asking), self.lab.costs.budget.kind
        if kind == "tokens":
            return min(most, int(self._share()) - asking)
        return min(most, int((self._share() - spent) / pace)) if kind == "time" and pace else most


def _paces(found: Generations, seconds: float) -> tuple[float, float]:
    """Seconds that reading the question took, and seconds a written token."""
    reading = min(found.entering_s, seconds)
    return round(reading, 4), round((seconds - reading) / max(1, found.written), 5)


def _is_of(model: LocalModel, name: str) -> bool:
    """Whether a name is that of a model that is loaded already.

    Raises:
        InputError: it is no model's.
    """
    from cotune.model.bundled import resolve_model
    from cotune.model.folder import model_fingerprint

    return name == model.name or model_fingerprint(resolve_model(name)) == model.fingerprint
