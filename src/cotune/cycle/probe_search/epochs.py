"""How often weights meet the labelled rows: in a trial, and in tuning on from it, by what a budget pays for."""

from __future__ import annotations

from collections.abc import Callable


def split_epochs(wanted: float, fits: Callable[[float, float], bool], least: float = 1.0) -> tuple[float, float]:
    """Epochs of a trial, and of tuning on from it on all labelled rows: as many as fit, half of them in the trial if these do.

    Args:
        wanted: in all.
        fits: whether the budget pays for a number of epochs of the trial and a number of the final tuning.
        least: epochs of either kind at least.

    Returns:
        Both 0 where nothing fits. The second is 0 where only a trial fits, which is what ships then.
    """
    ways = [
        (epochs, last)
        for epochs in _falling(max(least, wanted / 2), least)
        for last in _falling(max(least, wanted - epochs), least)
    ]
    # Learning from all rows gains more than meeting some of them once more.
    ways = sorted(ways, key=lambda way: (-min(wanted, sum(way)), -way[0]))
    return next((way for way in (*ways, *((epochs, 0.0) for epochs in _falling(wanted, least))) if fits(*way)), (0.0, 0.0))


def _falling(wanted: float, least: float = 1.0) -> list[float]:
    """Epochs to try, from the wanted ones down to one, and by halves below that."""
    found = [wanted]
    while found[-1] > 1:
        found.append(max(1.0, round(found[-1] * 0.75 * 2) / 2 if found[-1] > 1.5 else 1.0))
    while found[-1] / 2 >= least:
        found.append(found[-1] / 2)
    return found
