"""New prompts: edits, demonstrations, and mutation of survivors."""

from __future__ import annotations

from cotune.refine.demonstrations import diverse, fixed, not_shown, with_demonstrations
from cotune.refine.edits import Operator, format_variants
from cotune.refine.mutate import first_pool, mutate
from cotune.refine.proposal import Proposal

__all__ = [
    "Operator",
    "Proposal",
    "diverse",
    "first_pool",
    "fixed",
    "format_variants",
    "mutate",
    "not_shown",
    "with_demonstrations",
]
