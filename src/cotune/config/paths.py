"""Values of the config that name files, and making relative names absolute."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from cotune.files import expanded

IN_MEMORY = "(in memory)"
"""Placeholder for a data file if the rows are in memory."""

ROLES = ("train", "dev", "test", "replay", "unlabelled")
"""The roles of data files."""

DATA_KEYS = tuple(f"data.{role}" for role in ROLES)
PATH_KEYS = (*DATA_KEYS, "prompt", "model", "metric", "start", "output.schema", "judge.agreement")
"""Keys whose values may be paths."""
_PROMPT_SUFFIXES = (".txt", ".md")


def resolve_paths(values: dict[str, Any], folder: Path, keys: Container[str] = PATH_KEYS) -> None:
    """Make relative file names absolute, in place; values that are not texts are left for validation."""
    for dotted in PATH_KEYS:
        section, _, key = dotted.rpartition(".")
        place = values.get(section) if section else values
        if dotted not in keys or not isinstance(place, dict):
            continue
        name = place.get(key)
        if not isinstance(name, str) or not name or "\0" in name:
            continue
        is_file = (
            names_file(name)
            if key == "prompt"
            else name.startswith(("./", "../", "~")) or (folder / name).is_dir()
            if key == "model"
            else names_function(name)
            if key == "metric"
            else "://" not in name and name != IN_MEMORY
        )
        if is_file:
            place[key] = str((folder / expanded(name.strip())).absolute())


def names_file(prompt: str) -> bool:
    """Whether a prompt is the path of a file."""
    return "\n" not in prompt.strip() and "{" not in prompt and prompt.strip().lower().endswith(_PROMPT_SUFFIXES)


def names_function(metric: str) -> bool:
    """Whether a metric is a function in a file."""
    return ".py:" in metric


def base_name(name: str | None) -> str | None:
    """The last part of a path; other names stay unchanged."""
    return name if name is None or "://" in name else Path(name).name
