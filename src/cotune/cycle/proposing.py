"""Who writes new instructions: a language model behind an endpoint, or one on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from cotune.config.endpoints import ProposerConfig
from cotune.cycle.lab import Lab
from cotune.cycle.remote import prices_of
from cotune.endpoint import TRIES, Endpoint, EndpointError, Usage, ask, estimate_tokens
from cotune.endpoint.way import FORMS, Way
from cotune.errors import CotuneError
from cotune.model.adapters import BASE
from cotune.model.generations import Generations, Sampling
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.refine.rewriting import ANSWER_SCHEMA

_ANSWER_TOKENS, _LEAST_ANSWER = 1500, 200
_GIVE_UP = 2
"""Cycles in a row without an answer after which nobody is asked any more."""
_SHARE = 0.05
"""Of a time budget: what one cycle waits for an answer at most."""
_WAIT_S = 15.0
"""About how long an endpoint's answer takes, before any came."""
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
"""What a model on this machine is held to token by token."""

Messages = Sequence[Mapping[str, str]]


class Proposer(Protocol):
    """Is asked once a cycle."""

    @property
    def name(self) -> str:
        """Of the model, for the journal and for people."""
        ...

    def cost(self) -> float:
        """What the next question costs in the budget's unit, money for an endpoint's answer aside."""
        ...

    def asked(self, messages: Messages, cycle: int, room: float) -> dict[str, Any]:
        """Ask.

        Args:
            messages: the question.
            cycle: its number.
            room: of a budget of money, what an answer may cost.

        Returns:
            For the journal: the answer's ``text``, or ``failed`` or ``skipped`` and why; and what was spent.
        """
        ...

    def saw(self, value: Mapping[str, Any]) -> None:
        """Count what a recorded step spent."""
        ...


def proposer_of(lab: Lab, config: ProposerConfig) -> Proposer | None:
    """The one that a config names; None where it names none."""
    if config.model is None:
        return None
    return LocalProposer(lab, config) if config.base_url is None else EndpointProposer(lab, config)


class EndpointProposer:
    """Asks an OpenAI-compatible endpoint, within ``proposer.calls`` and ``proposer.tokens``.

    Args:
        lab: whose budget it keeps to.
        config: names the endpoint.
    """

    def __init__(self, lab: Lab, config: ProposerConfig) -> None:
        assert config.base_url is not None and config.model is not None
        self.lab, self.config, self.name = lab, config, config.model
        self._endpoint = Endpoint(config.base_url, config.model, config.key_env, config.timeout, "proposer")
        self._requests, self._tokens, self._in_vain = 0, 0, 0
        self._waited = 0.0
        self._way = Way(0, form=FORMS[0])

    def cost(self) -> float:
        """Seconds that the next answer is waited for; nothing of another budget."""
        waits = self.lab.costs.budget.kind == "time" and not self._over()
        return min(self._patience(), self._waited or _WAIT_S) if waits else 0.0

    def asked(self, messages: Messages, cycle: int, room: float) -> dict[str, Any]:
        """See :class:`Proposer`."""
        config, tokens = self.config, self.config.tokens - self._tokens
        if over := self._over():
            return {"skipped": over}
        asking = estimate_tokens(messages)
        answer_tokens = min(_ANSWER_TOKENS, tokens - asking)
        if answer_tokens < _LEAST_ANSWER:
            return {"skipped": f"proposer.tokens={config.tokens} leave no room for a question of about {asking} tokens"}
        # A try that brings nothing may be paid for too.
        tries = min(TRIES, tokens // (asking + answer_tokens))
        dearest = self._paid(Usage(asking, answer_tokens)).get("dollars", 0.0)
        if self.lab.costs.budget.kind == "money" and dearest > 0:
            tries = int(min(tries, max(0.0, room) / dearest))
        if tries < 1:
            return {"skipped": f"an answer may cost {dearest:.2g} USD, and the race and the end leave less of the budget"}
        self.lab.watcher.progress("rewrite", f"{self.name} reads what goes wrong", 0)
        way, calls, patience = replace(self._way, tokens=answer_tokens), config.calls - self._requests, self._patience()
        try:
            answer = ask(self._endpoint, messages, way=way, schema=ANSWER_SCHEMA, tries=tries, most=calls, patience=patience)
        except EndpointError as error:
            lost = error.usage
            return {"failed": str(error), "requests": error.requests, "tokens": lost.total, **self._paid(lost)}
        spent = {"requests": answer.requests, "tokens": answer.tokens, "way": answer.way.to_json()}
        return {"text": answer.text, **spent, **self._paid(answer.usage)}

    def saw(self, value: Mapping[str, Any]) -> None:
        """See :class:`Proposer`."""
        self.lab.account.pay(value)
        self._requests += int(value["requests"])
        self._tokens += int(value["tokens"])
        if value["requests"]:
            self._waited = max(self._waited, float(value.get("seconds", 0.0)))
        if "way" in value:
            self._way = Way.from_json(value["way"])
        self._in_vain = self._in_vain + 1 if "failed" in value else 0 if value["requests"] else self._in_vain

    def _over(self) -> str:
        """Why the endpoint is asked no more; empty where it still is."""
        if self._in_vain >= _GIVE_UP:
            return f"it gave no answer {self._in_vain} cycles in a row, so it is not asked any more"
        return f"proposer.calls={self.config.calls} are used up" if self._requests >= self.config.calls else ""

    def _patience(self) -> float:
        """Seconds that a cycle waits for an answer at most."""
        budget, most = self.lab.costs.budget, 2 * self.config.timeout
        return min(most, _SHARE * budget.amount) if budget.kind == "time" else most

    def _paid(self, usage: Usage) -> dict[str, float]:
        prices = prices_of(self.config)
        return {"dollars": round(prices.cost(usage), 9)} if prices else {}


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
        if self.lab.costs.budget.kind == "money" or self._over():
            return 0.0
        length = self._room(_QUESTION_TOKENS, self._pace, self._reading)
        if length < _LEAST_ANSWER:
            return 0.0
        if self.lab.costs.budget.kind == "tokens":
            return float(_QUESTION_TOKENS + length)
        return self._reading + length * self._pace if self._pace else self._share()

    def asked(self, messages: Messages, cycle: int, room: float) -> dict[str, Any]:
        """See :class:`Proposer`. Whatever goes wrong costs the cycle its instructions and no more."""
        if over := self._over():
            return {"skipped": over}
        try:
            return self._write(messages, cycle)
        except Exception as error:
            return {"failed": str(error) if isinstance(error, CotuneError) else f"{type(error).__name__}: {error}"}

    def saw(self, value: Mapping[str, Any]) -> None:
        """See :class:`Proposer`."""
        self._tokens += int(value["tokens"])
        self.lab.account.counts["tokens_written"] += int(value["tokens"])
        self._reading, self._pace = (
            float(value.get(name, was)) for name, was in (("reading", self._reading), ("pace", self._pace))
        )
        self._in_vain = self._in_vain + 1 if "failed" in value else 0 if value["tokens"] else self._in_vain

    def _write(self, messages: Messages, cycle: int) -> dict[str, Any]:
        started, timed = time.monotonic(), self.lab.costs.budget.kind == "time"
        model = self._model
        asking = len(model.tokenizer("\n".join(message["content"] for message in messages))["input_ids"])
        fitting = (model.longest_sequence or _LONGEST) - asking - _TEMPLATE_TOKENS
        if fitting < _LEAST_ANSWER:
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
        if length < _LEAST_ANSWER:
            return {**told, "skipped": f"proposer.tokens, or {_SHARE:.0%} of the budget, leave no room for an answer"}
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

    def _over(self) -> str:
        """Why it is asked no more; empty where it still is."""
        return (
            f"it gave nothing {self._in_vain} cycles in a row, so it is not asked any more" if self._in_vain >= _GIVE_UP else ""
        )

    @cached_property
    def _model(self) -> LocalModel:
        if self._shares:
            found = self.lab.model
        else:
            from cotune.model.opening import open_model

            # Threads are the whole process's, so they have to stay as the run's own model has them.
            engine = None if self.lab.remote is not None else self.lab.model.settings
            found = (
                open_model(self.name, light=True)
                if engine is None
                else open_model(self.name, device=engine.device, threads=engine.threads, light=True)
            )
        return found.with_max_tokens(found.longest_sequence or _LONGEST)

    def _share(self) -> float:
        return _SHARE * self.lab.costs.budget.amount

    def _room(self, asking: int, pace: float, spent: float = 0.0) -> int:
        """Tokens that an answer to a question of so many may have.

        Args:
            asking: tokens of the question.
            pace: seconds a written token; 0 where that is not known.
            spent: seconds that are gone already, or that reading takes.
        """
        most, kind = min(_ANSWER_TOKENS, self.config.tokens - self._tokens - asking), self.lab.costs.budget.kind
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
