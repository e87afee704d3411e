"""Who may ask: only pages and people on this machine that mean this server."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Lets a request through to ``app`` if it is addressed to this very server and only reads.

    A web page from elsewhere can have a browser ask a server on this machine. Where it does so under a name of its own that
    leads here (DNS rebinding), the Host header gives it away and is answered with 421; where it asks across origins, the
    Origin header does, 403. Both are looked at on every request.

    Args:
        app: what is guarded.
        port: that the server listens on.
    """

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self._app = app
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        if port == 80:
            self._hosts |= {"127.0.0.1", "localhost"}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Nothing else is served; uvicorn is told to speak nothing else either.
            raise RuntimeError(f"unexpected connection of type {scope['type']}")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                added = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        hosts = [host.lower() for host in headers.getlist("host")]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _refused("This server answers to 127.0.0.1 and localhost alone.\n", 421)
        if any(origin not in self._origins for origin in headers.getlist("origin")):
            return _refused("Other sites may not ask here.\n", 403)
        if scope["method"] not in ("GET", "HEAD"):
            return _refused("This server is for reading.\n", 405, {"allow": "GET, HEAD"})
        return None


def _refused(text: str, status: int, headers: dict[str, str] | None = None) -> PlainTextResponse:
    return PlainTextResponse(text, status, headers={"content-security-policy": "default-src 'none'", **(headers or {})})
