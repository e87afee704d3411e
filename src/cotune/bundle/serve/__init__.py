"""Bundles behind HTTP: OpenAI's API and the tasks' own fields, requests batched as they arrive."""

from __future__ import annotations

from cotune.bundle.serve.serve import ServeSettings, serve

__all__ = ["ServeSettings", "serve"]
