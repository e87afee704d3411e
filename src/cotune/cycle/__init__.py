"""THE LOOP: plan, budget, journal, resume, and the order of steps."""

from __future__ import annotations

from cotune.cycle.run import Result, run
from cotune.cycle.tryout import Tryout, try_prompt

__all__ = ["Result", "Tryout", "run", "try_prompt"]
