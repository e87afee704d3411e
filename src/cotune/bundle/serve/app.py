"""The web application: routes, error handling and access control."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cotune.bundle.serve.batcher import Batcher
from cotune.bundle.serve.chat import chat
from cotune.bundle.serve.embeddings import embeddings
from cotune.bundle.serve.errors import always, error_response
from cotune.bundle.serve.exchange import Exchange, Limits, json_response
from cotune.bundle.serve.kind import ModelStopped
from cotune.bundle.serve.openapi import openapi_document, operations
from cotune.bundle.serve.page import PAGE_POLICY, docs_page
from cotune.bundle.serve.predict import predict
from cotune.bundle.serve.schemas import Health, ModelList
from cotune.bundle.serve.shelf import Shelf
from cotune.web import ANSWER_POLICY, Guard

Handler = Callable[[Exchange], Awaitable[Response]]


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
    """The application; ``names`` and ``loopback`` as for :class:`Guard`, ``address`` for the examples on its page."""

    def asked(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        return lambda request: handler(Exchange(request, shelf, batcher, limits))

    async def models(request: Request) -> Response:
        return json_response(ModelList(data=list(map(shelf.card, shelf.served.values()))))

    async def model(request: Request) -> Response:
        return json_response(shelf.card(shelf.find(request.path_params["model"])))

    async def health(request: Request) -> Response:
        if not batcher.alive:
            raise ModelStopped
        return json_response(Health(bundles=len(shelf.served), waiting=batcher.waiting))

    async def openapi(request: Request) -> Response:
        return JSONResponse(document)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page, headers={"content-security-policy": PAGE_POLICY})

    async def start(request: Request) -> Response:
        return RedirectResponse("docs")

    async def wrong_path(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = "There is nothing here; see /docs." if error.status_code == 404 else str(error.detail)
        return error_response(what, error.status_code, error.headers)

    answers = {
        "predict": asked(predict),
        "chat": asked(chat),
        "embed": asked(embeddings),
        "models": models,
        "model": model,
        "health": health,
    }
    told = operations(shelf)
    document = openapi_document(told, shelf, limits, token=token is not None)
    page = docs_page(document, address)
    routes = [Route(each.path, always(answers[each.name]), methods=[each.method]) for each in told]
    # The printed address is clicked on.
    routes += [Route("/openapi.json", openapi), Route("/docs", docs), Route("/", start)]
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
