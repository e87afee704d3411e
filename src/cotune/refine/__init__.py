"""WHAT to try next: edits of a prompt, demonstrations, breeding from survivors."""

from __future__ import annotations
