"""How fast the engine is: against plain batches, against the machine's own rate, and whether it computes the same.

    python benchmarks/engine.py --data FOLDER [--repeats 3] [--only KEY ...] [--quick] [--model NAME]

Prints one JSON object to stdout, progress to stderr. Ratios are baseline seconds over engine seconds, medians of interleaved
runs. Shares are the floating-point operations of tokens that are not padding (linear layers, and the output layer at the
positions that are read; attention left out) over seconds, against the rate of matrix products at the model's shapes in the
same number type, measured right before and after. What equals what is checked in fp32. Exit code 1 where it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import scoring
import trl_baseline
import tuning
from cotune.errors import CotuneError, InputError
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.capability import check_capability
from cotune.model.loading.bundled import resolve_model
from cotune.model.local import LocalModel
from measure import Gemm, machine_facts, say

KEYS = (
    "scoring_vs_per_label_trec6",
    "scoring_vs_one_pass_trec6",
    "scoring_vs_per_label_banking77",
    "tuning_vs_plain_60_20",
    "tuning_vs_plain_300_24",
    "tuning_vs_trl",
    "gradient_rel_diff_fp32",
    "scoring_gemm_share",
    "scoring_gemm_share_300",
    "scoring_gemm_share_end_to_end",
    "tuning_gemm_share",
    "tuning_window_vs_full",
    "tuning_new_batches",
    "early_exit",
)
TOLERANCE = 1e-3
_TUNING = {"tuning_vs_plain_60_20": (60, 20), "tuning_vs_plain_300_24": (300, 24)}


class Bench:
    """One run: the model, and what was found so far.

    Args:
        folder: of the model.
        data: folder that holds ``trec6`` and ``banking77``.
        keys: what is wanted.
        repeats: timed runs of everything.
        quick: small sizes, which show that all parts work and say nothing about speed.

    Attributes:
        results: values by key.
        details: facts by key.
        differences: largest difference to the baseline in fp32, by key.
    """

    def __init__(self, folder: Path, data: Path, keys: set[str], repeats: int, *, quick: bool) -> None:
        self.folder, self.data, self.keys, self.repeats = folder, data, keys, repeats
        self.sizes = scoring.QUICK if quick else scoring.Sizes()
        self.quick = quick
        found = check_capability()
        self.settings = EngineSettings(device=found.device, dtype=found.dtype, threads=found.threads)
        self.local = self._load(self.settings)
        self.machine = machine_facts(self.local)
        self.gemm = Gemm(self.local, 128 if quick else 2048)
        self.results: dict[str, float | None] = {}
        self.details: dict[str, dict[str, Any]] = {}
        self.differences: dict[str, float] = {}

    def run(self) -> None:
        """Everything that is wanted; scoring first, while the model has no LoRA layers yet."""
        self.gemm()
        for key, versus in scoring.comparisons(self.sizes).items():
            self._do(key, lambda v=versus: scoring.compare(self.local, self.data, v, self.sizes, self.repeats))
        for key, prefix in (("scoring_gemm_share", 60), ("scoring_gemm_share_300", 300)):
            self._do(
                key,
                lambda p=prefix: scoring.one_batch_share(self.local, self.data, p, self.gemm, self.sizes, self.repeats),
            )
        self._do(
            "scoring_gemm_share_end_to_end",
            lambda: scoring.end_to_end_share(self.local, self.data, self.gemm, self.sizes, self.repeats),
        )
        self._do("early_exit", lambda: tuning.compare_early_exit(self.local, 60, 20, self.repeats))
        self._tuning()
        self._do("tuning_window_vs_full", lambda: tuning.compare_window(self.local, 60, 20, self.repeats))
        self._do("tuning_new_batches", lambda: tuning.compare_new_batches(self.local, 60, 20, self.repeats, quick=self.quick))
        self._exactness()

    def _do(self, key: str, work: Callable[[], tuple[float, dict[str, Any]]]) -> None:
        if key not in self.keys:
            return
        start = time.perf_counter()
        say(f"{key} ...")
        self.results[key], self.details[key] = work()
        say(f"  {self.results[key]:.4g} ({time.perf_counter() - start:.0f} s)")

    def _tuning(self) -> None:
        shares: dict[str, float] = {}

        def compare(key: str) -> tuple[float, dict[str, Any]]:
            prefix, own = _TUNING[key]
            ratio, shares[key], facts = tuning.compare(self.local, prefix, own, self.gemm, self.repeats)
            return ratio, facts

        if "tuning_gemm_share" in self.keys:
            # The share is read off the same steps.
            self.keys = self.keys | {"tuning_vs_plain_60_20"}
        for key in _TUNING:
            self._do(key, lambda k=key: compare(k))
        if "tuning_gemm_share" in self.keys:
            self.results["tuning_gemm_share"] = shares["tuning_vs_plain_60_20"]
        if "tuning_vs_trl" in self.keys and not trl_baseline.installed():
            say("tuning_vs_trl: TRL is not installed")
            self.results["tuning_vs_trl"] = None
            return
        self._do("tuning_vs_trl", lambda: trl_baseline.compare(self.local, self.folder, repeats=self.repeats))

    def _exactness(self) -> None:
        versus = {key: value for key, value in scoring.comparisons(self.sizes).items() if key in self.keys}
        losses = {key: shape for key, shape in _TUNING.items() if key in self.keys}
        if not versus and not losses and "gradient_rel_diff_fp32" not in self.keys:
            return
        say("loading the model in fp32 ...")
        # The first model is not needed any more, and two take the memory of two.
        del self.local
        self.gemm.free()
        gc.collect()
        exact = self._load(EngineSettings(self.settings.device, "float32", self.settings.threads))
        for key, one in versus.items():
            self.differences[key] = scoring.difference(exact, self.data, one, self.sizes)
        for key, (prefix, own) in losses.items():
            self.differences[key] = tuning.loss_difference(exact, prefix, own)
        for key, value in self.differences.items():
            say(f"  {key}: differs by {value:.2g} at most")
        self._do("gradient_rel_diff_fp32", lambda: tuning.gradient_difference(exact))

    def _load(self, settings: EngineSettings) -> LocalModel:
        local = LocalModel.load(self.folder, settings=settings)
        if not local.shared:
            raise InputError("the shared-prefix engine does not fit this model", where=str(self.folder))
        return local

    def report(self) -> dict[str, Any]:
        """The JSON object."""
        rates = [rate / 1e9 for rate in self.gemm.rates]
        gemm = {"median": round(statistics.median(rates), 2), "max": round(max(rates), 2)} if rates else None
        return {
            **{
                key: None if (value := self.results[key]) is None else float(f"{value:.5g}")
                for key in KEYS
                if key in self.results
            },
            "scores_equal": all(value <= TOLERANCE for value in self.differences.values()),
            "difference_fp32": {key: float(f"{value:.3g}") for key, value in self.differences.items()},
            "machine": self.machine | {"gemm_gflops": gemm},
            "repeats": self.repeats,
            "quick": self.quick,
            "details": self.details,
        }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds trec6/ and banking77/")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of everything, four times as many of shares (3)")
    parser.add_argument("--only", nargs="+", choices=KEYS, metavar="KEY", help=f"some of: {', '.join(KEYS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast it is")
    parser.add_argument("--model", default="smollm2-135m", help="bundled model, folder or hub id (smollm2-135m)")
    given = parser.parse_args(arguments)
    if given.repeats < 1:
        parser.error("--repeats must be 1 or more")
    start = time.perf_counter()
    try:
        # Libraries that print must not spoil the one object on stdout.
        with contextlib.redirect_stdout(sys.stderr):
            bench = Bench(
                resolve_model(given.model, say), given.data, set(given.only or KEYS), given.repeats, quick=given.quick
            )
            bench.run()
            report = bench.report() | {"seconds": round(time.perf_counter() - start, 1)}
    except CotuneError as error:
        say(f"error: {error}")
        return 2
    print(json.dumps(report, indent=1))
    if not report["scores_equal"]:
        say(f"error: scores differ by more than {TOLERANCE}: {report['difference_fp32']}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
