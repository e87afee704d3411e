"""Does racing through tuning pay? Ways to spend the same tokens on prompts and weights, compared on the same test rows.

    python benchmarks/racing.py --data FOLDER --out FOLDER [--sets trec6 sms_spam] [--rows 64 500] [--seeds 0 1 2]
        [--cells ...] [--steps 64] [--dev N] [--test 250] [--device cpu] [--most N]

A cell is one way, on one set, with one number of labelled rows and one seed. All cells of a set, a size and a seed have the
same rows and the same tokens for everything up to the decision (embedding, scoring and training count alike): as many as
``--steps`` optimizer steps of the seed prompt take. Everything is decided on dev; the test is opened once a cell, for what it
chose and for the same weights under eight wordings that no cell tunes on or races. The ways:

    seed        tune the seed prompt
    winner      race prompts on the base model, tune the best
    race        race, tune three of them (seed, bare input, best) a little each, tune on the best of these
    mixture     race, tune these three at once: every batch asks with one of them
    average     as race, but both best are tuned to the end and their adapters averaged
    cycles      as race, with a second cycle: breed, race under the tuned weights, tune the challenger against the winner
    decay_free  tune the seed prompt at the full learning rate to the end and average the adapters of the last third
    shown       tune the seed prompt with demonstrations in it
    shown_steps the same for as many steps as ``seed`` takes: more tokens
    nearest_steps
                tune the seed prompt with those train rows in it that lie nearest to each row, for as many steps
    untuned     the seed prompt on the base model
    shown_untuned, nearest_untuned
                the same with demonstrations

Checks on dev are paid from the tokens, so many labelled rows need more ``--steps``, or fewer ``--dev`` rows. A way whose tokens
end before the first step hands in its prompt untuned. None meets a train row more than eight times, as in a run by default, and
what it then has left it leaves.

Every finished cell is a line of OUT/results.jsonl; a cell that was killed goes on where it was. ``racing_table.py`` reads them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cotune.config import config_from_data
from cotune.cycle.budget import Budget
from cotune.cycle.candidate import Candidate
from cotune.cycle.costs import CostModel
from cotune.cycle.journal import Journal
from cotune.cycle.lab import Lab
from cotune.cycle.pool import choose_entrants, demonstration_pool, nearest_variant, next_pool, opening_pool
from cotune.cycle.prompt_race import RaceResult, race_prompts
from cotune.cycle.run import Quiet
from cotune.cycle.track import (
    Measured,
    Track,
    advance,
    average_steady,
    decay_steps,
    finish,
    measure,
    open_track,
)
from cotune.evaluate.decision import RAW
from cotune.evaluate.packing import pack_rows
from cotune.files import atomic_path, content_hash
from cotune.model.adapters import BASE
from cotune.model.local import LocalModel
from cotune.model.opening import open_model
from cotune.model.score_cache import ScoreCache
from cotune.prompt.bank import bare_prompt, seed_prompt, starting_bank
from cotune.prompt.prompt import Prompt
from cotune.refine import with_demonstrations
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings
from measure import say

POOL, FINAL, CHILDREN = 6, 3, 4
EPOCHS = 8
WORDINGS = 8
RESULTS = "results.jsonl"


@dataclass
class Bench:
    """One cell's task, lab and seed prompt."""

    lab: Lab
    task: Task
    seed: int
    steps: int

    @property
    def asked(self) -> Prompt:
        return seed_prompt(self.task)

    def short(self, share: int = 8) -> int:
        """Steps of an entrant's short run: at most half of what a run may have."""
        return max(3, min(self.steps // share, EPOCHS * -(-len(self.task.train) // self.lab.tune.batch_size) // 2))

    def check_cost(self, prompts: Sequence[Prompt]) -> float:
        """Tokens of measuring prompts on all of dev."""
        return sum(own * len(self.lab.dev) + prefix for own, prefix in map(self.lab.tokens_a_row, prompts))

    def spend(self, tracks: Sequence[Track], *, decay: bool = True, checks: int = 1, keep: float = 0.0) -> None:
        """Tune tracks side by side with all tokens that are left, the decay of their learning rates included.

        Args:
            tracks: alike in their steps so far.
            decay: whether the learning rates fall at the end.
            checks: measurements on dev on the way, in equal distances.
            keep: tokens that are left over.
        """
        step = sum(track.run.tokens_per_step for track in tracks)
        check = sum(self.check_cost(track.prompts) for track in tracks)
        room = self.lab.left() - (checks + decay) * check - keep
        done, share = tracks[0].steady_steps, self.lab.tune.decay
        # As a run does: rows met more often than this teach nothing new.
        most = EPOCHS * tracks[0].run.steps_per_epoch - tracks[0].start_steps
        steady = done
        while (after := steady + 1 + (decay_steps(steady + 1, share) if decay else 0)) <= most and (
            after - done
        ) * step <= room:
            steady += 1
        if steady == done and decay_steps(done, share) * step * decay > room:
            return
        for track in tracks:
            for place in range(checks):
                until = done + round((steady - done) * (place + 1) / checks)
                advance(self.lab, track, track.start_steps + until, cycle=1)
            if decay:
                finish(self.lab, track, cycle=1)


def race(bench: Bench) -> tuple[dict[str, Prompt], RaceResult]:
    """The first cycle's pool, raced on the base model."""
    proposals = opening_pool(bench.lab, [bench.asked], POOL, demonstrations=False, seed=bench.seed)
    prompts = {p.prompt.id: p.prompt for p in proposals}
    rows = min(len(bench.lab.dev), 128)
    return prompts, race_prompts(bench.lab, list(prompts.values()), BASE, rows=rows, cycle=1, final=FINAL)


def entrants(bench: Bench) -> list[Prompt]:
    """Seed, bare input, and the best of the race besides."""
    prompts, result = race(bench)
    always = [bench.asked, bare_prompt(bench.task)]
    return choose_entrants(bench.lab, [prompts[i] for i in result.ranking], always, 3, cycle=1)


def best(bench: Bench, tracks: Sequence[Track]) -> Measured:
    """Of all that was measured of tracks, the best on dev; the first one's prompt untuned where there was no step."""
    found = [m for track in tracks for m in track.measured]
    return max(found, key=lambda m: m.rank) if found else measure(bench.lab, tracks[0].prompt, BASE, 0, "base")


def tune_seed(bench: Bench) -> Measured:
    track = open_track(bench.lab, bench.asked)
    bench.spend([track])
    return best(bench, [track])


def tune_winner(bench: Bench) -> Measured:
    prompts, result = race(bench)
    track = open_track(bench.lab, prompts[result.ranking[0]])
    bench.spend([track])
    return best(bench, [track])


def first_cycle(bench: Bench, short: int) -> list[Track]:
    """Short runs of the entrants, the best on dev first."""
    tracks = [open_track(bench.lab, prompt) for prompt in entrants(bench)]
    for track in tracks:
        advance(bench.lab, track, short, cycle=1)
    return sorted((t for t in tracks if not t.failed), key=lambda t: t.latest.rank, reverse=True)


def race_through_tuning(bench: Bench) -> Measured:
    tracks = first_cycle(bench, bench.short())
    bench.spend(tracks[:1])
    return best(bench, tracks)


def tune_mixture(bench: Bench) -> Measured:
    first, *also = entrants(bench)
    track = open_track(bench.lab, first, also=also)
    bench.spend([track])
    return best(bench, [track])


def average_survivors(bench: Bench) -> Measured:
    tracks = first_cycle(bench, bench.short())[:2]
    prompts = [track.prompt for track in tracks]
    bench.spend(tracks, keep=bench.check_cost(prompts))
    newest = [track.measured[-1].candidate for track in tracks]
    adapter = bench.lab.average([candidate.adapter for candidate in newest])
    found = [measure(bench.lab, prompt, adapter, newest[0].steps, "average") for prompt in prompts]
    return max(found, key=lambda m: m.rank)


def two_cycles(bench: Bench) -> Measured:
    lab, short = bench.lab, bench.short(14)
    tracks = first_cycle(bench, short)
    incumbent = tracks[0]
    ground = incumbent.latest.candidate
    seen = {track.prompt.id for track in tracks}
    parents = [track.prompt for track in tracks[:2]]
    children = next_pool(lab, 2, parents, CHILDREN, seen, demonstrations=False, seed=bench.seed)
    field = {p.id: p for p in (*parents, *(c.prompt for c in children))}
    result = race_prompts(lab, list(field.values()), ground.adapter, rows=min(len(lab.dev), 128), cycle=2, final=FINAL)
    rival = next(field[i] for i in result.ranking if i != incumbent.prompt.id)
    challenger = open_track(lab, rival, ground.adapter, ground.steps)
    for track in (incumbent, challenger):
        advance(lab, track, ground.steps + short, cycle=2)
    standing = [t for t in (incumbent, challenger) if not t.failed]
    winner = max(standing, key=lambda t: t.latest.rank)
    bench.spend([winner])
    return best(bench, [*tracks, challenger])


def without_decay(bench: Bench) -> Measured:
    track = open_track(bench.lab, bench.asked)
    bench.spend([track], decay=False, checks=6, keep=bench.check_cost(track.prompts))
    average_steady(bench.lab, track, cycle=1, last=3)
    return track.measured[-1]


def with_shown(bench: Bench) -> Prompt:
    """The seed prompt with train rows that lie far apart, balanced over the labels."""
    rng = np.random.default_rng([bench.seed, 20])
    return with_demonstrations(bench.asked, demonstration_pool(bench.lab)(rng))


def tune_shown(bench: Bench) -> Measured:
    track = open_track(bench.lab, with_shown(bench))
    bench.spend([track])
    return best(bench, [track])


def at_equal_steps(bench: Bench, prompt: Prompt) -> Measured:
    """Tune a prompt for as many steps as the budget is of the seed prompt's, whatever that costs."""
    lab = bench.lab
    plain, track = open_track(lab, bench.asked), open_track(lab, prompt)
    more = bench.steps * (track.run.tokens_per_step - plain.run.tokens_per_step)
    more += 2 * (bench.check_cost([prompt]) - bench.check_cost([bench.asked])) + lab.account.counts["tokens_embedded"]
    lab.costs.budget = Budget("tokens", lab.costs.budget.amount + more)
    bench.spend([track])
    return best(bench, [track])


def with_nearest(bench: Bench) -> Prompt:
    """The seed prompt with the train rows nearest to each row."""
    variant = nearest_variant(bench.lab, bench.asked)
    assert variant is not None
    return variant.prompt


def untuned(bench: Bench) -> Measured:
    return measure(bench.lab, bench.asked, BASE, 0, "base")


CELLS: dict[str, Callable[[Bench], Measured]] = {
    "seed": tune_seed,
    "winner": tune_winner,
    "race": race_through_tuning,
    "mixture": tune_mixture,
    "average": average_survivors,
    "shown": tune_shown,
    "untuned": untuned,
    "decay_free": without_decay,
    "cycles": two_cycles,
    "shown_steps": lambda bench: at_equal_steps(bench, with_shown(bench)),
    "shown_untuned": lambda bench: measure(bench.lab, with_shown(bench), BASE, 0, "base"),
    "nearest_untuned": lambda bench: measure(bench.lab, with_nearest(bench), BASE, 0, "base"),
    "nearest_steps": lambda bench: at_equal_steps(bench, with_nearest(bench)),
}


def wordings(task: Task) -> list[Prompt]:
    """Eight ways to ask that no pool holds: the end of the bank, in words for the labels that all cells learn."""
    words = seed_prompt(task).label_words
    bank = {p.id: p for p in (prompt.edit(label_words=words) for prompt in starting_bank(task)[POOL:])}
    return list(bank.values())[-WORDINGS:]


def run_cell(model: LocalModel, task: Task, cell: dict[str, Any], out: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One cell: decide on dev, then open the test once."""
    started = time.monotonic()
    family = out / "work" / f"{cell['set']}-{cell['rows']}-{cell['seed']}"
    folder = family / cell["cell"]
    folder.mkdir(parents=True, exist_ok=True)
    budget = Budget("tokens", 1e12)
    costs = CostModel(budget, 1.0, 1.0)
    # Weights are shared by the cells of a family: a run's checkpoint goes by its content, whoever trains it.
    lab = Lab(task, model, Journal(folder), costs, family, TuneSettings(), cell["seed"], Quiet())
    bench = Bench(lab, task, cell["seed"], given.steps)
    costs.budget = Budget("tokens", given.steps * open_track(lab, bench.asked).run.tokens_per_step)
    chosen = CELLS[cell["cell"]](bench)
    decided = dict(lab.account.counts)
    candidate = chosen.candidate
    asked = [Candidate(prompt, candidate.adapter, RAW) for prompt in wordings(task)]
    opened = task.test.open({"arm": candidate.id, **{f"wording {i}": c.id for i, c in enumerate(asked)}})
    rows = opened.examples_for(candidate.id)
    judged = lab.judge(lab.scores(candidate.prompt, candidate.adapter, rows, "test"), rows, candidate.decision)
    some = np.random.default_rng([cell["seed"], 30]).permutation(len(rows))[: given.wording_rows]
    part = [opened.examples_for(asked[0].id)[i] for i in sorted(some)]
    other = [lab.judge(lab.scores(c.prompt, c.adapter, part, "wording"), part, c.decision) for c in asked]
    return {
        **cell,
        "steps_paid": given.steps,
        "budget": round(costs.budget.amount),
        "tokens": sum(decided[name] for name in ("tokens_scored", "tokens_trained", "tokens_embedded")),
        "tokens_trained": decided["tokens_trained"],
        "n": {"train": len(task.train), "dev": len(task.dev), "test": len(rows), "wording_rows": len(part)},
        "steps": candidate.steps,
        "prompt": candidate.prompt.text,
        "demonstrations": candidate.prompt.nearest or len(candidate.prompt.demonstrations),
        "decision": candidate.decision.kind,
        "dev": round(chosen.evaluation.score, 4),
        "test": round(judged.score, 4),
        "log_loss": round(judged.log_loss, 4),
        "row_ids": [content_hash(list(row.fields.values()), 8) for row in rows],
        "correct": pack_rows(judged.correct),
        "log_losses": [round(float(loss), 3) for loss in judged.log_losses],
        "wording_row_ids": [content_hash(list(row.fields.values()), 8) for row in part],
        "wordings": [pack_rows(found.correct) for found in other],
        "wording_scores": [round(float(found.correct.mean()), 4) for found in other],
        "seconds": round(time.monotonic() - started, 1),
    }


def task_of(data: Path, name: str, rows: int, seed: int, test: int, dev: int | None = None) -> Task:
    """Labelled and test rows of a set, drawn by the seed; without ``dev`` as many labelled rows become dev as in a run."""
    settings = [f"data.test={data / name / 'test.jsonl'}", f"limit.train={rows}", f"limit.test={test}"]
    settings += [] if dev is None else [f"limit.dev={dev}"]
    source = str(data / name / "train.jsonl")
    return Task.from_config(config_from_data(source, input="input", output="output", overrides=settings, seed=seed))


def read_results(out: Path) -> list[dict[str, Any]]:
    """The finished cells; a torn last line is passed over."""
    path = out / RESULTS
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def add_result(out: Path, found: dict[str, Any]) -> None:
    """Write a finished cell; a line that a kill tore before is taken away."""
    with atomic_path(out / RESULTS) as temporary:
        temporary.write_text("".join(json.dumps(cell) + "\n" for cell in (*read_results(out), found)), encoding="utf-8")


def wanted_cells(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """In the order in which they are run: a whole set and size first, seed by seed."""
    for name in given.sets:
        for rows in given.rows:
            for seed in given.seeds:
                for cell in given.cells:
                    yield {"set": name, "rows": rows, "seed": seed, "cell": cell}


def _name(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[key] for key in ("set", "rows", "seed", "cell"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="results, and what is needed to go on")
    parser.add_argument("--sets", nargs="+", default=["trec6", "sms_spam"])
    parser.add_argument("--rows", nargs="+", type=int, default=[64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--steps", type=int, default=64, help="the budget, in optimizer steps of the seed prompt")
    parser.add_argument("--test", type=int, default=250, help="test rows")
    parser.add_argument("--dev", type=int, help="labelled rows to choose on; 30% of them where not given")
    parser.add_argument("--wording-rows", type=int, default=40, help="test rows under each other wording")
    parser.add_argument("--max-tokens", type=int, default=1024, help="longest prompt; longer rows lose their end")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--most", type=int, default=10**6, help="cells that this call runs at most")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    done = {_name(cell) for cell in read_results(given.out)}
    missing = [cell for cell in wanted_cells(given) if _name(cell) not in done]
    if not missing:
        say("nothing is missing")
        return 0
    model = open_model(given.model, device=given.device, dtype=given.dtype).with_max_tokens(given.max_tokens)
    model.cache = ScoreCache(given.out / "scores.sqlite")
    for cell in missing[: given.most]:
        task = task_of(given.data, cell["set"], cell["rows"], cell["seed"], given.test, given.dev)
        found = run_cell(model, task, cell, given.out, given)
        found |= {"device": model.settings.device, "dtype": model.settings.dtype}
        add_result(given.out, found)
        keys = ("set", "rows", "seed", "cell", "steps", "tokens", "dev", "test", "log_loss", "seconds")
        say(" ".join(f"{key}={found[key]}" for key in keys))
        left = [c for c in missing if _name(c)[:3] == _name(cell)[:3]]
        if cell == left[-1]:
            shutil.rmtree(given.out / "work" / "-".join(map(str, _name(cell)[:3])) / "checkpoints", ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
