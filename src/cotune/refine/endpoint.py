"""A language model behind an OpenAI-compatible endpoint: one question, one answer, bounded in time, tries and bytes."""

from __future__ import annotations

import email.utils
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotune.errors import CotuneError

if TYPE_CHECKING:
    import httpx2

Message = Mapping[str, str]

TRIES = 4
"""Requests of one question at most, the first included."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0
_MOST_BYTES = 1_000_000
_CHARACTERS_A_TOKEN = 3.0


@dataclass(frozen=True)
class Endpoint:
    """Where a language model answers.

    Attributes:
        base_url: such as ``http://127.0.0.1:8080/v1``; ``/chat/completions`` is added.
        model: its name there.
        key_env: environment variable that holds the key; None asks without one. The key itself is never kept.
        timeout: seconds that one request may take, answer included.
    """

    base_url: str
    model: str
    key_env: str | None = None
    timeout: float = 60.0


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: of the model's message.
        requests: that were sent, those in vain included.
        tokens: of question and answer, as the endpoint counts them, else estimated.
    """

    text: str
    requests: int
    tokens: int


class EndpointError(CotuneError):
    """A question got no answer; says why, without a key in it.

    Attributes:
        requests: that were sent.
        tokens: that were spent for nothing.
    """

    def __init__(self, why: str, *, requests: int = 0, tokens: int = 0) -> None:
        self.requests, self.tokens = requests, tokens
        super().__init__(why)


class _Final(Exception):
    """A request failed, and so would any other."""


class _TryAgain(Exception):
    """A request failed in a way that another one may not; ``paid`` where the model may have worked for it."""

    def __init__(self, why: str, wait: float | None = None, *, paid: bool = True) -> None:
        self.why, self.wait, self.paid = why, wait, paid
        super().__init__(why)


def estimate_tokens(messages: Sequence[Message]) -> int:
    """About how many tokens a question has; rather too many than too few."""
    return int(sum(len(part) for message in messages for part in message.values()) / _CHARACTERS_A_TOKEN) + 8 * len(messages)


def ask(
    endpoint: Endpoint,
    messages: Sequence[Message],
    *,
    answer_tokens: int,
    tries: int = TRIES,
    patience: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> Answer:
    """Ask once; again after 408, 425, 429, 5xx, a broken connection or a torn answer, with growing, jittered waits.

    A server that says when to come back (``Retry-After``) is obeyed; where that is later than ``patience`` allows, it is
    given up.

    Args:
        endpoint: whom.
        messages: each with ``role`` and ``content``.
        answer_tokens: of the answer at most.
        tries: requests at most.
        patience: seconds for all tries and waits together; None takes two timeouts.
        sleep: waits.
        jitter: a number in [0, 1), drawn for each wait.

    Raises:
        EndpointError: no answer came; holds what was spent.
    """
    import httpx2

    end = time.monotonic() + (2 * endpoint.timeout if patience is None else patience)
    body = {"model": endpoint.model, "messages": [dict(m) for m in messages], "max_tokens": answer_tokens, "temperature": 0.7}
    key = _key(endpoint.key_env)
    question = estimate_tokens(messages)
    asked, lost, why = 0, 0, "there was no time for a request"

    def failure(text: str) -> EndpointError:
        counted = f"{asked} request{'' if asked == 1 else 's'}"
        return EndpointError(f"{_without(text, key)} ({counted})", requests=asked, tokens=lost)

    try:
        # A redirect would carry rows, and the key, to a place that nobody named.
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # A kept connection may be closed by the server while a wait goes on, and the next try would be lost to it.
        fresh = httpx2.Limits(max_keepalive_connections=0)
        with httpx2.Client(follow_redirects=False, headers=headers, limits=fresh) as client:
            while asked < tries and (left := end - time.monotonic()) > 0:
                asked += 1
                try:
                    text, told = _request(client, endpoint, body, min(endpoint.timeout, left))
                    tokens = told or question + int(len(text) / _CHARACTERS_A_TOKEN)
                    return Answer(_without(text, key), asked, lost + tokens)
                except _TryAgain as again:
                    why = again.why
                    lost += question if again.paid else 0
                    longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (asked - 1))
                    wait = longest * (0.5 + 0.5 * jitter()) if again.wait is None else again.wait + 0.5 * jitter()
                if asked < tries:
                    if wait >= end - time.monotonic():
                        raise failure(f"{why}; another try in {wait:.0f} s would come too late")
                    sleep(wait)
    except _Final as error:
        raise failure(str(error)) from None
    except (ValueError, OSError) as error:
        # A proxy, a certificate or a host name that cannot be used: nothing that another try would change.
        raise failure(f"the endpoint cannot be asked ({type(error).__name__}: {error})") from None
    raise failure(why)


def _request(client: httpx2.Client, endpoint: Endpoint, body: Mapping[str, Any], seconds: float) -> tuple[str, int]:
    """One request; the answer's text and the tokens that the endpoint counted, 0 where it did not."""
    import httpx2

    end = time.monotonic() + seconds
    url = endpoint.base_url.rstrip("/") + "/chat/completions"
    try:
        with client.stream("POST", url, json=body, timeout=httpx2.Timeout(seconds)) as response:
            data = bytearray()
            for piece in response.iter_bytes():
                data += piece
                # The client's own timeout starts anew with every byte, and a trickle would never end.
                if time.monotonic() > end:
                    raise _TryAgain(f"the answer took longer than {seconds:.0f} s")
                if len(data) > _MOST_BYTES:
                    raise _Final(f"the answer is longer than {_MOST_BYTES:,} bytes")
            return _read(response.status_code, response.headers.get("retry-after"), bytes(data))
    except httpx2.TimeoutException as error:
        raise _TryAgain(f"no answer within {seconds:.0f} s") from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise _Final(f"proposer.base_url cannot be used ({error})") from error
    except httpx2.HTTPError as error:
        raise _TryAgain(f"the connection broke ({type(error).__name__}: {error})") from error


def _read(status: int, retry_after: str | None, data: bytes) -> tuple[str, int]:
    if status in _AGAIN:
        raise _TryAgain(f"the endpoint answered {status}{_told(data)}", _seconds(retry_after), paid=False)
    if not 200 <= status < 300:
        raise _Final(f"the endpoint answered {status}{_told(data)}")
    try:
        answer = json.loads(data)
        text = answer["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise TypeError("its content is no text")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _TryAgain(f"the answer is no chat completion ({type(error).__name__})") from error
    usage = answer.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return text, total if isinstance(total, int) and 0 < total < 10**9 else 0


def _seconds(retry_after: str | None) -> float | None:
    """Seconds until the time that a ``Retry-After`` header names, as seconds or as a date; None where it names none."""
    if retry_after is None:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, wait) if wait < float("inf") else None


def _told(data: bytes) -> str:
    """The beginning of an error's body, on one line."""
    text = " ".join(data[:2000].decode("utf-8", "replace").split())[:200]
    return f": {text}" if text else ""


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise EndpointError(f"the environment variable {name} (proposer.key_env) is not set")
    if not (key.isascii() and key.isprintable()):
        raise EndpointError(f"the environment variable {name} (proposer.key_env) holds characters that no key can have")
    return key


def _without(text: str, key: str | None) -> str:
    """Servers quote what they were sent."""
    return text if key is None else text.replace(key, "[key]")
