"""The server of a run's page, from the socket to Ctrl-C."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cotune.errors import InputError
from cotune.report.view.guard import Guard
from cotune.report.view.pages import RunPage

HOST = "127.0.0.1"


def view_run(folder: Path, *, port: int = 0, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve a run's page on 127.0.0.1 until Ctrl-C or SIGTERM; to be called from the main thread.

    Args:
        folder: the run's folder; the run may be going on in another process, or be about to begin.
        port: to listen on; 0 takes a free one.
        ready: called with the page's address once a browser can ask for it.

    Raises:
        InputError: the folder is not a run's, or the port cannot be had.
    """
    page = RunPage(folder)
    with _listen(port) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            make_app(page, port),
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
        try:
            _Server(config, lambda: ready(f"http://{HOST}:{port}/")).run(sockets=[listening])
        except KeyboardInterrupt:
            # Ctrl-C is how one leaves, and the server has shut down in order before it is told here.
            return


class _Server(uvicorn.Server):
    """Says when it is ready: signals are handled by then, so that whoever reads the address may end it at once."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def make_app(page: RunPage, port: int) -> ASGIApp:
    """The application: the page at ``/``, and at ``/state`` whether there is a newer one."""

    async def show(request: Request) -> Response:
        shown = await run_in_threadpool(page.current)
        # The page carries its own policy; here stands what a page cannot say of itself.
        return HTMLResponse(shown.html, headers={"content-security-policy": "frame-ancestors 'none'"})

    async def state(request: Request) -> Response:
        shown = await run_in_threadpool(page.current)
        headers = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'"}
        return JSONResponse({"version": shown.version, "error": shown.error}, headers=headers)

    return Guard(Starlette(routes=[Route("/", show), Route("/state", state)]), port=port)


def open_browser(address: str) -> None:
    """Open the page where there is a browser with a window; never one that would take over the terminal."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))):
        return
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # A port that was left a moment ago is free; elsewhere the option would share one that is in use.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise InputError(
            f"the port {why}", where=f"--port {port}", mend="Leave --port out to get a free one, or give another."
        ) from error
    return listening
