"""Folders of runs that read labels by probes: made up, but of the form that such a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report_runs import run_folder

from cotune.prompt.prompt import Prompt

ROWS = 200
REFERENCES: dict[str, dict[str, Any]] = {
    "majority": {"score": 0.25, "ci": [0.2, 0.31], "n": 40, "log_loss": 1.4},
    "tfidf": {
        "score": 0.6,
        "ci": [0.53, 0.66],
        "n": 40,
        "log_loss": 1.1,
        "difference": {"value": 0.27, "ci": [0.2, 0.34], "p": 0.0001},
    },
    "zero_shot": {"score": 0.4, "ci": [0.33, 0.47], "n": 40, "log_loss": 1.3},
}
FIRST = (
    "after 31 s: 0.80 (0.74 to 0.85), cross-fitted on 200 rows, by a probe on the state after layer 20; TF-IDF with logistic "
    "regression 0.58"
)


def probe_folder(folder: Path, *, finished: bool = True, **run: Any) -> Path:
    """Write a run of two cycles whose prompts are raced and tuned by probes; other arguments are :func:`run_folder`'s."""
    run_folder(folder, **run)
    journal = folder / "journal.jsonl"
    old = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    made = [Prompt.from_json(p["prompt"]) for line in old if line["kind"] == "pool" for p in line["value"]["proposals"]]
    events = probe_events(made, old)
    if not finished:
        events = events[: next(n for n, (kind, _, _) in enumerate(events) if kind == "plan")]
    journal.write_text(
        "".join(
            json.dumps({"n": n, "kind": kind, "key": "0", "active_s": at, "value": value}) + "\n"
            for n, (kind, at, value) in enumerate(events)
        ),
        encoding="utf-8",
    )
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if not finished:
        (folder / "summary.json").unlink()
        return folder
    for name, arm in summary["arms"].items():
        tuned = "tuned" in name
        arm |= {"readout": "probe", "layer": 20, "steps": 12 if tuned else 0, "adapter_id": ("b" if tuned else "f") * 16}
        arm |= {"decision": {"kind": "probe", "bias": []}, "split": "test"}
    verdict = next(value for kind, _, value in events if kind == "verdict")
    summary |= {"references": REFERENCES, "first_verdict": verdict}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def probe_events(made: list[Prompt], old: list[dict[str, Any]]) -> list[tuple[str, float, Any]]:
    """The journal's lines as kind, seconds and value; what is not the search's comes from ``old``."""
    kept: dict[str, Any] = {line["kind"]: line["value"] for line in old}
    pools = [line["value"] for line in old if line["kind"] == "pool"]
    seed, winner = made[0].id, made[-1].id
    half = len(pools[0]["proposals"])
    first, second = [p.id for p in made[:half]], [p.id for p in made[half:]]
    events: list[tuple[str, float, Any]] = [("engine", 1.0, kept["engine"]), ("start", 4.0, kept["start"])]
    events += [_embed(seed, 5.0, list(range(10, 31, 2)), "race"), ("pool", 6.0, pools[0])]
    events += [_embed(i, 7.0 + n, list(range(10, 31, 2)), "race") for n, i in enumerate(first)]
    events += [("layers", 20.0, {"cycle": 1, "deepest": 26}), _race(1, first[1], first, seed, 28.0)]
    # By a fit to fewer rows, and not on the rows of the race.
    events += [_tuned(seed, 29.0, "base", 0, 0.64, 0.97), _tuned(first[1], 29.5, "base", 0, 0.77, 0.75)]
    # A trial with names of labels as rows.
    events += [_tuned(first[1], 29.55, "base", 0, 0.79, 0.76), ("label_names", 29.57, {"used": False, "text": "not used"})]
    events += [
        ("probe", 29.6, {"adapter_id": "f" * 16, "layer": 20, "stage": "verdict", "weights": "base"}),
        ("verdict", 31.0, _verdict(first[1])),
        ("plan", 32.0, {"epochs": 2.0, "last_epochs": 2.0, "text": ["tune layers below 20 for 4 epochs", "keep 40 s"]}),
    ]
    events += [*_tuning(first[1], 50.0, "a", 0.82, 0.6), *_tuning(seed, 70.0, "c", 0.79, 0.66)]
    events += [
        _cycle(1, first[1], 71.0, 0.82, 0.6),
        ("pool", 72.0, pools[1]),
        _race(2, winner, [first[1], *second], winner, 90.0),
    ]
    # The present code names cycle 1 in every such step.
    events += [_tuned(winner, 91.0, "base", 0, 0.81, 0.65), *_tuning(winner, 110.0, "b", 0.86, 0.5)]
    events += [_cycle(2, winner, 111.0, 0.86, 0.5)]
    confirmed = kept["confirm"]
    confirmed["arms"]["best_tuned"]["decision"] = {"kind": "probe", "bias": []}
    names = ["seed_prompt", "prompt_only", "best_prompt", "seed_tuned", "best_tuned"]
    frozen = {name: f"{n:016x}" for n, name in enumerate((*names, *(f"reference_{name}" for name in REFERENCES)))}
    events += [("confirm", 120.0, confirmed), ("open_test", 121.0, {**kept["open_test"], "arms": frozen})]
    for n, (name, score) in enumerate(zip(names, (0.31, 0.44, 0.43, 0.81, 0.87), strict=True)):
        events.append(("arm", 125.0 + 4 * n, {"name": name, "score": score, "log_loss": 0.5, "n": 40}))
    events += [("reference", 146.0 + n, {"name": name, **one}) for n, (name, one) in enumerate(REFERENCES.items())]
    return events + [(kind, 150.0, kept[kind]) for kind in ("noise", "robustness", "slices", "cost", "done")]


def _embed(prompt_id: str, at: float, layers: list[int], stage: str) -> tuple[str, float, Any]:
    told = {"stage": stage, "prompt_id": prompt_id, "adapter_id": "base", "rows": 96, "layers": layers}
    return "embed", at, {**told, "tokens": 1500, "saved": 900, "truncated": 0, "seconds": 1.0}


def _race(cycle: int, best: str, entered: list[str], beside: str, at: float) -> tuple[str, float, Any]:
    shown = dict.fromkeys([best, beside])
    scores = {i: 0.8 if i == best else 0.66 for i in entered}
    losses = {i: 0.71 if i == best else 0.96 for i in entered}
    value = {
        "cycle": cycle,
        "adapter_id": "base",
        "ranking": [best, *(i for i in entered if i != best)],
        "dropped": [],
        "rows": {i: ROWS if i in shown else 96 for i in entered},
        "scores": scores,
        "log_losses": losses,
        "layers": dict.fromkeys(entered, 20),
        "by_layer": {
            i: {"18": [scores[i] - 0.05, 0.9], "20": [scores[i], losses[i]], "24": [scores[i] - 0.02, 1.0]} for i in shown
        },
        "ridge": {i: {str(layer): 0.8 - 0.01 * layer for layer in range(10, 31, 2)} for i in shown},
        "best": {"prompt_id": best, "score": 0.8, "log_loss": 0.71, "layer": 20},
    }
    return "race", at, value


def _tuned(prompt_id: str, at: float, adapter: str, steps: int, score: float, loss: float) -> tuple[str, float, Any]:
    told = {"cycle": 1, "stage": "tune" if steps else "frozen", "prompt_id": prompt_id, "adapter_id": adapter, "steps": steps}
    read = {"layer": 20, "readout": "probe", "temperature": 0.9}
    return "tuned", at, {**told, **read, "decision": "probe", "score": score, "log_loss": loss, "rows": ROWS}


def _tuning(prompt_id: str, at: float, letter: str, score: float, loss: float) -> list[tuple[str, float, Any]]:
    adapter = letter * 16
    losses = [1.1 + ord(letter) / 1000 - 0.04 * step for step in range(12)]
    train = {"stage": "tune", "prompt_id": prompt_id, "adapter_id": adapter, "start": "base", "steps": 12, "decayed": True}
    train |= {
        "window": [10, 20],
        "rows": 150,
        "losses": losses,
        "loss": 0.7,
        "tokens": 24_000,
        "new_tokens": 9000,
        "seconds": 15.0,
    }
    return [("train", at, train), _embed(prompt_id, at + 1, [20], "judge"), _tuned(prompt_id, at + 2, adapter, 12, score, loss)]


def _cycle(cycle: int, winner: str, at: float, score: float, loss: float) -> tuple[str, float, Any]:
    value = {"cycle": cycle, "kind": "prompts", "winner": winner, "dev_score": score, "dev_log_loss": loss, "steps": 12}
    return "cycle", at, {**value, "tuned": [{"prompt_id": winner, "steps": 12, "score": score, "log_loss": loss}]}


def _verdict(prompt_id: str) -> dict[str, Any]:
    told = {"seconds": 31.0, "score": 0.8, "ci": [0.74, 0.85], "n": ROWS, "log_loss": 0.71, "prompt_id": prompt_id}
    return {**told, "adapter_id": "f" * 16, "layer": 20, "tfidf": 0.58, "text": FIRST}
