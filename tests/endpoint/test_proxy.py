"""A proxy of the environment is passed over on the way to this machine itself: it would read the rows and the key."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from chat_server import chat_server, completion, send
from cotune.endpoint import Client, Endpoint, EndpointError
from cotune.endpoint.chat import CHAT, message_text
from cotune.endpoint.server import is_loopback

KEY = "sk-0123456789"
PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy")


def ask(url: str) -> str:
    with Client(Endpoint(url, "writer", "WRITER_KEY")) as client:
        return client.post(CHAT, {"model": "writer"}, message_text, tries=1, patience=20).value


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER_KEY", KEY)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("keyed")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_this_machine_is_asked_past_every_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with chat_server(send(200, completion("proxy"))) as proxy, chat_server(send(200, completion("endpoint"))) as server:
        for name in PROXIES:
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        assert ask(server.url.replace("127.0.0.1", host)) == "endpoint"
        assert proxy.seen == []


@pytest.mark.usefixtures("keyed")
def test_this_machine_is_asked_past_every_proxy_over_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(send(200, completion("proxy"))) as proxy:
        for name in PROXIES:
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Nothing listens there, on machines without IPv6 either.
        with pytest.raises(EndpointError, match="connection broke"):
            ask(f"http://[::1]:{port}/v1")
        assert proxy.seen == []


@pytest.mark.usefixtures("keyed")
def test_a_proxy_that_cannot_be_used_bars_the_way_to_other_machines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # SOCKS needs a package that need not be there; another scheme is a mistake.
    for proxy in ("socks5://127.0.0.1:1", "nothing://127.0.0.1:1"):
        monkeypatch.setenv("ALL_PROXY", proxy)
        with chat_server(send(200, completion("endpoint"))) as server:
            assert ask(server.url) == "endpoint"
        if proxy.startswith("nothing") or importlib.util.find_spec("socksio") is None:
            with pytest.raises(EndpointError, match="cannot be used"):
                ask("http://api.example.test/v1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_what_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["::1%25api.example.test", "::1%1", "127.0.0.1.example.test", "localhost.example.test", "0.0.0.0"]
)
def test_what_only_looks_like_this_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.usefixtures("keyed")
def test_another_machine_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(send(200, completion("proxy"))) as proxy:
        for name in PROXIES:
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        assert ask("http://api.example.test/v1") == "proxy"
        assert proxy.seen[0]["headers"]["Authorization"] == f"Bearer {KEY}"
