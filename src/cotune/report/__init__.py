"""WHAT is shown: the live terminal view and the closing verdict."""

from __future__ import annotations
