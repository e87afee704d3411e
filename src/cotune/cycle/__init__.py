"""THE LOOP: plan, budget, journal, resume, and the order of steps."""

from __future__ import annotations

from cotune.cycle.run import Result, run
from cotune.cycle.tryout import Tryout, Tryouts, try_prompt

__all__ = ["Result", "Tryout", "Tryouts", "run", "try_prompt"]
