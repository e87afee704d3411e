"""Checks, before the model is loaded, of whether a run can read labels off hidden states."""

from __future__ import annotations

from cotune.config import RunConfig
from cotune.errors import InputError
from cotune.task.task import Task


def why_no_probes(config: RunConfig, task: Task) -> str:
    """The reason why labels cannot be read off hidden states in a run; empty if there is none."""
    reasons = (
        (task.output.kind.written, f"the output is {task.output.type}, not a label"),
        (config.remote_model is not None, "the model answers behind an endpoint"),
    )
    return next((why for holds, why in reasons if holds), "")


def check_probes(config: RunConfig, task: Task) -> None:
    """Check before any computation that the probes that a config asks for are possible.

    Raises:
        InputError: ``tune.readout`` is ``probe`` and probes are impossible.
    """
    if config.tune.readout == "probe" and (why := why_no_probes(config, task)):
        raise no_probes(why)


def no_probes(why: str) -> InputError:
    """The error if ``tune.readout`` is ``probe`` and probes are impossible."""
    return InputError(
        f"labels cannot be read off hidden states here: {why}",
        where="tune.readout",
        hint="Leave tune.readout out, so that the run chooses a possible one.",
    )
