"""The proposer: a language model behind an endpoint that writes new instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cotune.config.endpoints import ProposerConfig
from cotune.cycle.context import RunContext
from cotune.cycle.endpoints import prices_of
from cotune.endpoint import TRIES, Client, Endpoint, EndpointError, Usage, ask, estimate_tokens
from cotune.endpoint.request_format import FORMS, RequestFormat
from cotune.refine.rewriting import ANSWER_SCHEMA

_ANSWER_TOKENS, _LEAST_ANSWER = 1500, 200
"""Maximum tokens of an answer, and the number below which asking is not worth it."""
_GIVE_UP = 2
"""Cycles in a row without an answer after which the proposer is not asked again."""
_SHARE = 0.05
"""Share of a time budget that one cycle waits for its answer at most."""
_WAIT_S = 15.0
"""Expected seconds of an answer before the first one."""
Messages = Sequence[Mapping[str, str]]


class Proposer:
    """Asks an OpenAI-compatible endpoint once a cycle, within ``proposer.calls`` and ``proposer.tokens``.

    Args:
        context: context of the run, whose budget limits the requests.
        config: names the endpoint.

    Attributes:
        name: name of the model, for the journal and messages.
    """

    def __init__(self, context: RunContext, config: ProposerConfig) -> None:
        assert config.base_url is not None and config.model is not None
        self.context, self.config, self.name = context, config, config.model
        self._endpoint = Endpoint(config.base_url, config.model, config.key_env, config.timeout, "proposer")
        self._requests, self._tokens, self._in_vain = 0, 0, 0
        self._waited = 0.0
        self._way = RequestFormat(0, form=FORMS[0])

    def cost(self) -> float:
        """Expected seconds of waiting for the next answer; 0 if the budget is not time."""
        waits = self.context.spending.budget.kind == "time" and not self._over()
        return min(self._patience(), self._waited or _WAIT_S) if waits else 0.0

    def asked(self, messages: Messages, room: float) -> dict[str, Any]:
        """Ask for new instructions.

        Args:
            messages: the question.
            room: dollars that an answer may cost under a money budget.

        Returns:
            A record for the journal: the answer's ``text``, or the reason as ``failed`` or ``skipped``, and its cost.
        """
        config, tokens = self.config, self.config.tokens - self._tokens
        if over := self._over():
            return {"skipped": over}
        asking = estimate_tokens(messages)
        answer_tokens = min(_ANSWER_TOKENS, tokens - asking)
        if answer_tokens < _LEAST_ANSWER:
            return {"skipped": f"proposer.tokens={config.tokens} leave no room for a question of about {asking} tokens"}
        # A failed try may cost money too.
        tries = min(TRIES, tokens // (asking + answer_tokens))
        dearest = self._paid(Usage(asking, answer_tokens)).get("dollars", 0.0)
        if self.context.spending.budget.kind == "money" and dearest > 0:
            tries = int(min(tries, max(0.0, room) / dearest))
        if tries < 1:
            return {
                "skipped": f"an answer may cost {dearest:.2g} USD, and the budget has less left besides the race and the end"
            }
        self.context.watcher.progress("rewrite", f"{self.name} reads what goes wrong", 0)
        way, calls, patience = replace(self._way, tokens=answer_tokens), config.calls - self._requests, self._patience()
        try:
            with Client(self._endpoint) as client:
                answer = ask(client, messages, way=way, schema=ANSWER_SCHEMA, tries=tries, most=calls, patience=patience)
        except EndpointError as error:
            lost = error.usage
            return {"failed": str(error), "requests": error.requests, "tokens": lost.total, **self._paid(lost)}
        spent = {"requests": answer.requests, "tokens": answer.usage.total, "way": answer.way.to_json()}
        return {"text": answer.text, **spent, **self._paid(answer.usage)}

    def saw(self, value: Mapping[str, Any]) -> None:
        """Count the cost of a recorded step."""
        self.context.spending.account.pay(value)
        self._requests += int(value["requests"])
        self._tokens += int(value["tokens"])
        if value["requests"]:
            self._waited = max(self._waited, float(value.get("seconds", 0.0)))
        if "way" in value:
            self._way = RequestFormat.from_json(value["way"])
        self._in_vain = self._in_vain + 1 if "failed" in value else 0 if value["requests"] else self._in_vain

    def _over(self) -> str:
        """The reason why the endpoint is not asked again; empty if it may be asked."""
        used_up = f"proposer.calls={self.config.calls} are used up" if self._requests >= self.config.calls else ""
        in_vain = f"it gave no answer {self._in_vain} cycles in a row, so it is not asked any more"
        return in_vain if self._in_vain >= _GIVE_UP else used_up

    def _patience(self) -> float:
        """Maximum seconds that a cycle waits for an answer."""
        budget, most = self.context.spending.budget, 2 * self.config.timeout
        return min(most, _SHARE * budget.amount) if budget.kind == "time" else most

    def _paid(self, usage: Usage) -> dict[str, float]:
        prices = prices_of(self.config)
        return {"dollars": round(prices.cost(usage), 9)} if prices else {}
