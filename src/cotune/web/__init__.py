"""Shared parts of cotune's servers: listening, graceful shutdown, limits on slow clients, access checks."""

from __future__ import annotations

from cotune.web.guard import ANSWER_POLICY, FRAME_POLICY, Guard
from cotune.web.listen import LOOPBACK, listen
from cotune.web.patience import PatientProtocol
from cotune.web.server import GracefulServer, ReadyServer, bounded_config

__all__ = [
    "ANSWER_POLICY",
    "FRAME_POLICY",
    "LOOPBACK",
    "GracefulServer",
    "Guard",
    "PatientProtocol",
    "ReadyServer",
    "bounded_config",
    "listen",
]
