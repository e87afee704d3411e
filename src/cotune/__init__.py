"""cotune tunes a prompt and a model together and says what each of the two gained."""

from __future__ import annotations

__version__ = "0.1.0"
