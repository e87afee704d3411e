"""``/predict``: takes the task's fields; returns answer, probabilities and the bundle's id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError
from starlette.requests import Request
from starlette.responses import Response

from cotune.bundle.rows import checked_row
from cotune.bundle.serve.errors import ApiError
from cotune.bundle.serve.exchange import Exchange, json_response, parsed
from cotune.bundle.serve.schemas import Predicted, PredictedRows, RowAnswer
from cotune.bundle.serve.shelf import Served, Shelf
from cotune.bundle.serve.work import Answered
from cotune.errors import InputError
from cotune.task.values.output import Output

_VALUE: TypeAdapter[Any] = TypeAdapter(Any)
_BODY: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


async def predict(exchange: Exchange) -> Response:
    """Answer one row, whose fields are the body's keys, or a list of them under ``rows``."""
    served, items, several = await exchange.taken(lambda sent: _asked(exchange, sent))
    answers = [row_answer(each, served.predictor.output) for each in await exchange.answered(served.sure, items)]
    if several:
        return json_response(PredictedRows(bundle=served.id, rows=answers))
    return json_response(Predicted(bundle=served.id, **answers[0].model_dump()))


def _asked(exchange: Exchange, sent: bytearray) -> tuple[Served, list[dict[str, str]], bool]:
    """The bundle, the rows, and whether they were a list."""
    body = parsed(_BODY.validate_json, sent)
    served = _bundle(exchange.request, body, exchange.shelf)
    rows, fields = body.get("rows"), served.predictor.input_fields
    if not isinstance(rows, list):
        return served, [checked_row(body, fields, "body")], False
    if not rows:
        raise InputError("there are no rows", where="rows", hint="Give at least one.")
    return served, exchange.checked(rows, lambda place, row: checked_row(row, fields, f"rows.{place}")), True


def _bundle(request: Request, body: Mapping[str, Any], shelf: Shelf) -> Served:
    """The bundle of the query, else of the body, else the only one."""
    if "bundle" in request.query_params:
        return shelf.find(request.query_params["bundle"], "bundle")
    only = next(iter(shelf.served.values())) if len(shelf.served) == 1 else None
    name = body.get("bundle")
    if only is not None and (name is None or "bundle" in only.predictor.input_fields):
        return only
    if not isinstance(name, str):
        raise ApiError(
            400, "Give the bundle's id as 'bundle'; /v1/models lists the ids.", code="missing_bundle", param="bundle"
        )
    return shelf.find(name, "bundle")


def row_answer(found: Answered, output: Output) -> RowAnswer:
    """A row's answer with its value."""
    one = found.prediction
    return RowAnswer(
        answer=one.answer,
        value=None if one.answer is None else _sayable(output.kind.plain_value(one.answer)),
        possible=list(one.possible),
        probabilities=one.probabilities,
        confidence=one.confidence,
        truncated=one.truncated,
        ended=one.ended,
    )


def _sayable(value: Any) -> Any:
    """The value; None if it cannot be written as JSON."""
    try:
        _VALUE.dump_json(value)
    except PydanticSerializationError:
        # Nested too deeply.
        return None
    return value
