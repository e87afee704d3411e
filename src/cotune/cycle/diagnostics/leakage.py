"""Leakage of test rows into prompts: into the user's text or into demonstrations."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.cycle.search.pool import shown_text
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.task.checks import Finding
from cotune.task.task import Task


def overlapping(task: Task, prompts: Sequence[Prompt]) -> int:
    """Number of test rows that share 13 consecutive words with a prompt or its demonstrations, or are there whole."""
    return task.test.overlapping_rows(shown_text(prompt) for prompt in prompts)


def overlap_finding(count: int, whose: str) -> list[Finding]:
    """A finding on such rows, with a description of the prompts; empty if there are none."""
    if not count:
        return []
    rows = f"{counted(count, 'test row')}, or 13 consecutive words of {'it' if count == 1 else 'each'}"
    message = f"{whose} contain {rows}, so the test scores are too good"
    return [Finding("test_rows_in_prompts", "warning", message, count)]
