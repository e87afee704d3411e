"""How long probes take to cross-fit, at the sizes of a race.

    python benchmarks/probes.py [--repeats 3] [--only KEY ...] [--quick]

Prints one JSON object to stdout, progress to stderr. States are random, with a spectrum that falls as that of hidden states
does and label centres in it, the clearer the higher the layer. ``race_500`` cross-fits 12 prompts of 10 layers on 500 rows with
6 labels, ``many_labels`` one prompt of 10 layers on 2,000 rows with 77 labels; both with the defaults of ``cotune.probe``.
Seconds are medians over repeats, with the threads that torch takes. ``off`` is how far the log-loss of the chosen layer is from
that of a solver with a thirtieth of the tolerance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import cotune.probe.cross_fitting
from cotune.model.hardware.machine import processor_name
from cotune.probe import CrossFit, cross_fit
from measure import say


@dataclass(frozen=True)
class Size:
    """What is fitted, and the seconds that it may take on two cores."""

    prompts: int
    layers: int
    rows: int
    width: int
    labels: int
    wanted: float


SIZES = {"race_500": Size(12, 10, 500, 576, 6, 10.0), "many_labels": Size(1, 10, 2000, 576, 77, 30.0)}


def states_of(size: Size, seed: int) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """``[layers, rows, width]`` divided by their root mean square, and labels."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(size.rows) % size.labels)
    spectrum = np.arange(1, size.width + 1) ** -0.7
    turn = np.linalg.qr(draw.normal(size=(size.width, size.width)))[0]
    centres = draw.normal(size=(size.labels, size.width))
    found = np.empty((size.layers, size.rows, size.width), dtype=np.float16)
    for layer in range(size.layers):
        clear = 1.2 * (layer + 1) / size.layers
        states = ((clear * centres[labels] + draw.normal(size=(size.rows, size.width))) * spectrum) @ turn
        found[layer] = states / np.sqrt(np.square(states).mean(1, keepdims=True))
    return found, labels


def measure(size: Size, repeats: int) -> dict[str, Any]:
    """Seconds to cross-fit all prompts, and what the first of them gave."""
    made = [states_of(size, seed) for seed in range(size.prompts)]
    seconds, fits = [], list[CrossFit]()
    for _ in range(repeats):
        start = time.perf_counter()
        fits = [cross_fit(states, labels, classes=size.labels) for states, labels in made]
        seconds.append(time.perf_counter() - start)
    best = fits[0].best
    return {
        "seconds": round(statistics.median(seconds), 3),
        "wanted": size.wanted,
        "runs": [round(one, 3) for one in seconds],
        "log_loss": round(best.log_loss, 4),
        "accuracy": round(best.accuracy, 4),
        "off": round(abs(_exact(made[0], size, fits[0]) - best.log_loss), 6),
        "size": [size.prompts, size.layers, size.rows, size.width, size.labels],
    }


def _exact(made: tuple[NDArray[np.float16], NDArray[np.int64]], size: Size, found: CrossFit) -> float:
    module = cotune.probe.cross_fitting
    usual, module.CROSS_TOLERANCE = module.CROSS_TOLERANCE, module.CROSS_TOLERANCE / 30
    try:
        layer = found.layer - 1
        return cross_fit(made[0][layer], made[1], classes=size.labels, strengths=[found.best.strength]).best.log_loss
    finally:
        module.CROSS_TOLERANCE = usual


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of everything (3)")
    parser.add_argument("--only", nargs="+", choices=tuple(SIZES), metavar="KEY", help=f"some of: {', '.join(SIZES)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast it is")
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    for key in given.only or SIZES:
        size = SIZES[key]
        if given.quick:
            size = replace(size, prompts=1, layers=5, rows=min(80, size.rows), width=24, labels=min(size.labels, 7))
        say(f"{key} ...")
        found[key] = measure(size, given.repeats)
        say(f"  {found[key]['seconds']} s")
    machine = {"cpu": processor_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({**found, "machine": machine, "quick": given.quick}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
