"""Whether the test stands in a prompt: in what the user wrote, or in what its demonstrations show."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.cycle.search.pool import shown_text
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.task.checks import Finding
from cotune.task.task import Task


def overlapping(task: Task, prompts: Sequence[Prompt]) -> int:
    """How many test rows share 13 words in a row with a prompt or its demonstrations; shorter rows count where they stand
    there whole. See :func:`cotune.task.overlap.overlapping_test_rows`."""
    return task.test.overlapping_rows(shown_text(prompt) for prompt in prompts)


def overlap_finding(count: int, whose: str) -> list[Finding]:
    """What is told of it; nothing where no row does.

    Args:
        count: of :func:`overlapping`.
        whose: which prompts.
    """
    if not count:
        return []
    rows = f"{counted(count, 'test row')} stand{'s' if count == 1 else ''}"
    message = f"{rows} in {whose}, whole or thirteen words of it in a row, so the test flatters what was read there"
    return [Finding("test_rows_in_prompts", "warning", message, count)]
