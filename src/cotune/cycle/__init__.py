"""The search cycle: plan, budget, journal, resume, and the order of steps.

Nothing is imported here, because trying a prompt should not wait for imports that only a run needs.
"""

from __future__ import annotations
