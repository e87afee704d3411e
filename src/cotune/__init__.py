"""cotune tunes a prompt and a model together, and reports what each of the two gained."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cotune.version import __version__

if TYPE_CHECKING:
    from cotune.api import load, load_config, run, try_prompt
    from cotune.classifier import CotuneClassifier
    from cotune.config import RunConfig
    from cotune.config.task import Task
    from cotune.cycle.progress import Quiet
    from cotune.embed.command import open_embedder
    from cotune.errors import CotuneError, InputError

__all__ = [
    "CotuneClassifier",
    "CotuneError",
    "InputError",
    "Quiet",
    "RunConfig",
    "Task",
    "__version__",
    "load",
    "load_config",
    "open_embedder",
    "run",
    "try_prompt",
]

# Looked up on first use, so that importing cotune loads neither torch nor anything else that takes seconds.
_PLACES = {
    "CotuneClassifier": "cotune.classifier",
    "CotuneError": "cotune.errors",
    "InputError": "cotune.errors",
    "Quiet": "cotune.cycle.progress",
    "RunConfig": "cotune.config",
    "Task": "cotune.config.task",
    "load": "cotune.api",
    "load_config": "cotune.api",
    "open_embedder": "cotune.embed.command",
    "run": "cotune.api",
    "try_prompt": "cotune.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cotune' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
