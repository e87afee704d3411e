"""A manifest with the fewest entries."""

from __future__ import annotations

from typing import Any


def small_manifest() -> dict[str, Any]:
    return {
        "format": 3,
        "task": "t",
        "files": {},
        "base_model": {"name": "m", "fingerprint": "f", "revision": None},
        "adapter_id": "base",
        "prompt_id": "p",
        "decision": {"kind": "raw", "bias": []},
        "labels": ["a", "b"],
        "input_fields": ["text"],
        "output_field": "label",
        "metric": "accuracy",
        "engine": {"max_tokens": 100},
        "versions": {},
    }
