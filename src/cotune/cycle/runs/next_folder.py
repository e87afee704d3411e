"""The folder of a run: a numbered one if the named folder holds the same run with a smaller budget."""

from __future__ import annotations

from pathlib import Path

from cotune.config import RunConfig
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.folder import is_barely_begun
from cotune.cycle.kept import read_config, with_spelling_of
from cotune.cycle.runs.listing import is_locked
from cotune.run_files import CONFIG, SUMMARY

_MOST = 1000


def folder_for(config: RunConfig, folder: Path) -> tuple[Path, str]:
    """The folder of a run, and a message if it is not the folder that was named.

    A search is planned by its budget from the first race on, so a run cannot get more budget later. If the folder holds this
    run with a smaller budget, the run uses the folder with the next free number, or resumes in a numbered folder that already
    holds it.
    """
    before = _config(folder)
    if before is not None and before.start is not None and config.start is not None:
        # This imports torch, which every other run does later, when all has been checked that takes no time.
        from cotune.cycle.warm_start import adopt, open_start

        # The folder holds the config with the settings of the bundle.
        config = adopt(config, open_start(config))
    if before is None or not _is_smaller(before, config) or (is_barely_begun(folder) and not is_locked(folder)):
        return folder, ""
    name = folder.name or folder.absolute().name
    ended = (folder / SUMMARY).is_file()
    for number in range(2, _MOST):
        place = (folder if folder.name else folder.absolute()).with_name(f"{name}-{number}")
        known = _config(place)
        if place.exists() if known is None else known.differences(with_spelling_of(known, config)):
            continue
        state = "holds a finished run" if ended else "holds a run that is planned"
        goes = "resumes" if known is not None else "runs"
        return place, (
            f"{folder} {state} for {before.budget}, and a search is planned by its budget; the run for {config.budget} "
            f"{goes} in {place}." + ("" if ended else f" Use --budget {before.budget} to resume the other run.")
        )
    return folder, ""


def _config(folder: Path) -> RunConfig | None:
    """The config of the run in a folder; None if it is missing or cannot be read."""
    try:
        return read_config(folder / CONFIG)[0]
    except (OSError, ValueError):
        return None


def _is_smaller(before: RunConfig, config: RunConfig) -> bool:
    """Whether the two differ only in the budget, which is larger in ``config``."""
    old, new = parse_budget(before.budget), parse_budget(config.budget)
    if old.kind != new.kind or new.amount <= old.amount:
        return False
    return not before.model_copy(update={"budget": config.budget}).differences(config)
