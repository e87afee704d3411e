"""One protocol for cotune and its peers: the same labelled rows, the same test rows, the same machine."""

from __future__ import annotations
