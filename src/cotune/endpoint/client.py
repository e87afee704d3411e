"""The client of one endpoint, with bounds on time, retries, bytes and concurrent requests."""

from __future__ import annotations

import email.utils
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from cotune.endpoint.errors import EndpointError, Final, TryAgain
from cotune.endpoint.pacing import Gate
from cotune.endpoint.server import Endpoint, Key, is_loopback
from cotune.errors import counted

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
K = TypeVar("K")

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_MALFORMED = re.compile(rb"validation error|response_format")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0
"""Seconds between two tries, unless the server names a time."""
_MOST_BYTES = 1_000_000
_IDLE_S = 15.0
_MOST_LOST = 8
_LEAST_S = 1.0
"""Fewest seconds for a request whose turn has come."""
"""Most failed requests for one question that the server may charge for."""


@dataclass(frozen=True)
class Reply(Generic[T]):
    """An answer and the number of requests that it took.

    Attributes:
        value: what ``read`` returned.
        requests: number of requests sent, failed ones included.
        lost: number of failed requests that the server may charge for.
    """

    value: T
    requests: int = 1
    lost: int = 0


class Client:
    """Sends requests to one endpoint. Thread-safe.

    After 408, 425, 429, 5xx, a broken connection or an incomplete answer, a request is sent again, with exponential backoff and
    jitter. A ``Retry-After`` header pauses all requests. Redirects are not followed, since they would send rows and the key to
    a server that the user did not name.

    Args:
        most: most concurrent requests.
        keep: keep connections open. This saves handshakes if many requests follow each other; after a long pause the server may
            have closed the connection, which costs one try.
        sleep: function that waits some seconds; by default the wait also ends when :meth:`close` is called.
        jitter: function that draws a number in [0, 1) for each wait.

    Raises:
        EndpointError: if the key is missing or the address cannot be used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        most: int = 1,
        keep: bool = False,
        sleep: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        import httpx2

        self.endpoint, self.gate = endpoint, Gate(most)
        self._most, self._jitter = most, jitter
        self._key = Key.of(endpoint)
        self._sleep = sleep
        # Those of the calls under way: what ends one leaves others, and those that follow, alone.
        self._stops, self._closed, self._turn = set[threading.Event](), False, threading.Lock()
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most if keep else 0, keepalive_expiry=_IDLE_S)
        try:
            # A proxy would see rows and key unencrypted, and cannot reach this machine's loopback. An explicit transport makes
            # httpx ignore HTTP_PROXY and the like, malformed values included.
            transport = httpx2.HTTPTransport(limits=limits) if is_loopback(urlsplit(endpoint.base_url).hostname or "") else None
            # httpx itself must not retry: this client counts and bounds all tries.
            self._http = httpx2.Client(follow_redirects=False, headers=self._key.headers, limits=limits, transport=transport)
        except (ValueError, OSError, ImportError) as error:
            raise self._unusable(error) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._turn:
            self._closed = True
            for stop in self._stops:
                stop.set()
        self._http.close()

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        *,
        tries: int | None = None,
        patience: float,
        most_bytes: int = _MOST_BYTES,
    ) -> Reply[T]:
        """Send one request, with retries.

        Args:
            path: below the base URL, such as ``/chat/completions``.
            read: reads the answer's JSON value; if it raises ``ValueError``, ``TypeError``, ``KeyError`` or ``IndexError``, the
                answer counts as incomplete.
            tries: most requests; None sends as many as fit into ``patience``.
            patience: seconds for all tries and waits together.
            most_bytes: length from which an answer is not read further.

        Raises:
            EndpointError: if there was no answer; its ``lost`` counts the failed requests that may be charged nevertheless.
        """
        with self._call() as stop:
            return self._post(path, body, read, tries, patience, stop, most_bytes)

    @contextmanager
    def _call(self) -> Iterator[threading.Event]:
        """The event that ends the waits of one call; :meth:`close` sets it too."""
        stop = threading.Event()
        with self._turn:
            self._stops.add(stop)
            if self._closed:
                stop.set()
        try:
            yield stop
        finally:
            with self._turn:
                self._stops.discard(stop)

    def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        tries: int | None,
        patience: float,
        stop: threading.Event,
        most_bytes: int = _MOST_BYTES,
    ) -> Reply[T]:
        # Waiting for one's turn among other requests does not count.
        end: float | None = None
        asked, lost, why = 0, 0, "there was no time for a request"

        def failure(text: str, status: int | None = None) -> EndpointError:
            message = self._key.without(f"{text} ({counted(asked, 'request')})")
            return EndpointError(message, requests=asked, lost=lost, status=status)

        def left() -> float:
            return patience if end is None else end - time.monotonic()

        while (tries is None or asked < tries) and lost < _MOST_LOST and left() > 0:
            generation = self.gate.enter(stop)
            if generation < 0:
                raise failure("the request was cancelled")
            end = time.monotonic() + patience if end is None else end
            asked += 1
            found: Any = None
            try:
                found = self._request(path, body, min(self.endpoint.timeout, max(_LEAST_S, left())), most_bytes)
                value = read(found)
            except TryAgain as failed:
                problem = failed
            except (ValueError, TypeError, KeyError, IndexError) as error:
                # Some servers answer 200 with an error in the body.
                told = json.dumps(found["error"], ensure_ascii=False)[:200] if _tells_error(found) else type(error).__name__
                problem = TryAgain(f"the answer has an unexpected format ({told})", crowded=False)
            except Final as error:
                self.gate.leave(generation, well=False)
                raise failure(str(error), error.status) from None
            except BaseException:
                self.gate.leave(generation, well=False)
                raise
            else:
                self.gate.leave(generation, well=True)
                return Reply(value, asked, lost)
            why, lost = problem.why, lost + problem.paid
            again_in = self._wait(asked, problem.wait)
            late = again_in >= left()
            hold = problem.wait is not None and not late
            self.gate.leave(generation, well=False, crowded=problem.crowded, hold=hold)
            again = (tries is None or asked < tries) and lost < _MOST_LOST
            if again and late:
                raise failure(f"{why}; another try in {again_in:.0f} s would come too late")
            try:
                if again:
                    (self._sleep or stop.wait)(again_in)
            finally:
                if hold:
                    self.gate.release()
        raise failure(why)

    def post_all(
        self,
        path: str,
        bodies: Mapping[K, Mapping[str, Any]],
        read: Callable[[K, Any], T],
        *,
        patience: float,
        received: Callable[[K, T], None],
        refused: Callable[[K, EndpointError], None] | None = None,
    ) -> None:
        """Send many requests, with as many at a time as the endpoint answers without errors.

        Args:
            path: as in :meth:`post`.
            bodies: requests by key.
            read: as in :meth:`post`, called with the key of the request and the answer's JSON value.
            patience: seconds for each request, retries included.
            received: called with the key of each request and its answer, by several threads but one at a time, in order of
                arrival.
            refused: called in the same way with key and error of each refusal (:attr:`EndpointError.is_refusal`); None lets
                a refusal end all other requests, as any other failure does.

        Raises:
            EndpointError: if a request got no answer. Requests under way end first and their answers are passed to
                ``received``.
        """

        one_at_a_time = threading.Lock()

        def one(key: K) -> None:
            if stop.is_set():
                return
            try:
                reply = self._post(path, bodies[key], partial(read, key), None, patience, stop)
            except EndpointError as error:
                if refused is None or not error.is_refusal:
                    raise
                with one_at_a_time:
                    refused(key, error)
            else:
                with one_at_a_time:
                    received(key, reply.value)

        with self._call() as stop, ThreadPoolExecutor(max_workers=max(1, min(self._most, len(bodies)))) as pool:
            futures = [pool.submit(one, key) for key in bodies]
            try:
                done, rest = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                stop.set()
                raise
            if rest:
                # From here on, no thread waits for another try.
                stop.set()
                for future in rest:
                    future.cancel()
        for future in done:
            future.result()

    def _wait(self, asked: int, wanted: float | None) -> float:
        if wanted is not None:
            return wanted + 0.5 * self._jitter()
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(asked - 1, 30)) * (0.5 + 0.5 * self._jitter())

    def _request(self, path: str, body: Mapping[str, Any], seconds: float, most_bytes: int) -> Any:
        """Send one request; returns the answer's JSON value."""
        import httpx2

        end = time.monotonic() + seconds
        url = self.endpoint.base_url.rstrip("/") + path
        try:
            with self._http.stream("POST", url, json=body, timeout=httpx2.Timeout(seconds)) as response:
                data = bytearray()
                for piece in response.iter_bytes():
                    data += piece
                    # httpx's own timeout starts again with every byte, so a slow stream of bytes would never time out.
                    if time.monotonic() > end:
                        raise TryAgain(f"the answer took longer than {seconds:.0f} s")
                    if len(data) > most_bytes:
                        raise Final(f"the answer is longer than {most_bytes:,} bytes")
                return self._read(response, bytes(data))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Final(str(self._unusable(error))) from error
            raise TryAgain(f"the connection broke ({type(error).__name__}: {error})", paid=False) from error
        except httpx2.TimeoutException as error:
            raise TryAgain(f"no answer within {seconds:.0f} s") from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise Final(f"{self.endpoint.section}.base_url cannot be used ({error})") from error
        except httpx2.HTTPError as error:
            raise TryAgain(f"the connection broke ({type(error).__name__}: {error})") from error
        except (UnicodeError, OSError) as error:
            # A bad host name, which another try would not change.
            raise Final(str(self._unusable(error))) from error

    def _read(self, response: httpx2.Response, data: bytes) -> Any:
        status = response.status_code
        # Some servers always answer 500 to a request that they do not understand.
        if status in _AGAIN and not (status == 500 and _MALFORMED.search(data)):
            wanted = _seconds(response.headers.get("retry-after"))
            raise TryAgain(f"the endpoint answered {status}{self._excerpt(data)}", wanted, paid=False)
        if not 200 <= status < 300:
            raise Final(f"the endpoint answered {status}{self._excerpt(data)}", status)
        try:
            # The key is removed from the parsed value, which has no escapes that could hide it.
            return self._key.cleaned(json.loads(data.decode("utf-8", "replace")))
        except (ValueError, RecursionError) as error:
            raise TryAgain(f"the answer is not JSON ({type(error).__name__})", crowded=False) from error

    def _excerpt(self, data: bytes) -> str:
        """The beginning of an error's body, on one line."""
        # Remove the key before cutting the text, or a part of it could remain.
        text = " ".join(self._key.without(data.decode("utf-8", "replace")).split())[:200]
        return f": {text}" if text else ""

    def _unusable(self, error: Exception) -> EndpointError:
        return EndpointError(self._key.without(f"the endpoint cannot be used ({type(error).__name__}: {error})"))


def _seconds(retry_after: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header (seconds or a date) asks to wait; None if it cannot be read."""
    if retry_after is None:
        return None
    try:
        wanted = float(retry_after)
    except ValueError:
        try:
            wanted = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, wanted) if wanted < float("inf") else None


def _tells_error(answer: Any) -> bool:
    return isinstance(answer, dict) and bool(answer.get("error"))
