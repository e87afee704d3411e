"""New prompts: edits, demonstrations, and mutation of survivors."""

from __future__ import annotations

from cotune.refine.demonstrations import default_count, diverse, fits, fixed, not_shown, with_demonstrations
from cotune.refine.edits import OPERATORS, Operator, format_variants
from cotune.refine.mutate import DemonstrationPool, first_pool, mutate
from cotune.refine.proposal import Proposal, Source

__all__ = [
    "OPERATORS",
    "DemonstrationPool",
    "Operator",
    "Proposal",
    "Source",
    "default_count",
    "diverse",
    "first_pool",
    "fits",
    "fixed",
    "format_variants",
    "mutate",
    "not_shown",
    "with_demonstrations",
]
