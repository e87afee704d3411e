"""The endpoints that a run may ask: their keys, their prices, and the maximum length of answers."""

from __future__ import annotations

import os

from cotune.config import RunConfig
from cotune.config.endpoints import EndpointSection, JudgeConfig, ModelEndpoint, TeacherConfig
from cotune.cycle.budget.budget import Budget
from cotune.endpoint import Client, Endpoint, Prices
from cotune.endpoint.prices import tokens_of
from cotune.endpoint.request_format import answer_tokens
from cotune.errors import BudgetError, InputError
from cotune.model.structured.limits import most_tokens
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task

ANSWERS = "answers.sqlite"
NOT_TUNED = "the model answers behind an endpoint, where it cannot be tuned"
"""Reason in the summary of a run without tuned arms."""


def check_keys(config: RunConfig) -> None:
    """Check in each session that no key is missing; without its key a proposer would only count as failed.

    Raises:
        InputError: an environment variable is not set.
    """
    for name, section in config.asked.items():
        if section.key_env is not None and not os.environ.get(section.key_env, "").strip():
            raise InputError(
                f"the environment variable {section.key_env} is not set", where=f"{name}.key_env", hint="Set it to the key."
            )


def check_prices(config: RunConfig, budget: Budget) -> None:
    """Check that all endpoints have prices if the budget is money.

    Raises:
        BudgetError: the model costs no money, or an endpoint has no price.
    """
    if budget.kind != "money":
        return
    if "endpoint" not in config.asked:
        raise BudgetError(
            "a model on this machine costs time, not money",
            where="budget",
            hint="Write for example 10m or 2Mtok, or name a model behind an endpoint.",
        )
    for name, section in config.asked.items():
        if section.input_price is None:
            raise BudgetError(
                f"a budget of money needs the prices of {name}",
                where="budget",
                hint=f"Set {name}.input_price and {name}.output_price, in US dollars for a million tokens.",
            )


def client_of(section: TeacherConfig | JudgeConfig | ModelEndpoint, model: str | None, name: str = "endpoint") -> Client:
    """A client of the endpoint that the section ``name`` of the config names.

    Raises:
        EndpointError: its key is missing, or its address cannot be used.
    """
    assert section.base_url is not None and model is not None
    endpoint = Endpoint(section.base_url, model, section.key_env, section.timeout, name)
    return Client(endpoint, most=section.concurrency, keep=True)


def prices_of(section: EndpointSection) -> Prices | None:
    """The prices of an endpoint; None if the config names none."""
    if section.input_price is None or section.output_price is None:
        return None
    return Prices(section.input_price, section.output_price, section.cached_price)


def answer_limit(config: RunConfig, prompt: Prompt, task: Task) -> int:
    """Maximum tokens of an answer of the model."""
    return config.endpoint.answer_tokens or usual_limit(config, prompt, task)


def usual_limit(config: RunConfig, prompt: Prompt, task: Task) -> int:
    """Maximum tokens of an answer of any endpoint, by the task."""
    if task.output.kind.written:
        return config.output.max_tokens or most_tokens(max(tokens_of(row.output) for row in (*task.train, *task.dev)))
    return answer_tokens((*task.labels, *prompt.words(task.labels)))
