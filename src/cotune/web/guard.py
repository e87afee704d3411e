"""Who may ask: only pages and people on this machine that mean this server, or those who know its token."""

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
"""Header of a page that carries its policy itself: what a page cannot say of itself."""
ANSWER_POLICY = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'"}
"""Header of an answer that is no page."""

_PORT = re.compile(r":\d+$")

Refuse = Callable[[str, int, Mapping[str, str]], Response]


class Guard:
    """Lets a request through to ``app`` if it is addressed to this very server and asks what may be asked.

    A web page from elsewhere can have a browser ask a server on this machine. Where it does so under a name of its own that
    leads here (DNS rebinding), the Host header gives it away and is answered with 421; where it asks across origins, the
    Origin header does, 403. Both are looked at on every request to a server on the loopback, and on one that is told its names.

    Args:
        app: what is guarded.
        port: that the server listens on.
        loopback: whether it listens on 127.0.0.1, so that its names and its pages' origins are known.
        names: further names of the server, as a Host header holds them: with a port, or for any; ``*.example.org`` stands for
            all names below that one, ``*`` for every name. Off the loopback, none leaves Host and Origin alone.
        methods: that are let through; None leaves that to ``app``.
        token: that every request must bear, but those for ``open_paths``; None asks for none.
        open_paths: that need no token; and, off the loopback, no name, since who asks whether a server lives knows its address.
        refuse: makes the answer to a request that is not let through.
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

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._loopback or (self._names and scope["path"] not in self._open):
            hosts = headers.getlist("host")
            if len(hosts) != 1 or not self._is_mine(hosts[0]):
                known = "the names that it was told" if self._names else "127.0.0.1 and localhost"
                return self._refuse(f"This server answers to {known} alone.", 421, {})
            if not all(map(self._is_from_here, headers.getlist("origin"))):
                return self._refuse("Other sites may not ask here.", 403, {})
        if self._methods is not None and scope["method"] not in self._methods:
            return self._refuse("This server is for reading.", 405, {"allow": ", ".join(self._methods)})
        if self._token is not None and scope["path"] not in self._open and not self._bears_token(headers):
            return self._refuse(
                "This server needs a token: send it as 'Authorization: Bearer TOKEN'.", 401, {"www-authenticate": "Bearer"}
            )
        return None

    def _is_mine(self, host: str) -> bool:
        host = host.lower()
        name = _PORT.sub("", host)
        return host in self._hosts or any(_fits(each, host) or _fits(each, name) for each in self._names)

    def _is_from_here(self, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        if scheme == "http" and host in self._hosts:
            return True
        # A proxy in front may speak TLS for names that were told.
        name = _PORT.sub("", host)
        return scheme in ("http", "https") and any(_fits(each, host) or _fits(each, name) for each in self._names)

    def _bears_token(self, headers: Headers) -> bool:
        assert self._token is not None
        given = headers.getlist("authorization")
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # Hashes have one length, so that the time of the comparison tells nothing, not even the token's length.
        same = hmac.compare_digest(_digest(token.strip().encode("latin-1", "replace")), self._token)
        return same and kind.lower() == "bearer"


def _fits(pattern: str, name: str) -> bool:
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]) and name != pattern[1:])


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _refused(text: str, status: int, headers: Mapping[str, str]) -> Response:
    return PlainTextResponse(text + "\n", status, headers={"content-security-policy": "default-src 'none'", **headers})
