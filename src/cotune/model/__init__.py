"""WHO answers: the local shared-prefix engine, the bundled model, and what a model must offer."""

from __future__ import annotations
