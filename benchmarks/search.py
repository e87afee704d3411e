"""Searches over prompts compared offline, on a table of what each prompt is worth on each row.

    python benchmarks/search.py table --data FOLDER --work FOLDER [--tasks trec6 ...] [--parts base:0 ...] [--seconds N]
    python benchmarks/search.py compare [--seeds N]

``table`` computes the data file with a model, piece by piece: it ends with status 75 while there is more to do, and the same
command goes on. ``compare`` reads the data file alone and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from search_data import TABLE, TASKS, WEIGHTS

_SIZES = {"prompts": 64, "first": 24, "train": 200, "dev": 200, "block": 50, "steps": 32}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="compute the data file with a model")
    table.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    table.add_argument("--work", type=Path, required=True, help="folder that keeps what was computed")
    table.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    table.add_argument("--parts", nargs="+", help="base:0, tuned:1, ...; all by default")
    table.add_argument("--model", default="smollm2-135m")
    table.add_argument("--device", default="auto")
    table.add_argument("--seconds", type=float, default=1e9, help="no new piece is begun after so long")
    for name, value in _SIZES.items():
        table.add_argument(f"--{name}", type=int, default=value)
    compare = commands.add_parser("compare", help="compare searches on the data file")
    for command in (table, compare):
        command.add_argument("--file", type=Path, default=TABLE, help="the data file")
    compare.add_argument("--seeds", type=int, default=50)
    given = parser.parse_args(arguments)
    if given.command == "compare":
        return _compare(given.file, given.seeds)
    from search_table import OUT_OF_TIME, make_table

    complete = make_table(
        given.tasks,
        given.parts or all_parts(-(-given.dev // given.block)),
        data=given.data,
        work=given.work,
        out=given.file,
        model=given.model,
        device=given.device,
        seconds=given.seconds,
        sizes={name: getattr(given, name) for name in _SIZES},
    )
    return 0 if complete else OUT_OF_TIME


def all_parts(blocks: int) -> list[str]:
    """Names of all parts of a table whose rows come in so many blocks."""
    return [f"{weights}:{block}" for weights in WEIGHTS for block in range(blocks)]


def _compare(file: Path, seeds: int) -> int:
    from search_compare import compare
    from search_data import read_table

    print(json.dumps(compare(read_table(file), seeds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
