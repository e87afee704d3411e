"""Questions that a server refuses for their content, as a filter does: how many a run tolerates, and its first question."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from cotune.endpoint.errors import EndpointError

T = TypeVar("T")
R = TypeVar("R")

TRIAL_QUESTIONS = 3
"""Number of questions that are tried as a run's first one; a server that refuses all of them does not refuse their content."""
_MOST_REFUSED = 0.1
"""Largest share of the questions of a request that count as refused for what is in their rows: a guess."""


def too_many_refused(refused: int, asked: int) -> bool:
    """Whether the share of a request's questions that were refused is too large to be due to the content of single rows."""
    return refused > max(1, _MOST_REFUSED * asked)


def first_answered(ask: Callable[[T], R], questions: Iterable[T]) -> tuple[T, R]:
    """Ask one question after another until one is not refused, at most :data:`TRIAL_QUESTIONS`; returns it and its answer.

    Raises:
        EndpointError: all were refused, or one failed for another reason.
        ValueError: there are no questions.
    """
    refusal: EndpointError | None = None
    for question in islice(questions, TRIAL_QUESTIONS):
        try:
            return question, ask(question)
        except EndpointError as error:
            if not error.is_refusal:
                raise
            refusal = error
    raise refusal or ValueError("there are no questions")


@contextmanager
def refusal_ignored() -> Iterator[None]:
    """Ignore the refusal of a question for its content; any other failure is raised."""
    try:
        yield
    except EndpointError as error:
        if not error.is_refusal:
            raise
