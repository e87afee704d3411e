"""Open a port, or explain why it cannot be opened."""

from __future__ import annotations

import errno
import os
import socket

from cotune.errors import InputError

LOOPBACK = "127.0.0.1"
_BACKLOG = 64
"""Connections that may wait to be accepted."""


def listen(port: int, host: str = LOOPBACK) -> socket.socket:
    """Open a listening socket.

    Args:
        port: port to listen on; 0 chooses a free one.
        host: address or name of a network interface of this machine.

    Raises:
        InputError: if the port is in use or not allowed, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(
            "this host is not known", where=f"--host {host}", hint="Give an address of this machine, such as 127.0.0.1."
        ) from error
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            # On POSIX the option allows a port that was closed a moment ago; on Windows it would share a port in use.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise InputError(
                "this is not an address of this machine", where=f"--host {host}", hint="Give 127.0.0.1, or 0.0.0.0 for all."
            ) from error
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise InputError(f"the port {why}", where=f"--port {port}", hint="Give another one, or 0 to get a free one.") from error
    return listening
