"""A run whose model answers behind an endpoint: opened, asked how it wants to be asked, and what that costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cotune.config import RunConfig
from cotune.config.endpoints import EndpointSection
from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.journal import Journal
from cotune.cycle.kept import reading_steps
from cotune.embed import Embedder, EndpointEmbedder
from cotune.endpoint import AnswerCache, Client, Endpoint, Prices
from cotune.endpoint.prices import tokens_of
from cotune.endpoint.request_format import FORMS, RequestFormat, answer_tokens
from cotune.errors import BudgetError, InputError
from cotune.model.base import Progress
from cotune.model.remote.model import RemoteModel
from cotune.model.structured.limits import json_schema, most_tokens
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task

ANSWERS = "answers.sqlite"
NOT_TUNED = "the model answers behind an endpoint, where it cannot be tuned"
"""Why a run has no tuned arms; what its summary says."""


def endpoints_of(config: RunConfig) -> dict[str, EndpointSection]:
    """The sections of the config that name an endpoint which this run may ask."""
    named = {"endpoint": config.endpoint, "proposer": config.proposer, "teacher": config.teacher, "judge": config.judge}
    return {
        name: section
        for name, section in named.items()
        if section.base_url is not None and (name != "endpoint" or config.remote_model is not None)
    }


def check_keys(config: RunConfig) -> None:
    """Find a missing key before anything is done, in each session: without one a proposer would only count as failed.

    Raises:
        InputError: an environment variable is not set.
    """
    for name, section in endpoints_of(config).items():
        if section.key_env is not None and not os.environ.get(section.key_env, "").strip():
            raise InputError(
                f"the environment variable {section.key_env} is not set", where=f"{name}.key_env", hint="Set it to the key."
            )


def check_prices(config: RunConfig, budget: Budget) -> None:
    """A budget of money needs a price for whatever is asked.

    Raises:
        BudgetError: the model costs no money, or an endpoint has no price.
    """
    if budget.kind != "money":
        return
    if config.remote_model is None:
        raise BudgetError(
            "a model on this machine costs time, not money",
            where="budget",
            hint="Write for example 10m or 2Mtok, or name a model behind an endpoint.",
        )
    for name, section in endpoints_of(config).items():
        if section.input_price is None:
            raise BudgetError(
                f"a budget of money needs the prices of {name}",
                where="budget",
                hint=f"Set {name}.input_price and {name}.output_price, in US dollars for a million tokens.",
            )


def prices_of(section: EndpointSection) -> Prices | None:
    """The prices of an endpoint; None where the config names none."""
    if section.input_price is None or section.output_price is None:
        return None
    return Prices(section.input_price, section.output_price, section.cached_price)


def open_remote(config: RunConfig, task: Task, seed: Prompt, out: Path, journal: Journal) -> tuple[RemoteModel, dict[str, Any]]:
    """The model, asked as the run's first session found that it can be; recorded as an ``engine`` step.

    Args:
        config: names it.
        task: whose first train row it is tried with, so that the answer is not lost.
        seed: the prompt for it.
        out: the run's folder, where answers are kept.
        journal: of the run.

    Raises:
        EndpointError: it cannot be asked.
        InputError: answers cannot be kept in the folder.
    """
    section, row = config.endpoint, task.train[0].fields
    asked = RequestFormat(
        20 if section.probabilities and not task.output.kind.written else 0, tokens=answer_limit(config, seed, task)
    )
    if json_schema(task.output) is not None:
        asked = replace(asked, form=FORMS[0])
    model = _model(config, out, asked, task)

    def effect() -> dict[str, Any]:
        started = time.monotonic()
        way = model.settle(seed, row, task.labels)
        seconds = time.monotonic() - started
        tokens = model.row_tokens(seed, [row], task.labels)
        rate = tokens / max(seconds, 0.01)
        return {"device": "endpoint", "way": way.to_json(), "tokens_per_s": round(rate, 1), "seconds": round(seconds, 3)}

    key = [section.model_dump(mode="json", include={"base_url", "probabilities", "answer_tokens"}), config.model]
    found: dict[str, Any] = journal.step("engine", key, effect)
    model.way = RequestFormat.from_json(found["way"])
    return model, found


def reopen_remote(config: RunConfig, folder: Path, engine: dict[str, Any], task: Task) -> RemoteModel:
    """The model as a run in ``folder`` asked it; ``engine`` is what that step recorded.

    Raises:
        InputError: the step holds something else.
    """
    with reading_steps(str(folder)):
        way = RequestFormat.from_json(engine["way"])
    return _model(config, folder, way, task)


def remote_costs(budget: Budget, config: RunConfig, found: dict[str, Any]) -> CostModel:
    """What answers cost, before any has been paid for."""
    prices = prices_of(config.endpoint)
    # Answers are short, so nearly all tokens are questions'.
    price = prices.input / 1e6 if prices else 0.0
    return CostModel(budget, max(1.0, float(found["tokens_per_s"])), 1.0, token_price=price)


def embeds_of(config: RunConfig, model: RemoteModel) -> Callable[[Progress | None], Embedder] | None:
    """Makes embedders over the endpoint's ``/embeddings``; None where the config names no model for it."""
    name, answers = config.endpoint.embeddings, model.answers
    if name is None or answers is None:
        return None
    return lambda progress: EndpointEmbedder(model.client, name, answers, patience=config.endpoint.patience, progress=progress)


def _model(config: RunConfig, folder: Path, way: RequestFormat, task: Task) -> RemoteModel:
    section = config.endpoint
    assert section.base_url is not None and config.remote_model is not None
    endpoint = Endpoint(section.base_url, config.remote_model, section.key_env, section.timeout)
    client = Client(endpoint, most=section.concurrency, keep=True)
    return RemoteModel(
        client,
        way=way,
        answers=AnswerCache(folder / ANSWERS),
        prices=prices_of(section),
        patience=section.patience,
        schema=json_schema(task.output),
    )


def answer_limit(config: RunConfig, prompt: Prompt, task: Task) -> int:
    """Tokens that an answer of the model's may have."""
    return config.endpoint.answer_tokens or usual_limit(config, prompt, task)


def usual_limit(config: RunConfig, prompt: Prompt, task: Task) -> int:
    """Tokens that whoever answers behind an endpoint may use, as far as the task says."""
    if task.output.kind.written:
        return config.output.max_tokens or most_tokens(max(tokens_of(row.output) for row in (*task.train, *task.dev)))
    return answer_tokens((*task.labels, *prompt.words(task.labels)))
