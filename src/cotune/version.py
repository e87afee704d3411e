"""The version, in a module that every other module can import."""

from __future__ import annotations

import platform

__version__ = "0.2.0"


def versions(*packages: str) -> dict[str, str]:
    """Versions of cotune, of Python and of installed packages, by name."""
    from importlib.metadata import version

    return {"cotune": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}
