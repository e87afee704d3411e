"""Ask for labels on a page in the browser, served on this machine only."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from importlib.resources import files as package_files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cotune.errors import InputError
from cotune.files import decode_json
from cotune.labelling.keys import label_keys
from cotune.labelling.session import Session
from cotune.report.html import Live
from cotune.report.html.shell import MARK, shell
from cotune.web import ANSWER_POLICY, FRAME_POLICY, LOOPBACK, Guard, ReadyServer, bounded_config, listen

_MOST_CONNECTIONS, _MOST_BODY = 32, 64 * 1024
_BODY = (
    f'<header><div class="bar"><span class="brand">{MARK} cotune label</span><span id="progress" role="status"></span></div>'
    '</header><main><p class="about" id="about"></p><div id="row" class="card" aria-live="polite"></div>'
    '<p id="typing" hidden><input id="typed" autocomplete="off" spellcheck="false" aria-label="Label, or a part of it"></p>'
    '<div id="labels"></div><p class="controls"><button id="skip">Skip <kbd>s</kbd></button>'
    '<button id="undo">Undo <kbd>u</kbd></button><button id="quit">Quit <kbd>q</kbd></button></p>'
    '<p id="told" role="alert"></p></main>'
)


def label_on_page(session: Session, *, port: int = 0, ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve the page on 127.0.0.1 until the person quits on the page or presses Ctrl-C. Call it from the main thread.

    The address contains a token after its ``#``, a part that browsers do not send to servers. The page adds the token to every
    request, so that other users and pages on this machine can neither read rows nor label them.

    Args:
        port: port to listen on; 0 chooses a free one.
        ready: called with the page's address once it can be opened.

    Raises:
        InputError: if the port cannot be opened.
    """
    token = secrets.token_urlsafe(24)
    ends: list[ReadyServer] = []
    with listen(port) as listening:
        port = listening.getsockname()[1]

        def stop() -> None:
            ends[0].should_exit = True

        config = bounded_config(make_app(session, port, token, stop), most=_MOST_CONNECTIONS, log_level="error", drain_s=2)
        ends.append(ReadyServer(config, lambda: ready(f"http://{LOOPBACK}:{port}/#{token}")))
        try:
            ends[0].run(sockets=[listening])
        except KeyboardInterrupt:
            # Ctrl-C is the usual way to quit; all labels are on disk.
            return


def make_app(session: Session, port: int, token: str, stop: Callable[[], None]) -> ASGIApp:
    """The application: the page at ``/``, the current row at ``/state``, and ``/answer``, which receives labels.

    Every request except that for the empty page must carry the token.
    """
    folder = package_files("cotune.labelling") / "assets"
    live = Live((folder / "label.js").read_text("utf-8"), (folder / "label.css").read_text("utf-8"), "")
    page = shell("cotune label", _BODY, live=live)
    lock = threading.Lock()

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers=FRAME_POLICY)

    async def state(request: Request) -> Response:
        return JSONResponse(state_of(session), headers=ANSWER_POLICY)

    async def answer(request: Request) -> Response:
        sent = b""
        async for part in request.stream():
            sent += part
            if len(sent) > _MOST_BODY:
                return JSONResponse({"error": "The request is too long."}, 413, ANSWER_POLICY)
        try:
            body = decode_json(sent)
            do, at, label = body["do"], body["at"], body.get("label")
        except (ValueError, KeyError, TypeError, AttributeError):
            return JSONResponse({"error": "Send do, at and label as JSON."}, 400, ANSWER_POLICY)
        status, found = await run_in_threadpool(_done, session, lock, do, at, label)
        if do == "quit" and status == 200:
            stop()
        return JSONResponse(found, status, ANSWER_POLICY)

    routes = [Route("/", show), Route("/state", state), Route("/answer", answer, methods=["POST"])]
    methods = ("GET", "HEAD", "POST")
    return Guard(Starlette(routes=routes), port=port, methods=methods, token=token, open_paths=("/",))


def _done(session: Session, lock: threading.Lock, do: Any, at: Any, label: Any) -> tuple[int, dict[str, Any]]:
    """Apply an action to a row; if two pages show the same row, the second one gets an error."""
    with lock:
        if at != session.at and do != "quit":
            return 409, {**state_of(session), "error": "This row was labelled on another page; here is the next one."}
        try:
            if do == "label" and isinstance(label, str):
                session.give(label)
            elif do == "skip":
                session.give(None)
            elif do == "undo":
                session.undo()
            elif do != "quit":
                return 400, {"error": "do must be label (with a label), skip, undo or quit."}
        except InputError as error:
            return 400, {**state_of(session), "error": str(error)}
        return 200, state_of(session)


def state_of(session: Session) -> dict[str, Any]:
    """The state that the page shows, as JSON."""
    pick, keyed = session.current, label_keys(session.labels)
    key_of = {} if keyed is None else {label: key for key, label in keyed.items()}
    return {
        "at": session.at,
        "of": len(session.picks),
        "labelled": session.labelled,
        "skipped": session.skipped,
        "agreed": session.agreed,
        "out": str(session.out),
        "keyed": keyed is not None,
        "fields": None if pick is None else [[name, text] for name, text in pick.fields.items()],
        "labels": []
        if pick is None
        else [
            {"label": label, "key": key_of.get(label, ""), "share": pick.shares.get(label, 0.0)}
            for label in (session.labels if keyed is not None else pick.shares)
        ],
        "guess": None if pick is None else pick.guess,
    }
