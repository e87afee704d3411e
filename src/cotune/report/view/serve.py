"""Serve a run's page until Ctrl-C."""

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

# A browser keeps about six connections.
_MOST_CONNECTIONS = 128


def view_run(folder: Path, *, port: int = 0, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve a run's page on 127.0.0.1 until Ctrl-C or SIGTERM. Call it from the main thread.

    The run may be in progress in another process, or about to begin. Port 0 chooses a free one; ``ready`` is called with the
    page's address once it can be opened.

    Raises:
        InputError: if the folder is not a run's folder, or the port cannot be opened.
    """
    page = RunPage(folder)
    with listen(port) as listening:
        port = listening.getsockname()[1]
        config = bounded_config(make_app(page, port), most=_MOST_CONNECTIONS, log_level="error", drain_s=2)
        try:
            ReadyServer(config, lambda: ready(f"http://{LOOPBACK}:{port}/")).run(sockets=[listening])
        except KeyboardInterrupt:
            # Ctrl-C is the usual way to quit; the server has shut down gracefully by now.
            return


def make_app(page: RunPage, port: int) -> ASGIApp:
    """The application: the page at ``/``, and its current version at ``/state``."""

    async def show(request: Request) -> Response:
        shown = await run_in_threadpool(page.current)
        return HTMLResponse(shown.html, headers=FRAME_POLICY)

    async def state(request: Request) -> Response:
        shown = await run_in_threadpool(page.current)
        return JSONResponse({"version": shown.version, "error": shown.error}, headers=ANSWER_POLICY)

    return Guard(Starlette(routes=[Route("/", show), Route("/state", state)]), port=port)


def open_browser(address: str) -> None:
    """Open the page in a browser with a window, but not in a text browser, which would take over the terminal."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))):
        return
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
