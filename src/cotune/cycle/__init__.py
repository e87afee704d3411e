"""THE LOOP: plan, budget, journal, resume, and the order of steps."""

from __future__ import annotations
