"""Whether a run can read its labels off hidden states, as far as is known before the model is loaded."""

from __future__ import annotations

from cotune.config import RunConfig
from cotune.errors import InputError
from cotune.task.task import Task


def why_no_probes(config: RunConfig, task: Task) -> str:
    """Why labels cannot be read off hidden states in a run; empty where nothing is known against it."""
    reasons = (
        (task.output.kind.written, f"the output is {task.output.type} and no label"),
        (config.remote_model is not None, "the model answers behind an endpoint"),
        (config.tune.method != "lora", f"tune.method is {config.tune.method}"),
        (config.refit, "refit is true"),
    )
    return next((why for holds, why in reasons if holds), "")


def check_probes(config: RunConfig, task: Task) -> None:
    """Find out before anything is computed whether the probes that a config asks for are possible.

    Raises:
        InputError: ``tune.readout`` is ``probe`` and they are not.
    """
    if config.tune.readout == "probe" and (why := why_no_probes(config, task)):
        raise no_probes(why)


def no_probes(why: str) -> InputError:
    """What is raised where ``tune.readout`` is ``probe`` and probes are impossible."""
    return InputError(
        f"labels cannot be read off hidden states here: {why}",
        where="tune.readout",
        hint="Leave tune.readout out, so that the run takes what is possible.",
    )
