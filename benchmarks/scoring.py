"""Scoring benchmarks: the shared-prefix engine against plain batches, and how near it comes to the machine's rate."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines import one_pass_scores, per_label_scores, sorted_pairs, sorted_rows
from cotune.model.adapters.slots import BASE
from cotune.model.engine.plan import merged_starts
from cotune.model.engine.scoring import Batch, cut_batches, score_batch
from cotune.model.local import LocalModel
from cotune.prompt.render import RenderedRow
from measure import Gemm, best_of, interleaved, say, scoring_flops, summary
from workloads import ScoringWork, middle_of_strides, read_rows, scoring_work

Scores = NDArray[np.float64]
Baseline = Callable[..., Scores]

_SHARE_ROUNDS = 4


@dataclass(frozen=True)
class Sizes:
    """How much a run does: TREC-6 rows and BANKING77 rows fill one batch of the engine each.

    A baseline runs some of the rows only, evenly spread over their lengths, and seconds are compared by the row: it takes many
    times as long, and what it takes for a row does not change with the number of rows.

    Attributes:
        trec_rows: rows that the engine scores on TREC-6.
        trec_baseline_rows: how many of them get one pass a label.
        one_pass_rows: how many of them get one pass in all.
        banking_rows: the same on BANKING77.
        banking_baseline_rows: how many of them get one pass a label.
        end_to_end_rows: rows scored from text to label.
        share_tokens: own tokens of the one batch whose share of the machine's rate is measured.
        trial: sequences in a trial of a batch size.
        batch_sizes: that are tried.
        equal_rows: rows whose scores are compared in fp32.
    """

    trec_rows: int = 90
    trec_baseline_rows: int = 8
    one_pass_rows: int = 48
    banking_rows: int = 11
    banking_baseline_rows: int = 2
    end_to_end_rows: int = 180
    share_tokens: int = 2048
    trial: int = 32
    batch_sizes: tuple[int, ...] = (8, 16, 32)
    equal_rows: int = 6


QUICK = Sizes(12, 4, 6, 6, 2, 12, 256, 8, (4, 8), 2)


@dataclass(frozen=True)
class Versus:
    """A comparison of the engine with a plain way to the same scores.

    Attributes:
        folder: of the data, inside the data folder.
        baseline: one of :mod:`baselines`.
        rows: that the engine scores.
        baseline_rows: how many of them the baseline scores.
        per_label: whether the baseline runs a pass a label.
    """

    folder: str
    baseline: Baseline
    rows: int
    baseline_rows: int
    per_label: bool


def comparisons(sizes: Sizes) -> dict[str, Versus]:
    """The comparisons by key."""
    return {
        "scoring_vs_per_label_trec6": Versus(
            "trec6", per_label_scores, sizes.trec_rows, sizes.trec_baseline_rows, per_label=True
        ),
        "scoring_vs_one_pass_trec6": Versus("trec6", one_pass_scores, sizes.trec_rows, sizes.one_pass_rows, per_label=False),
        "scoring_vs_per_label_banking77": Versus(
            "banking77", per_label_scores, sizes.banking_rows, sizes.banking_baseline_rows, per_label=True
        ),
    }


def work_of(local: LocalModel, data: Path, versus: Versus, rows: int | None = None) -> ScoringWork:
    """The rows and the 60-token prompt of a comparison."""
    found, labels = read_rows(data / versus.folder, rows or versus.rows)
    return scoring_work(local, found, labels, 60, one_token=not versus.per_label)


def compare(local: LocalModel, data: Path, versus: Versus, sizes: Sizes, repeats: int) -> tuple[float, dict[str, Any]]:
    """How many times as long the baseline takes for a row, and the facts behind it.

    Both are timed from text to scores, the engine with the run of its prefix.
    """
    work = work_of(local, data, versus)
    rendered = work.rendered(local)
    chosen = middle_of_strides([len(row.prompt_ids) for row in rendered], versus.baseline_rows)
    part = [rendered[place] for place in chosen]
    name, trials = _trial(local, versus, part, sizes)
    batch_rows = int(name)
    local.score(work.prompt, work.rows, work.labels)
    kept: dict[str, Scores] = {}

    def engine() -> None:
        # The prefix is part of what a request costs.
        local._prefixes.clear()
        kept["engine"] = local.score(work.prompt, work.rows, work.labels).log_probs

    def plain() -> None:
        kept["baseline"] = versus.baseline(local, work.rendered(local, chosen), batch_rows)

    seconds = interleaved({"engine": engine, "baseline": plain}, repeats, local.runner.device)
    each = {
        "engine": [value / len(work.rows) for value in seconds["engine"]],
        "baseline": [value / len(chosen) for value in seconds["baseline"]],
    }
    ratio = statistics.median(each["baseline"]) / statistics.median(each["engine"])
    same = kept["engine"][chosen], kept["baseline"]
    facts = {
        "prefix": work.prefix,
        "labels": len(work.labels),
        "label_words": list(work.prompt.words(work.labels))[:6],
        "engine_rows": len(work.rows),
        "baseline_rows": len(chosen),
        "engine_prompt_tokens": round(statistics.mean(len(row.prompt_ids) for row in rendered), 2),
        "baseline_prompt_tokens": round(statistics.mean(len(row.prompt_ids) for row in part), 2),
        "baseline_batch_rows": batch_rows,
        "baseline_trials": trials,
        "engine": summary(seconds["engine"]),
        "baseline": summary(seconds["baseline"]),
        "ratio_of_minima": round(min(each["baseline"]) / min(each["engine"]), 3),
        "difference_as_run": round(float(np.abs(same[0] - same[1]).max()), 6),
        "same_answer_as_run": float(np.mean(same[0].argmax(axis=1) == same[1].argmax(axis=1))),
    }
    return ratio, facts


def _trial(local: LocalModel, versus: Versus, rows: Sequence[RenderedRow], sizes: Sizes) -> tuple[str, dict[str, float]]:
    """The best batch size for the baseline, on sequences from the middle of the sorted ones."""
    order: list[Any] = sorted_pairs(rows) if versus.per_label else sorted_rows(rows)
    start = max(0, (len(order) - sizes.trial) // 2)
    middle = order[start : start + sizes.trial]
    versus.baseline(local, rows, sizes.batch_sizes[0], middle[: sizes.batch_sizes[0]])
    return best_of(
        {str(size): _bind(versus.baseline, local, rows, size, middle) for size in sizes.batch_sizes}, local.runner.device
    )


def _bind(baseline: Baseline, local: LocalModel, rows: Sequence[RenderedRow], size: int, only: Sequence[Any]) -> Any:
    return lambda: baseline(local, rows, size, only)


def difference(local: LocalModel, data: Path, versus: Versus, sizes: Sizes) -> float:
    """Largest difference between the engine's log-probabilities and the baseline's, on a few rows; for a model in fp32."""
    work = work_of(local, data, versus, sizes.equal_rows)
    rendered = work.rendered(local)
    engine = local.score(work.prompt, work.rows, work.labels).log_probs
    if not versus.per_label:
        return float(np.abs(engine - versus.baseline(local, rendered, 8)).max())
    pairs = sorted_pairs(rendered)
    # Passes in fp32 take long: some pairs of row and label tell for all.
    pairs = pairs[:: max(1, len(pairs) // 24)]
    plain = versus.baseline(local, rendered, 8, pairs)
    return max(abs(float(engine[pair] - plain[pair])) for pair in pairs)


def one_batch_share(
    local: LocalModel, data: Path, prefix: int, gemm: Gemm, sizes: Sizes, repeats: int
) -> tuple[float, dict[str, Any]]:
    """Share of the machine's rate in one batch of TREC-6 rows after a prefix that has run, and the facts behind it."""
    rows, labels = read_rows(data / "trec6", max(64, sizes.share_tokens // 8))
    work = scoring_work(local, rows, labels, prefix)
    batch = _batch_of(work.rendered(local), work.prefix, sizes.share_tokens)
    local.adapters.use(BASE)
    with torch.inference_mode():
        state = local.runner.prefix(work.rendered(local, [0])[0].prompt_ids[: work.prefix])

    def engine() -> None:
        with torch.inference_mode():
            score_batch(local.runner, state, batch)

    positions, run = len(batch.places) * (1 + len(batch.trie.tree.tokens)), _run_tokens(batch)
    facts = {"prefix": work.prefix, "rows": len(batch.places), "own_tokens": batch.own_tokens, "run_tokens": run}
    return _share(local, engine, scoring_flops(local, run, positions), gemm, repeats, facts | {"positions": positions})


def end_to_end_share(local: LocalModel, data: Path, gemm: Gemm, sizes: Sizes, repeats: int) -> tuple[float, dict[str, Any]]:
    """The same for a whole request on TREC-6: rendering, prefix, all batches."""
    rows, labels = read_rows(data / "trec6", sizes.end_to_end_rows)
    work = scoring_work(local, rows, labels, 60)
    batches = cut_batches(work.rendered(local), work.prefix, local.settings.batch_tokens)
    positions = sum(len(batch.places) * (1 + len(batch.trie.tree.tokens)) for batch in batches)
    tokens = work.prefix + sum(map(_run_tokens, batches))

    def engine() -> None:
        local._prefixes.clear()
        local.score(work.prompt, work.rows, work.labels)

    facts = {"prefix": work.prefix, "rows": len(rows), "tokens": tokens, "positions": positions, "batches": len(batches)}
    return _share(local, engine, scoring_flops(local, tokens, positions), gemm, repeats, facts)


def _share(
    local: LocalModel, engine: Callable[[], None], flops: float, gemm: Gemm, repeats: int, facts: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    engine()
    # Where a host's guests share the last cache, a pass slows by a fourth for seconds at a time and the products, which fit the
    # nearer caches, hardly: rounds have to last longer than such a moment.
    rounds = repeats * _SHARE_ROUNDS
    seconds = interleaved({"gemm": gemm, "engine": engine, "gemm_after": gemm}, rounds, local.runner.device)
    shares = gemm.shares(flops, seconds, "engine")
    say(f"  shares {', '.join(f'{share:.3f}' for share in shares)}")
    return statistics.median(shares), facts | {
        "gflop": round(flops / 1e9, 3),
        "engine": summary(seconds["engine"]),
        "gemm": summary(seconds["gemm"] + seconds["gemm_after"]),
        "shares": [round(share, 4) for share in shares],
    }


def _run_tokens(batch: Batch) -> int:
    """Tokens that a batch runs: what its rows begin with alike counts once, so that its products are not counted twice."""
    nodes = len(batch.trie.tree.tokens)
    merged = merged_starts(batch.suffixes, [nodes] * len(batch.suffixes), batch.lengths)
    return batch.own_tokens - sum(map(len, merged))


def _batch_of(rows: Sequence[RenderedRow], prefix: int, tokens: int) -> Batch:
    """One batch of as few rows as have ``tokens`` own tokens together; all rows where they have fewer."""
    for count in range(1, len(rows) + 1):
        first = cut_batches(rows[:count], prefix, 1 << 60)[0]
        if first.own_tokens >= tokens:
            return first
    return cut_batches(rows, prefix, 1 << 60)[0]
