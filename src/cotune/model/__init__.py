"""Models: the local shared-prefix engine, the bundled model, endpoints, and the protocols of a model."""

from __future__ import annotations
