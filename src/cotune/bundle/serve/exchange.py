"""From a request's bytes to a body, and from a body's rows to the model's answers, all of it bounded."""

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

R = TypeVar("R")
V = TypeVar("V")

# What is too long is read on and thrown away up to here, so that the client gets to read why it was refused.
_MOST_DISCARDED = 32 * 2**20


@dataclass(frozen=True)
class Limits:
    """How much a request may ask for.

    Attributes:
        body_bytes: of its body.
        body_s: seconds in which the body must have arrived.
        rows: rows or texts in one request.
    """

    body_bytes: int = 2**20
    body_s: float = 30.0
    rows: int = 256


async def taken(request: Request, batcher: Batcher, limits: Limits, read: Callable[[bytearray], V]) -> V:
    """What ``read`` takes from the body, which is kept no longer: parsed, it may need many times its bytes.

    Args:
        request: whose body.
        batcher: who will answer.
        limits: of the request.
        read: parses the body and checks its rows; of a long body on the thread of long texts.

    Raises:
        ApiError: 413 where it is too long, 408 where it takes too long; or ``read`` refuses it.
        InputError: ``read`` refuses a row.
        QueueFull: too much waits.
        Gone: the client hung up.
    """
    body = Arriving(batcher.room)
    try:
        await _read_body(request, limits, body)
        body.check()
        return await batcher.long_texts.aside(len(body.data), lambda: read(body.data))
    finally:
        body.release()


async def _read_body(request: Request, limits: Limits, body: Arriving) -> None:
    said = request.headers.get("content-length", "")
    long = said.isdigit() and int(said[:20]) > limits.body_bytes
    if long and (int(said[:20]) > _MOST_DISCARDED or "expect" in request.headers):
        raise _too_long(limits)
    size = 0
    try:
        async with asyncio.timeout(limits.body_s):
            more = True
            while more and size <= _MOST_DISCARDED:
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
        f"The body is longer than {limits.body_bytes:,} bytes; send fewer rows at once.",
        code="body_too_long",
        headers={"connection": "close"},
    )


def parsed(validate: Callable[[bytearray], V], body: bytearray) -> V:
    """A body as a model or type adapter of pydantic has it from JSON; ApiError 400 where it is not as described."""
    try:
        return validate(body)
    except ValidationError as error:
        raise wrong_body(error) from None


def checked(given: Sequence[Any], check: Callable[[int, Any], R], batcher: Batcher, limits: Limits) -> list[R]:
    """Each of the given rows or texts as ``check`` makes it, which is told its place and what it is.

    Args:
        given: rows or texts as they came.
        check: raises InputError where one cannot be answered.
        batcher: who will answer.
        limits: of the request.

    Raises:
        ApiError: they are too many.
        InputError: ``check`` refuses one.
    """
    most = min(limits.rows, batcher.most_waiting)
    if len(given) > most:
        raise ApiError(400, f"There are {len(given)} rows, and {most} may be asked at once.", code="too_many_rows")
    return [check(place, each) for place, each in enumerate(given)]


async def answered(request: Request, batcher: Batcher, kind: Kind, items: Sequence[Any]) -> list[Any]:
    """What the model's thread makes of the items.

    Raises:
        InputError: one of the items cannot be answered.
        QueueFull: too much waits.
        Gone: the client hung up; what had not begun is dropped.
    """
    answer = asyncio.ensure_future(_run(batcher, kind, items))
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        both: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise Gone
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()


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
    """A model of pydantic as an HTTP answer."""
    return Response(body.model_dump_json(by_alias=True), media_type="application/json")
