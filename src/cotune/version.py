"""The version, in a module that every other module can import."""

from __future__ import annotations

__version__ = "0.2.0"
