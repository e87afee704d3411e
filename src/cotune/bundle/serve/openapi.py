"""The OpenAPI document, made from the models that requests are read with and answers are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import models_json_schema

from cotune.bundle.serve import schemas
from cotune.bundle.serve.exchange import Limits
from cotune.bundle.serve.shelf import Served, Shelf
from cotune.version import __version__

_REF = "#/components/schemas/"
_SENT: tuple[type[BaseModel], ...] = (schemas.ChatRequest, schemas.EmbeddingRequest)
_RETURNED: tuple[type[BaseModel], ...] = (
    schemas.ChatResponse,
    schemas.EmbeddingResponse,
    schemas.ModelList,
    schemas.ModelCard,
    schemas.Predicted,
    schemas.PredictedRows,
    schemas.Health,
    schemas.Error,
)
_ERRORS = {
    400: "The body is no JSON, not as described, or holds what cannot be answered.",
    401: "The token is missing or wrong.",
    403: "Another site's page may not ask here.",
    404: "There is no such bundle, or no such path.",
    408: "The body took too long to arrive.",
    413: "The body is too long.",
    421: "The Host header is not this server's.",
    429: "The queue is full; `Retry-After` says when to come back.",
    500: "Something went wrong here.",
    503: "The model has stopped, and the server must be restarted; or the server is ending.",
}


def openapi_document(shelf: Shelf, limits: Limits, *, token: bool) -> dict[str, Any]:
    """The document as JSON.

    Args:
        shelf: what is served; each bundle's row becomes a schema.
        limits: that descriptions name.
        token: whether one is asked for.
    """
    served = list(shelf.served.values())
    rows = [_row_models(each, number) for number, each in enumerate(served, 1)]
    bodies = [body for pair in rows for body in pair]
    sent = [(model, "validation") for model in (*_SENT, *bodies)]
    returned = [(model, "serialization") for model in _RETURNED]
    _, found = models_json_schema([*sent, *returned], ref_template=_REF + "{model}")  # type: ignore[list-item]
    definitions = found["$defs"]
    for model in ("ChatRequest", "EmbeddingRequest"):
        definitions[model]["properties"]["model"]["examples"] = list(shelf.served)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "cotune",
            "version": __version__,
            "description": "Bundles of prompt, adapter and decision rule, served as OpenAI's API and by their own fields. "
            f"Bodies have at most {limits.body_bytes:,} bytes and {limits.rows} rows.",
        },
        "paths": _paths(served, rows),
        "components": {"schemas": dict(sorted(definitions.items()))},
    }
    if token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        document["paths"]["/health"]["get"]["security"] = []
    return document


def _row_models(served: Served, number: int) -> tuple[type[BaseModel], type[BaseModel]]:
    """A bundle's row and list of rows as models; their fields have the task's own names, whatever characters those hold."""
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


def _paths(served: Sequence[Served], rows: Sequence[tuple[type[BaseModel], type[BaseModel]]]) -> dict[str, Any]:
    names = [each.id for each in served]
    single: dict[str, Any] = _content("Predicted")
    either = {"anyOf": [_ref("Predicted"), _ref("PredictedRows")]}
    return {
        "/predict": {
            "post": {
                "operationId": "predict",
                "summary": "Answer one row, or several under `rows`, by the task's own fields.",
                "parameters": [
                    {
                        "name": "bundle",
                        "in": "query",
                        "required": len(served) > 1,
                        "description": "Which bundle; may also stand in the body. Not needed where only one is served.",
                        "schema": {"type": "string", "enum": names},
                    }
                ],
                "requestBody": _body({"anyOf": [_ref(model.__name__) for pair in rows for model in pair]}),
                "responses": _answers({"description": single["description"], "content": _json(either)}, *_POSTED),
            }
        },
        "/v1/chat/completions": {
            "post": {
                "operationId": "chat",
                "summary": "The last user message is the input (of several fields a JSON object), the answer the assistant's.",
                "requestBody": _body(_ref("ChatRequest")),
                "responses": _answers(
                    {
                        "description": "The answer; with `stream` as server-sent events, all of it in one of them.",
                        # Version 3.1 has no words for what an event holds.
                        "content": {**_json(_ref("ChatResponse")), "text/event-stream": {}},
                    },
                    *_POSTED,
                ),
            }
        },
        "/v1/embeddings": {
            "post": {
                "operationId": "embed",
                "summary": "Embed texts with the base model.",
                "requestBody": _body(_ref("EmbeddingRequest")),
                "responses": _answers(_content("EmbeddingResponse"), *_POSTED),
            }
        },
        "/v1/models": {
            "get": {
                "operationId": "models",
                "summary": "The bundles that are served.",
                "responses": _answers(_content("ModelList"), *_GOT),
            }
        },
        "/v1/models/{model}": {
            "get": {
                "operationId": "model",
                "summary": "One bundle.",
                "parameters": [
                    {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}, "example": names[0]}
                ],
                "responses": _answers(_content("ModelCard"), *_GOT, 404),
            }
        },
        "/health": {
            "get": {
                "operationId": "health",
                "summary": "Whether the server lives, and how much waits.",
                "responses": _answers(_content("Health"), 403, 421, 503),
            }
        },
    }


_GOT = (401, 403, 421)
_POSTED = (400, 401, 403, 404, 408, 413, 421, 429, 500, 503)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF + name}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _content(name: str) -> dict[str, Any]:
    return {"description": "The answer.", "content": _json(_ref(name))}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": _json(schema)}


def _answers(good: dict[str, Any], *errors: int) -> dict[str, Any]:
    table: dict[str, Any] = {"200": good}
    for status in errors:
        table[str(status)] = {"description": _ERRORS[status], "content": _json(_ref("Error"))}
    if 429 in errors:
        table["429"]["headers"] = {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}}
    return table
