"""When to look for garbage: not while a program starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """No search for garbage meanwhile, and none later among what was made meanwhile.

    Modules and a loaded model are a million objects that stay. Python looks them through a thousand times while it makes them,
    which takes a tenth of a command's start, and again in every later full search.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
