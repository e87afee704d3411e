"""THE LOOP: plan, budget, journal, resume, and the order of steps.

Nothing is imported here, so that trying a prompt does not wait for what only a run needs."""

from __future__ import annotations
