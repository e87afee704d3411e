"""The server of a run's page, from the socket to Ctrl-C."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cotune.report.view.pages import RunPage
from cotune.web import ANSWER_POLICY, FRAME_POLICY, LOOPBACK, Guard, ReadyServer, bounded_config, listen

# A browser holds about six.
_MOST_CONNECTIONS = 128


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
    with listen(port) as listening:
        port = listening.getsockname()[1]
        config = bounded_config(make_app(page, port), most=_MOST_CONNECTIONS, log_level="error", drain_s=2)
        try:
            ReadyServer(config, lambda: ready(f"http://{LOOPBACK}:{port}/")).run(sockets=[listening])
        except KeyboardInterrupt:
            # Ctrl-C is how one leaves, and the server has shut down in order before it is told here.
            return


def make_app(page: RunPage, port: int) -> ASGIApp:
    """The application: the page at ``/``, and at ``/state`` whether there is a newer one."""

    async def show(request: Request) -> Response:
        shown = await run_in_threadpool(page.current)
        return HTMLResponse(shown.html, headers=FRAME_POLICY)

    async def state(request: Request) -> Response:
        shown = await run_in_threadpool(page.current)
        return JSONResponse({"version": shown.version, "error": shown.error}, headers=ANSWER_POLICY)

    return Guard(Starlette(routes=[Route("/", show), Route("/state", state)]), port=port)


def open_browser(address: str) -> None:
    """Open the page where there is a browser with a window; never one that would take over the terminal."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))):
        return
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
