"""What a run spends beside model work: journal, search, statistics and bookkeeping.

    python benchmarks/overhead.py RUN

Prints one JSON object: the run's ``wall_s``, ``model_s`` by kind of model work, what is left (``other_s``) and its share
(``other_share``). All is read from the run's journal. Model work is what its steps record as ``seconds``; an endpoint's answers
beside the rows' count from the step before until they are recorded. A journal that does not say how long embedding and loading
took (``estimated``) has such steps counted alike, so that some of the rest hides in them. What happens before the run's clock
starts, such as Python's imports, is not in it, and of a run that was interrupted the later sessions' loading counts as rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotune.cycle.journal import read_journal
from cotune.errors import InputError
from cotune.run_files import JOURNAL

KINDS = {
    "score": "scoring",
    "write": "writing",
    "train": "training",
    "pool": "embedding",
    "neighbours": "embedding",
    "noise": "noise",
    "slices": "slices",
    "engine": "loading",
    "start": "loading",
    "plan": "warming_up",
}
"""Model work that a kind of step records."""
ASKING = ("teach", "judge", "rewrite")
"""Steps that wait for an endpoint and do little else."""


def overhead(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of a run by what they went into.

    Args:
        events: of its journal, from its first to its last.
    """
    start = next((event["value"] for event in events if event["kind"] == "start"), {})
    estimated = "seconds" not in start
    model = dict.fromkeys([*KINDS.values(), "asking"], 0.0)
    wall = 0.0
    for event in events:
        passed, wall = event["active_s"] - wall, event["active_s"]
        kind, value = event["kind"], event["value"]
        if kind in ASKING:
            model["asking"] += passed
        elif kind in KINDS and "seconds" in value:
            model[KINDS[kind]] += value["seconds"] or 0.0
        elif kind in KINDS and estimated:
            model[KINDS[kind]] += passed
    other = wall - sum(model.values())
    return {
        "wall_s": round(wall, 2),
        "model_s": {name: round(seconds, 2) for name, seconds in model.items()},
        "other_s": round(other, 2),
        "other_share": round(other / wall, 4),
        "estimated": estimated,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print where a run's time went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    given = parser.parse_args(arguments)
    events = read_journal(given.run / JOURNAL)
    if not events:
        raise InputError("there is no journal of a run", where=str(given.run), hint="Name the folder of a run.")
    print(json.dumps({"run": str(given.run), **overhead(events)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
