"""Reading a request's body and getting its rows answered, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from cotune.bundle.serve.batcher import Batcher
from cotune.bundle.serve.errors import ApiError, wrong_body
from cotune.bundle.serve.kind import Gone, Kind
from cotune.bundle.serve.room import Arriving
from cotune.bundle.serve.shelf import Shelf

R = TypeVar("R")
V = TypeVar("V")

# So many bytes beyond the limit are read and discarded, so that the client can read the error.
_MOST_DISCARDED = 32 * 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
        body_bytes: most bytes of its body.
        body_s: seconds within which the body must arrive.
        rows: most rows or texts in a request.
    """

    body_bytes: int = 2**20
    body_s: float = 30.0
    rows: int = 256


@dataclass(frozen=True)
class Exchange:
    """A request, and what answers it."""

    request: Request
    shelf: Shelf
    batcher: Batcher
    limits: Limits

    async def taken(self, read: Callable[[bytearray], V]) -> V:
        """Receive and parse the body; returns what ``read`` extracts.

        The body is freed afterwards, because the parsed values may need many times its size.

        Args:
            read: parses the body and checks its rows; for a long body it is called on the thread for long texts.

        Raises:
            ApiError: if it is too long (413) or takes too long (408).
            QueueFull: if too many items are waiting.
            Gone: if the client disconnected.
        """
        body = Arriving(self.batcher.room)
        try:
            await _read_body(self.request, self.limits, body)
            body.check()
            return await self.batcher.long_texts.aside(len(body.data), lambda: read(body.data))
        finally:
            body.release()

    def checked(self, given: Sequence[Any], check: Callable[[int, Any], R]) -> list[R]:
        """Items that ``check`` makes of each place and row or text; an :class:`ApiError` if there are too many."""
        most = min(self.limits.rows, self.batcher.most_waiting)
        if len(given) > most:
            raise ApiError(400, f"There are {len(given)} rows, and {most} are allowed in a request.", code="too_many_rows")
        return [check(place, each) for place, each in enumerate(given)]

    async def answered(self, kind: Kind, items: Sequence[Any]) -> list[Any]:
        """Have the items answered by the model's thread.

        Raises:
            InputError: if one of the items cannot be answered.
            QueueFull: if too many items are waiting.
            Gone: if the client disconnected; items that had not started are dropped.
        """
        answer = asyncio.ensure_future(_run(self.batcher, kind, items))
        gone = asyncio.ensure_future(_hung_up(self.request))
        try:
            both: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise Gone
            return answer.result()
        finally:
            gone.cancel()
            answer.cancel()


async def _read_body(request: Request, limits: Limits, body: Arriving) -> None:
    said = request.headers.get("content-length", "")
    long, most = said.isdigit() and int(said[:20]) > limits.body_bytes, limits.body_bytes + _MOST_DISCARDED
    if long and (int(said[:20]) > most or "expect" in request.headers):
        raise _too_long(limits)
    size = 0
    try:
        async with asyncio.timeout(limits.body_s):
            more = True
            while more and size <= most:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                piece = message.get("body", b"")
                size += len(piece)
                if size <= limits.body_bytes:
                    body.add(piece)
                more = message.get("more_body", False)
    except TimeoutError:
        raise ApiError(
            408, f"The body took more than {limits.body_s:g} s to arrive.", code="timeout", headers={"connection": "close"}
        ) from None
    if size > limits.body_bytes:
        raise _too_long(limits)


def _too_long(limits: Limits) -> ApiError:
    return ApiError(
        413,
        f"The body is longer than {limits.body_bytes:,} bytes; send fewer rows in a request.",
        code="body_too_long",
        headers={"connection": "close"},
    )


def parsed(validate: Callable[[bytearray], V], body: bytearray) -> V:
    """Parse a body by a pydantic model or type adapter; raises ApiError 400 if it does not fit."""
    try:
        return validate(body)
    except ValidationError as error:
        raise wrong_body(error) from None


async def _run(batcher: Batcher, kind: Kind, items: Sequence[Any]) -> list[Any]:
    items, cut = await batcher.long_texts.shortened(kind, items)
    job = batcher.submit(kind, items)
    try:
        found = await asyncio.wrap_future(job.future)
    finally:
        job.abandon()
    return [each.cut() if place in cut else each for place, each in enumerate(found)]


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def json_response(body: BaseModel) -> Response:
    return Response(body.model_dump_json(by_alias=True), media_type="application/json")
