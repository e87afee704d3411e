"""The application: paths, errors, and the guard at the door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cotune.bundle.serve.batcher import Batcher
from cotune.bundle.serve.chat import chat
from cotune.bundle.serve.embeddings import embeddings
from cotune.bundle.serve.errors import ApiError, error_response
from cotune.bundle.serve.exchange import Gone, Limits, json_response
from cotune.bundle.serve.kind import Ending, ModelStopped, QueueFull
from cotune.bundle.serve.openapi import openapi_document
from cotune.bundle.serve.page import PAGE_POLICY, docs_page
from cotune.bundle.serve.predict import predict
from cotune.bundle.serve.schemas import Health, ModelList
from cotune.bundle.serve.shelf import Shelf
from cotune.web import ANSWER_POLICY, Guard

_LOG = logging.getLogger(__name__)

Handler = Callable[[Request, Shelf, Batcher, Limits], Awaitable[Response]]


def make_app(
    shelf: Shelf,
    batcher: Batcher,
    limits: Limits,
    *,
    address: str,
    port: int,
    loopback: bool,
    names: Collection[str],
    token: str | None,
) -> ASGIApp:
    """The application.

    Args:
        shelf: what is served.
        batcher: who answers.
        limits: of a request.
        address: of the server, as people write it.
        port: that it listens on.
        loopback: whether it listens on 127.0.0.1.
        names: that it answers to besides, as for :class:`Guard`.
        token: that requests must bear; None asks for none.
    """
    document = openapi_document(shelf, limits, token=token is not None)
    page = docs_page(document, address)

    def stopped(error: ModelStopped) -> Response:
        return error_response(f"Nothing can be answered: {error}.", 503, code="model_stopped")

    def post(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await handler(request, shelf, batcher, limits)
            except ApiError as error:
                return error.response()
            except QueueFull as error:
                return ApiError(
                    429,
                    f"Too much is waiting to be answered; come back in {error.retry_after} s.",
                    code="queue_full",
                    headers={"retry-after": str(error.retry_after)},
                ).response()
            except Gone:
                return Response(status_code=499)
            except Ending as error:
                return error_response(f"This is not answered any more: {error}.", 503, {"connection": "close"}, code="ending")
            except ModelStopped as error:
                return stopped(error)
            except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                # Not Exception alone: a panic of the tokenizers, which are written in Rust, is none.
                # The message of an error may hold what was sent, which is written nowhere.
                _LOG.error("a request failed: %s", type(error).__name__)
                return error_response("Something went wrong here; it is not the request's fault.", 500, code="internal")

        return answer

    async def models(request: Request) -> Response:
        return json_response(ModelList(data=shelf.cards()))

    async def model(request: Request) -> Response:
        try:
            return json_response(shelf.card(shelf.find(request.path_params["model"])))
        except ApiError as error:
            return error.response()

    async def health(request: Request) -> Response:
        if not batcher.alive:
            return stopped(ModelStopped())
        return json_response(Health(bundles=len(shelf.served), waiting=batcher.waiting))

    async def openapi(request: Request) -> Response:
        return JSONResponse(document)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page, headers={"content-security-policy": PAGE_POLICY})

    async def wrong_path(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = "There is nothing here; /docs says what there is." if error.status_code == 404 else str(error.detail)
        return error_response(what, error.status_code, error.headers)

    routes = [
        Route("/v1/chat/completions", post(chat), methods=["POST"]),
        Route("/v1/embeddings", post(embeddings), methods=["POST"]),
        Route("/predict", post(predict), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", model),
        Route("/health", health),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: wrong_path})
    app.router.redirect_slashes = False
    return Guard(
        app,
        port=port,
        loopback=loopback,
        names=names,
        methods=None,
        token=token,
        open_paths=("/health",),
        refuse=lambda text, status, headers: error_response(text, status, {**ANSWER_POLICY, **headers}),
    )
