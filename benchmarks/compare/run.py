"""Run cotune and its peers on the same labelled rows, the same test rows and the same machine.

    python benchmarks/compare/run.py --data FOLDER --out FOLDER [--sets trec6 sms_spam clinc150:20 examples/support]
        [--rows 64 500] [--draws 3] [--peers cotune_3m tfidf ...] [--per-class] [--envs FOLDER] [--most N] [--again failed]

A set is a folder in ``--data``, or the path of one, with ``train.jsonl`` and ``test.jsonl`` in the columns ``input`` and
``output``, in those that its ``task.yaml`` names, or in a column of right answers (``label``, ``answer``, ...) and texts;
``clinc150:20`` keeps 20 of its labels. By default all sets in ``--data`` are taken, and sizes that a set is too small for are
left out. ``--rows`` counts all labelled rows, those that a peer chooses on too; with ``--per-class`` those of each label, as
SetFit's protocol does (``--rows 8 64 --draws 10 --per-class``). A size can be for one set: ``--rows banking77=2000``, which
then has no other.

Each cell, a peer on a draw, is a process in the peer's environment, one at a time, its seconds and its memory measured from
outside. A finished cell is a line of OUT/cells.jsonl and is not run again; the same command goes on where a killed one was.
What a peer printed lies in OUT/logs. ``table.py`` makes tables and pictures of the cells.

cotune itself runs in the interpreter that runs this script. Environments are made by uv where it is on the PATH, else by pip,
from the index that these are set to. On a machine without a GPU, name torch's index for CPUs in their settings first
(``PIP_EXTRA_INDEX_URL`` or ``UV_EXTRA_INDEX_URL``), or several gigabytes of libraries for GPUs come along.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compare.cells import STATUSES, Cells, cell_key
from compare.envs import Environments
from compare.harness import Harness
from compare.protocol import MOST_TEST_ROWS, Draw, RowSet, draw_rows, read_set, sets_in
from compare.registry import PEERS, Peer, peers_named
from cotune.errors import CotuneError, InputError
from cotune.model.hardware.machine import usable_cpus

_ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 0 when all cells that were asked for are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for cells, answers and logs")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="by default all sets in --data")
    parser.add_argument("--rows", nargs="+", default=["64", "500", "banking77=2000"], metavar="N")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--peers", nargs="+", metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--per-class", action="store_true", help="--rows counts the rows of each label")
    parser.add_argument("--test-rows", type=int, default=MOST_TEST_ROWS, help="test rows of a set at most")
    parser.add_argument("--envs", type=Path, help="folder of the peers' environments; OUT/envs by default")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--most", type=int, help="end after so many cells")
    parser.add_argument("--again", nargs="+", choices=STATUSES, default=[], help="run cells of these statuses again")
    given = parser.parse_args(arguments)
    # A plain kill ends the peer at work too; after kill -9 the next call does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        peers = peers_named(given.peers)
        named = given.sets or sets_in(given.data)
        sets = {name: read_set(given.data, _place(given.data, name), given.test_rows) for name in named}
        for rows in sets.values():
            if not any(rows.kind in peer.kinds for peer in peers):
                print(f"{rows.name}: none of the peers gives answers of the kind {rows.kind!r}", file=sys.stderr)
        sizes = {name: _sizes(given.rows, rows.name) for name, rows in sets.items()}
        cells = Cells(given.out)
        try:
            harness = Harness(cells, given.out, Environments(given.envs or given.out / "envs"), given.threads)
            ran = 0
            for rows, draw, peer in _asked(sets, sizes, peers, given.draws, per_class=given.per_class):
                if given.most is not None and ran >= given.most:
                    return 0
                ran += harness.run(rows, draw, draw_rows(rows, draw), peer, again=given.again)
            print(f"{ran} cells run; all {len(cells)} of {given.out} are in {given.out / 'cells.jsonl'}", file=sys.stderr)
        finally:
            cells.close()
    except CotuneError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    return 0


def _asked(
    sets: dict[str, RowSet], sizes: dict[str, list[int]], peers: Sequence[Peer], draws: int, *, per_class: bool
) -> Iterator[tuple[RowSet, Draw, Peer]]:
    """Every cell, the first draw of all sets and sizes first, so that a table is possible early."""
    seen = set()
    for number in range(draws):
        for name, rows in sets.items():
            for size in sizes[name]:
                if not per_class and size > len(rows.pool):
                    if not number:
                        print(f"{rows.name}: {size} labelled rows are left out, as there are {len(rows.pool)}", file=sys.stderr)
                    continue
                for peer in peers:
                    draw = Draw(size, per_class, number)
                    key = cell_key(rows.name, draw, peer.name)
                    if rows.kind in peer.kinds and key not in seen:
                        seen.add(key)
                        yield rows, draw, peer


def _place(data: Path, named: str) -> str:
    """The set's folder; the project's own examples are found from anywhere."""
    place = named.partition(":")[0]
    return str(_ROOT / named) if not (data / place).is_dir() and not Path(place).is_dir() else named


def _sizes(asked: Sequence[str], name: str) -> list[int]:
    """The sizes for a set: those that name it, else those that name none."""
    try:
        own = [int(size) for who, _, size in (text.rpartition("=") for text in asked) if who == name]
        return own or [int(text) for text in asked if "=" not in text]
    except ValueError as error:
        raise InputError(f"{error}", where="--rows", hint="Write 64, or banking77=2000.") from error


if __name__ == "__main__":
    sys.exit(main())
