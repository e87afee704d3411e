"""Serving bundles over HTTP: OpenAI's API and an API with the tasks' fields, with requests batched as they arrive."""

from __future__ import annotations

from cotune.bundle.serve.serve import ServeSettings, serve

__all__ = ["ServeSettings", "serve"]
