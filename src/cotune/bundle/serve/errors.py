"""Errors in the shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from cotune.errors import InputError

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
    """A request that is not answered as asked.

    Args:
        status: HTTP status.
        message: what is wrong and how to fix it.
        code: a word for programs.
        param: key of the body that it is about.
        headers: of the answer.
    """

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
        """As an HTTP answer."""
        return error_response(self.message, self.status, self.headers, code=self.code, param=self.param)


def error_response(
    message: str,
    status: int,
    headers: Mapping[str, str] | None = None,
    *,
    code: str | None = None,
    param: str | None = None,
) -> Response:
    """``{"error": {"message", "type", "param", "code"}}``."""
    shown = message if len(message) <= _LONGEST else message[:_LONGEST] + " ..."
    # A key of the request may hold half a character, which no answer can.
    shown = shown.encode("utf-8", "replace").decode()
    kind = _KINDS.get(status, "invalid_request_error")
    error = {"message": shown, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers=dict(headers or {}))


def wrong_input(error: InputError) -> ApiError:
    """A row or text that cannot be answered."""
    return ApiError(400, str(error), code="invalid_value", param=error.where or None)


def wrong_body(error: ValidationError) -> ApiError:
    """A body that is no JSON, or not as described; the values that were sent are not repeated."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return ApiError(400, f"The body is no JSON that can be read ({found[0]['msg']}).", code="invalid_json")
    places = [".".join(map(str, each["loc"]))[:100] for each in found]
    told = "; ".join(f"{place or 'body'}: {each['msg']}" for place, each in zip(places[:3], found, strict=False))
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return ApiError(400, f"The body is not as described in /docs: {told}{more}.", code="invalid_body", param=places[0] or None)
