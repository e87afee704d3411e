"""Errors in the format of OpenAI's API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cotune.bundle.serve.kind import Ending, Gone, ModelStopped, QueueFull
from cotune.errors import InputError

_LOG = logging.getLogger(__name__)
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
_LONGEST = 500


class ApiError(Exception):
    """A request that is refused, with the problem and how to fix it; ``code`` is for programs, ``param`` a key of the body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The error as an HTTP response."""
        return error_response(self.message, self.status, self.headers, code=self.code, param=self.param)


def error_response(
    message: str, status: int, headers: Mapping[str, str] | None = None, *, code: str | None = None, param: str | None = None
) -> Response:
    """``{"error": {"message", "type", "param", "code"}}``."""
    shown = message if len(message) <= _LONGEST else message[:_LONGEST] + " ..."
    # A key of the request may contain a lone surrogate, which cannot be encoded.
    shown = shown.encode("utf-8", "replace").decode()
    kind = _KINDS.get(status, "invalid_request_error")
    error = {"message": shown, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers=dict(headers or {}))


def always(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The application with a response to every error."""

    async def answered(request: Request) -> Response:
        try:
            return await answer(request)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # BaseException, since a panic of the tokenizers, which are written in Rust, is not an Exception.
            return _response_to(error)

    return answered


def _response_to(error: BaseException) -> Response:
    match error:
        case ApiError():
            return error.response()
        case InputError():
            return error_response(str(error), 400, code="invalid_value", param=error.where or None)
        case QueueFull(retry_after=seconds):
            text = f"Too many rows are waiting; try again in {seconds} s."
            return error_response(text, 429, {"retry-after": str(seconds)}, code="queue_full")
        case Gone():
            return Response(status_code=499)
        case Ending():
            return error_response(f"The request was not answered: {error}.", 503, {"connection": "close"}, code="ending")
        case ModelStopped():
            return error_response(f"No request can be answered: {error}.", 503, code="model_stopped")
    # Do not log the error's message, since it may contain the request.
    _LOG.error("a request failed: %s", type(error).__name__)
    return error_response("Internal error; the request is not the cause.", 500, code="internal")


def wrong_body(error: ValidationError) -> ApiError:
    """The error for a body that is not JSON or does not fit the schema; it does not repeat the values that were sent."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON ({found[0]['msg']}).", code="invalid_json")
    places = [".".join(map(str, each["loc"]))[:100] for each in found]
    told = "; ".join(f"{place or 'body'}: {each['msg']}" for place, each in zip(places[:3], found, strict=False))
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    what = f"The body does not fit the schema in /docs: {told}{more}."
    return ApiError(400, what, code="invalid_body", param=places[0] or None)
