"""The backend for models behind an endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.config import RunConfig
from cotune.cycle.backends.base import Backend, Opening, tune_settings
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.endpoints import ANSWERS, answer_limit, client_of, prices_of
from cotune.cycle.journal import Journal
from cotune.cycle.kept import reading_steps, recorded
from cotune.cycle.permissions import Permissions
from cotune.embed import Embedder, EndpointEmbedder, Neighbours
from cotune.endpoint import AnswerCache
from cotune.endpoint.refusals import first_answered, refusal_ignored
from cotune.endpoint.request_format import FORMS, RequestFormat
from cotune.errors import InputError
from cotune.model.base import Progress
from cotune.model.remote.model import RemoteModel
from cotune.model.structured.limits import json_schema
from cotune.prompt.bank import bare_prompt
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example
from cotune.task.task import Task

if TYPE_CHECKING:
    from cotune.cycle.context import RunContext


class EndpointBackend(Backend):
    """A model behind an HTTP API, which cannot be tuned."""

    capabilities = RemoteModel.capabilities
    place = "behind an endpoint"
    alone = "the model is behind an endpoint, which is sent concurrent requests anyway"

    def takes(self, config: RunConfig) -> bool:
        return config.remote_model is not None

    def check(self, config: RunConfig) -> None:
        """Nothing: the endpoint is first asked when it is opened."""

    def open(self, opening: Opening) -> RunContext:
        from cotune.cycle.context import RunContext

        config, task, journal, out = opening.config, opening.task, opening.journal, opening.out
        if not task.measure.needs_answers:
            raise InputError(
                f"an endpoint does not return the likelihood of the right answers, which the metric {task.metric} needs",
                where="metric",
                hint="Name a metric of the answers, or a model on this machine.",
            )
        remote, found = open_remote(config, task, opening.seed, out, journal, opening.resources)
        prices = prices_of(config.endpoint)
        # Until an answer has been paid for: answers are short, so nearly all tokens belong to questions.
        price = prices.input / 1e6 if prices else 0.0
        costs = CostModel(parse_budget(config.budget), max(1.0, float(found["tokens_per_s"])), 1.0, token_price=price)
        tune, embeds = tune_settings(config), _embeds_of(config, remote)
        return RunContext(
            task, remote, journal, costs, out, tune, config.seed, opening.watcher, grader=opening.grader, embeds=embeds
        )

    def reopen(
        self, config: RunConfig, folder: Path, events: list[dict[str, Any]], task: Task, permissions: Permissions
    ) -> RemoteModel:
        engine, start = (recorded(events, kind, str(folder)) for kind in ("engine", "start"))
        with reading_steps(str(folder)):
            way, before = RequestFormat.from_json(engine["way"]), start["model_fingerprint"]
        allowed = config.model_copy(update={"endpoint": permissions.model_endpoint(config, folder)})
        remote = _model(allowed, folder, way, task)
        if remote.fingerprint != before:
            raise InputError("the model is not the one the run was made with", where=config.model)
        remote.chooser = Neighbours()
        return remote


def open_remote(
    config: RunConfig, task: Task, seed: Prompt, out: Path, journal: Journal, resources: ExitStack
) -> tuple[RemoteModel, dict[str, Any]]:
    """Open the model in the request format of the run's first session; recorded as an ``engine`` step.

    Args:
        task: the task; its first train row is the trial question, so that the answer is useful. If an earlier try of the run
            has kept it, or the server refuses it for its content, the bare prompt is tried on dev rows, since it races in any
            case.

    Raises:
        EndpointError: it cannot be asked.
        InputError: answers cannot be kept in the folder.
    """
    section = config.endpoint
    asked = RequestFormat(
        20 if section.probabilities and not task.output.kind.written else 0,
        tokens=answer_limit(config, seed, task),
        form="" if json_schema(task.output) is None else FORMS[0],
    )
    model = resources.enter_context(closing(_model(config, out, asked, task)))
    answers = model.answers
    assert answers is not None

    def settle(question: tuple[Prompt, Example]) -> tuple[RequestFormat, float]:
        prompt, row = question
        started = time.monotonic()
        return model.settle(prompt, row.fields, task.labels), time.monotonic() - started

    def effect() -> dict[str, Any]:
        known = len(answers)
        questions = iter([(seed, task.train[0]), *((bare_prompt(task), row) for row in task.dev)])
        (prompt, row), (way, seconds) = first_answered(settle, questions)
        for question in questions:
            if len(answers) > known:
                break
            with refusal_ignored():
                (prompt, row), (way, seconds) = question, settle(question)
        rate = model.row_tokens(prompt, [row.fields], task.labels) / max(seconds, 0.01)
        return {"device": "endpoint", "way": way.to_json(), "tokens_per_s": round(rate, 1), "seconds": round(seconds, 3)}

    key = [section.model_dump(mode="json", include={"base_url", "probabilities", "answer_tokens"}), config.model]
    found: dict[str, Any] = journal.step("engine", key, effect)
    model.way = RequestFormat.from_json(found["way"])
    return model, found


def _embeds_of(config: RunConfig, model: RemoteModel) -> Callable[[Progress | None], Embedder] | None:
    """A function that creates embedders by the endpoint's ``/embeddings``; None if the config names no model for it."""
    name, answers = config.endpoint.embeddings, model.answers
    if name is None or answers is None:
        return None
    return lambda progress: EndpointEmbedder(model.client, name, answers, patience=config.endpoint.patience, progress=progress)


def _model(config: RunConfig, folder: Path, way: RequestFormat, task: Task) -> RemoteModel:
    section = config.endpoint
    return RemoteModel(
        client_of(section, config.remote_model),
        way=way,
        answers=AnswerCache(folder / ANSWERS),
        prices=prices_of(section),
        patience=section.patience,
        schema=json_schema(task.output),
        keeps_on=True,
    )
