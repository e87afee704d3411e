"""The operations of the API, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import models_json_schema

from cotune.bundle.serve import schemas
from cotune.bundle.serve.exchange import Limits
from cotune.bundle.serve.shelf import Served, Shelf
from cotune.version import __version__

_REF = "#/components/schemas/"
_ERRORS = {
    400: "The body is not JSON, does not fit the schema, or holds a row that cannot be answered.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site.",
    404: "Unknown bundle or path.",
    408: "The body took too long to arrive.",
    413: "The body is too long.",
    421: "The Host header is not this server's.",
    429: "The queue is full; `Retry-After` says when to try again.",
    500: "Internal error.",
    503: "The model has stopped and the server must be restarted, or the server is shutting down.",
}
_GOT = (401, 403, 421)
_POSTED = (400, 401, 403, 404, 408, 413, 421, 429, 500, 503)


@dataclass(frozen=True)
class Operation:
    """An operation of the API, for routing and for the OpenAPI document.

    Attributes:
        path: path in Starlette's syntax.
        gives: models of the response, any of them.
        errors: statuses of errors.
        takes: models of the body, any of them; empty without a body.
        parameters: parameters of query and path, in OpenAPI's format.
        streams: whether the response may be a stream of events.
    """

    name: str
    method: str
    path: str
    summary: str
    gives: tuple[type[BaseModel], ...]
    errors: tuple[int, ...]
    takes: tuple[type[BaseModel], ...] = ()
    parameters: tuple[dict[str, Any], ...] = ()
    streams: bool = False


def operations(shelf: Shelf) -> list[Operation]:
    """All operations; the body of a row has a schema for each bundle."""
    names = list(shelf.served)
    rows = tuple(body for number, each in enumerate(shelf.served.values(), 1) for body in _row_models(each, number))
    bundle = {
        "name": "bundle",
        "in": "query",
        # Required nowhere, because it may be in the body.
        "required": False,
        "description": "Id of the bundle, here or as `bundle` in the body. Not needed if only one is served.",
        "schema": {"type": "string", "enum": names},
    }
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}, "example": names[0]}
    row_told = "Answer one row, given by the task's fields, or several under `rows`."
    chat_told = "The last user message is the input (a JSON object for several fields); the assistant's message is the answer."
    health_told = "Whether the server is running, and how many rows are waiting."
    either = (schemas.Predicted, schemas.PredictedRows)
    chat, embedding = (schemas.ChatRequest,), (schemas.EmbeddingRequest,)
    vectors = (schemas.EmbeddingResponse,)
    return [
        Operation("predict", "POST", "/predict", row_told, either, _POSTED, rows, (bundle,)),
        Operation("chat", "POST", "/v1/chat/completions", chat_told, (schemas.ChatResponse,), _POSTED, chat, streams=True),
        Operation("embed", "POST", "/v1/embeddings", "Embed texts with the base model.", vectors, _POSTED, embedding),
        Operation("models", "GET", "/v1/models", "The served bundles.", (schemas.ModelList,), _GOT),
        Operation(
            "model", "GET", "/v1/models/{model:path}", "One bundle.", (schemas.ModelCard,), (*_GOT, 404), parameters=(model,)
        ),
        Operation("health", "GET", "/health", health_told, (schemas.Health,), (403, 421, 503)),
    ]


def openapi_document(told: Sequence[Operation], shelf: Shelf, limits: Limits, *, token: bool) -> dict[str, Any]:
    """The OpenAPI document as JSON; ``token`` is whether one is required."""
    sent = [(model, "validation") for each in told for model in each.takes]
    returned = [(model, "serialization") for each in told for model in each.gives]
    every: Any = [*sent, *returned, (schemas.Error, "serialization")]
    _, found = models_json_schema(every, ref_template=_REF + "{model}")
    definitions = found["$defs"]
    for name in ("ChatRequest", "EmbeddingRequest"):
        definitions[name]["properties"]["model"]["examples"] = list(shelf.served)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "cotune",
            "version": __version__,
            "description": "Bundles of prompt, adapter and decision rule, served by OpenAI's API and by the tasks' fields. "
            f"Bodies have at most {limits.body_bytes:,} bytes and {limits.rows} rows.",
        },
        "paths": {each.path.replace(":path}", "}"): {each.method.lower(): _described(each)} for each in told},
        "components": {"schemas": dict(sorted(definitions.items()))},
    }
    if token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        document["paths"]["/health"]["get"]["security"] = []
    return document


def _row_models(served: Served, number: int) -> tuple[type[BaseModel], type[BaseModel]]:
    """Models of a bundle's row and list of rows; their fields have the task's own names, with any characters."""
    fields: dict[str, Any] = {
        f"field_{i}": (Annotated[schemas.Cell, Field(alias=name, title=name)], ...)
        for i, name in enumerate(served.predictor.input_fields)
    }
    config = ConfigDict(extra="ignore", title=f"Row of {served.id}")
    row: type[BaseModel] = create_model(f"Row{number}", __config__=config, **fields)
    several: Any = Annotated[list[row], Field(min_length=1)]  # type: ignore[valid-type]
    rows: type[BaseModel] = create_model(
        f"Rows{number}", __config__=ConfigDict(extra="ignore", title=f"Rows of {served.id}"), rows=(several, ...)
    )
    return row, rows


def _described(told: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "The answer.", "content": _content(*told.gives)}
    if told.streams:
        good["description"] = "The answer; with `stream` as server-sent events, one of which has the whole answer."
        # OpenAPI 3.1 cannot describe the content of events.
        good["content"]["text/event-stream"] = {}
    answers = {"200": good}
    for status in told.errors:
        answers[str(status)] = {"description": _ERRORS[status], "content": _content(schemas.Error)}
    if 429 in told.errors:
        answers["429"]["headers"] = {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}}
    about: dict[str, Any] = {"operationId": told.name, "summary": told.summary, "responses": answers}
    if told.parameters:
        about["parameters"] = list(told.parameters)
    if told.takes:
        about["requestBody"] = {"required": True, "content": _content(*told.takes)}
    return about


def _content(*models: type[BaseModel]) -> dict[str, Any]:
    refs = [{"$ref": _REF + model.__name__} for model in models]
    return {"application/json": {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}}
