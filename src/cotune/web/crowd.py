"""The limit on concurrent connections, which follows from the limit on open files."""

from __future__ import annotations

from cotune.errors import InputError

ACCEPTED = 32
"""Connections accepted at once: asyncio accepts as many as the backlog that it is given before it does anything else."""
BEYOND = 16
"""Connections above the limit that get an answer saying so; further ones are closed at once."""
# Also counts accepted connections that are about to be closed, and files that requests or libraries open.
_SPARE = BEYOND + 3 * ACCEPTED + 16
_LEAST = 16


def most_connections(most: int) -> int:
    """The limit on connections: ``most``, or fewer if the limit on open files requires it.

    Raises:
        InputError: if the limit on open files leaves room for hardly any connection.
    """
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
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
