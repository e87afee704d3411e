"""WHAT is asked: reading labelled rows, cutting splits, finding leaks, computing metrics."""

from __future__ import annotations
