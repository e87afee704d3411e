"""The registry of backends."""

from __future__ import annotations

from cotune.config import RunConfig
from cotune.cycle.backends.base import Backend
from cotune.cycle.backends.endpoint import EndpointBackend
from cotune.cycle.backends.local import LocalBackend

BACKENDS: tuple[Backend, ...] = (EndpointBackend(), LocalBackend())
"""The first backend that takes a config opens its model; the last one takes any."""


def backend_of(config: RunConfig) -> Backend:
    """The backend of the model that a config names."""
    return next(backend for backend in BACKENDS if backend.takes(config))
