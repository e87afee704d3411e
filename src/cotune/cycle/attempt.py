"""What a run may do without: its failure is recorded instead of ending the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cotune.cycle.journal import Journal
from cotune.errors import CotuneError
from cotune.files import canonical_json


def attempt(journal: Journal, effect: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``effect`` returns, or its error under the name ``skipped``; for what a run may go on without.

    What no journal can hold, such as a number that is none, is a failure too.

    A journal that cannot be written, or that holds another step, still ends the run: without it nothing may go on.

    Args:
        journal: of the run.
        effect: measures or asks something.
    """
    try:
        found = effect()
        canonical_json(found)
        return found
    except Exception as error:
        if journal.broken:
            raise
        what = str(error) if isinstance(error, CotuneError) else f"{type(error).__name__}: {error}"
        return {"skipped": f"it failed ({what})"}
