"""How many connections there may be at once: each takes an open file, and a process may have only so many."""

from __future__ import annotations

from cotune.errors import InputError

ACCEPTED = 32
"""Connections that are taken before anything else is done; asyncio takes as many as the backlog that it is told."""
BEYOND = 16
"""Connections above the bound that are told so; further ones are closed at once."""
# Besides: connections that were taken and are about to be closed, and files that requests or libraries open.
_SPARE = BEYOND + 3 * ACCEPTED + 16
_LEAST = 16


def most_connections(most: int) -> int:
    """As many connections as ``most``, or fewer where the limit of open files leaves no room for them.

    Raises:
        InputError: it leaves room for hardly any.
    """
    try:
        import resource
    except ImportError:
        # Windows knows no such limit.
        return most
    import psutil

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    room = soft - int(psutil.Process().num_fds()) - _SPARE
    if room < _LEAST:
        raise InputError(
            f"this process may have {soft} files open, which leaves no room for connections",
            where="ulimit -n",
            hint=f"Allow more, for example: ulimit -n {soft - room + most}",
        )
    return min(most, room)
