"""Access checks of requests: Host and Origin headers, methods, and the token."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Mapping

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

FRAME_POLICY = {"content-security-policy": "frame-ancestors 'none'"}
"""Header of a page with a policy in its markup: the directives that markup cannot set."""
ANSWER_POLICY = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'"}
"""Header of answers that are not pages."""

_PORT = re.compile(r":\d+$")

Refuse = Callable[[str, int, Mapping[str, str]], Response]


class Guard:
    """Passes a request on to ``app`` if it is addressed to this server and allowed; refuses it otherwise.

    A foreign web page can make a browser send requests to a server on this machine. If it uses a host name of its own that
    resolves to this machine (DNS rebinding), the Host header shows it and the answer is 421; a cross-origin request shows in
    the Origin header and the answer is 403. Both headers are checked on a loopback server, and on any server whose names are
    given.

    Args:
        loopback: whether the server listens on 127.0.0.1, so that its names and the origins of its pages are known.
        names: further names of the server, as a Host header holds them: with a port, or for any; ``*.example.org`` stands for
            all names below that one, ``*`` for every name. Without names, Host and Origin are not checked outside the loopback.
        methods: HTTP methods that are allowed; None leaves that to ``app``.
        token: token that every request must carry, except those for ``open_paths``.
        open_paths: paths that need no token and, outside the loopback, no known name, since health checks use the server's
            address.
        refuse: builds the answer to a refused request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        port: int,
        loopback: bool = True,
        names: Collection[str] = (),
        methods: Collection[str] | None = ("GET", "HEAD"),
        token: str | None = None,
        open_paths: Collection[str] = (),
        refuse: Refuse | None = None,
    ) -> None:
        self._app, self._methods, self._open, self._refuse = app, methods, open_paths, refuse or _refused
        self._loopback, self._names = loopback, tuple(name.lower() for name in names)
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"} if loopback else set()
        if port == 80 and loopback:
            self._hosts |= {"127.0.0.1", "localhost"}
        self._token = None if token is None else _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # uvicorn is configured to serve HTTP alone.
            raise RuntimeError(f"unexpected connection of type {scope['type']}")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                added = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._loopback or (self._names and scope["path"] not in self._open):
            hosts = headers.getlist("host")
            if len(hosts) != 1 or not self._is_mine(hosts[0]):
                names = "its configured host names" if self._names else "127.0.0.1 and localhost"
                return self._refuse(f"This server only answers requests for {names}.", 421, {})
            if not all(map(self._is_from_here, headers.getlist("origin"))):
                return self._refuse("Requests from pages of other sites are not allowed.", 403, {})
        if self._methods is not None and scope["method"] not in self._methods:
            return self._refuse("This server is read-only.", 405, {"allow": ", ".join(self._methods)})
        if self._token is not None and scope["path"] not in self._open and not self._bears_token(headers):
            return self._refuse(
                "This server needs a token: send it as 'Authorization: Bearer TOKEN'.", 401, {"www-authenticate": "Bearer"}
            )
        return None

    def _is_mine(self, host: str) -> bool:
        return host.lower() in self._hosts or self._is_named(host.lower())

    def _is_from_here(self, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        # A proxy in front of the server may use TLS for the given names.
        return (scheme == "http" and host in self._hosts) or (scheme in ("http", "https") and self._is_named(host))

    def _is_named(self, host: str) -> bool:
        return any(_fits(each, name) for each in self._names for name in (host, _PORT.sub("", host)))

    def _bears_token(self, headers: Headers) -> bool:
        assert self._token is not None
        values = headers.getlist("authorization")
        kind, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        # Compare hashes, which have one length, so that the time taken does not even reveal the token's length.
        same = hmac.compare_digest(_digest(token.strip().encode("latin-1", "replace")), self._token)
        return same and kind.lower() == "bearer"


def _fits(pattern: str, name: str) -> bool:
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]) and name != pattern[1:])


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _refused(text: str, status: int, headers: Mapping[str, str]) -> Response:
    return PlainTextResponse(text + "\n", status, headers={"content-security-policy": "default-src 'none'", **headers})
