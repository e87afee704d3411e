"""Run folders for tests of the report: made up, but of the form that a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cotune.prompt.prompt import Demonstration, Prompt

HOSTILE = (
    "</script><script>window.hurt = 1</script>",
    '<img src=x onerror="window.hurt = 1">',
    '" onmouseover="window.hurt=1" x=\'',
    "<!--<script>",
    "]]>&lt;b&gt; &amp; \u2028\u2029 \\u003c",
    "😀👩‍👩‍👧 مرحبا \u202eevil\u202c עברית \x1b[31m \ud800 end",
    "long " * 20_000,
    "javascript:window.hurt=1",
)
"""Texts that break a page that is put together carelessly."""
ARMS = ("seed_prompt", "prompt_only", "best_prompt", "seed_tuned", "best_tuned")


def run_folder(
    folder: Path,
    *,
    rows: int = 40,
    prompts: int = 8,
    dev: int = 50,
    labels: tuple[str, ...] = ("animal", "fruit", "tool"),
    texts: tuple[str, ...] = ("a plain row", "another one"),
    finished: bool = True,
    tests: bool = True,
    late: bool = False,
) -> Path:
    """Write a run of two cycles; ``texts`` turn up wherever data or a prompt is shown.

    With ``late``, answers are written by finalists alone, so that the search knows log-losses and no scores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = _prompts(prompts, texts)
    events = _events(made, rows, texts)
    if late:
        events = _without_scores(events)
    if not finished:
        events = events[: len(events) // 2]
    lines = [
        json.dumps({"n": n, "kind": kind, "key": "0", "active_s": 1.0 + n, "value": value})
        for n, (kind, value) in enumerate(events)
    ]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "name": texts[0][:40],
        "data": {"train": "rows.csv", "dev": None, "input": ["text"], "output": "label"},
        "model": "smollm2-135m",
        "metric": "token_f1" if late else "accuracy",
        "budget": "2Mtok",
        "seed": 0,
        "limit": {"train": None},
    }
    identity = {"data": "d" * 16, "prompts": [made[0].id], "cotune": "0.1.0"}
    (folder / "config.json").write_text(json.dumps({"config": config, "identity": identity}))
    if finished:
        summary = _summary(made, rows, labels, texts)
        summary |= {"metric": "token_f1", "labels": [], "output": {"type": "text"}} if late else {}
        (folder / "summary.json").write_text(json.dumps(summary))
    if finished and tests:
        tests_made, devs = made_rows(rows, labels, texts), _dev_rows(made, dev, labels, texts)
        for name, found in (("test_rows.json", tests_made), ("dev_rows.json", devs)):
            (folder / name).write_text(json.dumps(_as_written(found) if late else found))
    return folder


def made_rows(
    rows: int, labels: tuple[str, ...], texts: tuple[str, ...], *, split: str = "test", names: Sequence[str] = ARMS
) -> dict[str, Any]:
    """Answers of all arms: row 0 is right everywhere, row 1 wrong everywhere, in row 2 the arms differ."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(rows):
        gold = i % len(labels)
        answers, probabilities = {}, {}
        for place, arm in enumerate(names):
            answer = gold if i == 0 or (i > 1 and (i + place) % 3 == 0) else (gold + 1) % len(labels)
            weights = rng.random(len(labels)) * 0.2
            weights[answer] += 1
            answers[arm] = answer
            probabilities[arm] = [float(p) for p in weights / weights.sum()]
        text = texts[i % len(texts)]
        found.append({"id": f"{split}:{i}", "input": text, "gold": gold, "answers": answers, "probabilities": probabilities})
    return {"labels": list(labels), "rows": found}


def _dev_rows(made: list[Prompt], rows: int, labels: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, Any]:
    """Answers of the last prompts and the first, best first: the last one tuned, the others by the base model."""
    shown = [*made[:0:-1][:5], made[0]]
    candidates = [
        {
            "id": f"{place}" * 16,
            "prompt_id": prompt.id,
            "adapter_id": "base" if place else "b" * 16,
            "steps": 0 if place else 20,
            "score": 0.74 - 0.05 * place,
            "n": rows,
        }
        for place, prompt in enumerate(shown)
    ]
    found = made_rows(rows, labels, texts, split="dev", names=[str(one["id"]) for one in candidates])
    return {**found, "candidates": candidates}


def _as_written(found: dict[str, Any]) -> dict[str, Any]:
    """Rows whose answers are labels as rows whose answers are texts."""
    names = found["labels"]
    rows = []
    for row in found["rows"]:
        right = {arm: answer == row["gold"] for arm, answer in row["answers"].items()}
        answers = {arm: names[answer] for arm, answer in row["answers"].items()}
        written = {"gold": names[row["gold"]], "answers": answers, "right": right}
        rows.append(
            {"id": row["id"], "input": row["input"], **written, "values": {arm: float(ok) for arm, ok in right.items()}}
        )
    return {**found, "labels": [], "rows": rows}


def _without_scores(events: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The journal of a search by the log-loss, of which 1.5 minus twice the score is what each score becomes."""

    def loss(score: float) -> float:
        return round(1.5 - 2 * score, 4)

    found: list[tuple[str, Any]] = []
    for kind, value in events:
        if kind == "race":
            losses = {i: loss(score) for i, score in value["scores"].items()}
            best = {**value["best"], "score": None, "log_loss": losses[value["best"]["prompt_id"]]}
            value = {**value, "scores": dict.fromkeys(losses), "log_losses": losses, "best": best}
        elif kind in ("score", "tuned"):
            value = {**value, "score": None, "log_loss": loss(value["score"])}
        elif kind == "cycle":
            tuned = [{**one, "score": None, "log_loss": loss(one["score"])} for one in value["tuned"]]
            value = {**value, "dev_score": None, "dev_log_loss": loss(value["dev_score"]), "tuned": tuned}
        elif kind == "confirm":
            best = value["arms"]["best_tuned"]
            named = {"prompt_id": best["prompt_id"], "adapter_id": best["adapter_id"], "stage": "confirm"}
            found.append(("write", {**named, "rows": 50, "score": 0.61, "log_loss": 0.02, "tokens": 4000}))
            dev = {arm: {"score": None, "log_loss": loss(one["score"]), "correct": None} for arm, one in value["dev"].items()}
            dev["best_tuned"]["score"] = 0.61
            value = {**value, "dev": dev}
        found.append((kind, value))
    return found


def _prompts(count: int, texts: tuple[str, ...]) -> list[Prompt]:
    # A prompt cannot hold half a surrogate pair, for it has a hash; data and messages can.
    texts = tuple(text.replace("\ud800", "") for text in texts)
    made = [Prompt(instruction="Classify the text.", input_template="Text: {text}", cue="Label:")]
    for i in range(1, count):
        shown = (Demonstration((("text", texts[i % len(texts)]),), "fruit"),) if i % 3 == 0 else ()
        made.append(made[0].edit(instruction=f"Say what text {i} is about. {texts[i % len(texts)]}", demonstrations=shown))
    return made


def _events(made: list[Prompt], rows: int, texts: tuple[str, ...]) -> list[tuple[str, Any]]:
    half = max(2, len(made) // 2)
    winner = made[-1].id
    events: list[tuple[str, Any]] = [
        ("engine", {"device": "cpu", "dtype": "float32", "threads": 1, "batch_tokens": 2048}),
        (
            "start",
            {
                "task": texts[0][:60],
                "n": {"train": 100, "dev": 50, "test": rows},
                "model": "smollm2-135m",
                "budget": "2Mtok",
                "seed": 0,
                "prompts": [made[0].to_json()],
                "checks": [texts[0]],
                "detectable": "A gain below about 9 points cannot be distinguished from noise.",
            },
        ),
    ]
    for cycle, pool in ((1, made[:half]), (2, made[half:])):
        ids = [p.id for p in pool]
        seen = {i: 50 if place % 2 == 0 else 20 for place, i in enumerate(ids)}
        events += [
            (
                "pool",
                {
                    "cycle": cycle,
                    "proposals": [_proposal(p, made[0] if p is not made[0] else None) for p in pool],
                    "places": [[np.cos(i), np.sin(2 * i)] for i in range(len(pool))],
                },
            ),
            ("score", {"stage": "race", "prompt_id": ids[0], "rows": 50, "score": 0.4, "tokens": 5000}),
            (
                "race",
                {
                    "cycle": cycle,
                    "adapter_id": "base" if cycle == 1 else "a" * 16,
                    "ranking": ids,
                    "dropped": ids[-1:] if cycle == 1 else [],
                    "rows": seen,
                    "scores": {i: 0.4 + 0.02 * place for place, i in enumerate(ids)},
                    "log_losses": dict.fromkeys(ids, 1.0),
                    "best": {"prompt_id": ids[0], "score": 0.4, "log_loss": 1.0},
                },
            ),
        ]
        for prompt_id, adapter, score in ((made[0].id, "a" * 16, 0.6), (winner, "b" * 16, 0.7)):
            losses = [2.0 / (step + 1 + len(adapter)) + ord(adapter[0]) for step in range(10 * cycle)]
            told = {"prompt_id": prompt_id, "adapter_id": adapter, "steps": 10 * cycle}
            events += [
                ("train", {**told, "losses": losses, "new_tokens": 20_000, "decayed": False}),
                (
                    "tuned",
                    {**told, "cycle": cycle, "score": score + 0.02 * cycle, "rows": 50, "log_loss": 0.8, "stage": "tune"},
                ),
            ]
        record = {"cycle": cycle, "dev_score": 0.7 + 0.02 * cycle, "winner": winner, "steps": 10 * cycle}
        tuned = [{"prompt_id": i, "score": score + 0.02 * cycle} for i, score in ((made[0].id, 0.6), (winner, 0.7))]
        events.append(("cycle", {**record, "tuned": tuned}))
    events += [
        (
            "confirm",
            {
                "arms": {"best_tuned": {"prompt": made[-1].to_json(), "prompt_id": winner, "adapter_id": "b" * 16}},
                "dev": {"seed_prompt": {"score": 0.4}, "prompt_only": {"score": 0.5}, "best_tuned": {"score": 0.74}},
            },
        ),
        ("open_test", {"arms": {}, "n": rows, "test": "e" * 16}),
        ("noise", _noise()),
        ("robustness", _robustness(made[-1], texts)),
        ("slices", _slices(texts)),
        ("cost", {"wall_s": 61.0, "peak_rss_mb": 900}),
        ("done", {"bundle": "best"}),
    ]
    return events


def _proposal(prompt: Prompt, parent: Prompt | None) -> dict[str, Any]:
    parents = [parent.id] if parent else []
    return {"prompt": prompt.to_json(), "source": "edit" if parent else "user", "parents": parents, "operator": "cue"}


def _noise() -> dict[str, Any]:
    return {
        "n": 48,
        "largest": 0.021,
        "mean": 0.0043,
        "reach": 0.03,
        "spread": 0.008,
        "flipped": 1,
        "batch_rows": [48, 3],
        "tokens": 2000,
    }


def _slices(texts: tuple[str, ...]) -> dict[str, Any]:
    examples = [{"input": {"text": text}, "right": "animal", "answered": text} for text in texts]
    rates = {"rate": 0.5, "ci": [0.2, 0.8], "rest": 0.1, "rest_ci": [0.03, 0.2], "difference": 0.4, "difference_ci": [0.1, 0.7]}
    shown = {"words": list(texts[:3]), "n": 8, "failures": [1, 4, 6, 7], **rates, "p": 0.03, "examples": examples[:3]}
    return {"cycle": None, "rows": 50, "failures": 9, "slices": [shown], "tokens": 900}


def _robustness(prompt: Prompt, texts: tuple[str, ...]) -> dict[str, Any]:
    variants = [prompt.edit(cue=cue) for cue in ("label:", "LABEL:", "Label =", "### Label")]
    scores = ([0.31, 0.42, 0.38, 0.5], [0.88, 0.9, 0.9, 0.9])
    measures = {name: {"value": 0.03, "observed": 0.04, "ci": [0.01, 0.07]} for name in ("min", "max", "range", "sd")}
    return {
        "n": 50,
        "base": {"scores": scores[0], **measures},
        "tuned": {"scores": scores[1], **measures},
        "change": {"value": -0.05, "observed": -0.06, "ci": [-0.09, -0.01], "significant": True},
        "sentence": "Tuning makes the model less sensitive to the prompt's format. " + texts[0][:100],
        "own": {"base": 0.44, "tuned": 0.92},
        "prompts": [variant.to_json() for variant in variants],
    }


def _summary(made: list[Prompt], rows: int, labels: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, Any]:
    scores = dict(zip(ARMS, (0.31, 0.44, 0.43, 0.81, 0.87), strict=True))
    gain = {
        "value": 0.06,
        "ci": [0.01, 0.11],
        "p": 0.04,
        "ci_single": [0.02, 0.1],
        "p_single": 0.02,
        "identical": False,
        "test": "exact McNemar",
    }
    quiet = {**gain, "value": -0.02, "ci": [-0.08, 0.04], "p": 0.5, "p_single": 0.5}
    return {
        "task": texts[0][:60],
        "n": {"train": 100, "dev": 50, "test": rows},
        "model": "smollm2-135m",
        "metric": "accuracy",
        "labels": list(labels),
        "verdict": "On test rows, on top of tuning, the searched prompt gains 6.0 points. Tuning gains more. " + texts[0][:200],
        "next": ["More test rows would narrow the interval.", texts[-1][:300]],
        "arms": {
            arm: {
                "score": score,
                "ci": [score - 0.05, score + 0.05],
                "n": rows,
                "log_loss": 0.5,
                "adapter_id": "b" * 16 if "tuned" in arm else "base",
                "prompt_id": made[{"seed": 0, "prom": 1}.get(arm[:4], -1)].id,
                "candidate_id": f"{place:016x}",
            }
            for place, (arm, score) in enumerate(scores.items())
        },
        "gains": {
            "prompt_given_tuning": gain,
            "tuning": gain,
            "both": gain,
            "prompt": quiet,
            "synergy": quiet,
            "synergy_log_loss": quiet,
        },
        "selection": {"dev": 0.9, "dev_corrected": 0.88, "test": 0.87, "optimism": 0.03, "candidates": len(made)},
        "cost": {
            "wall_s": 61.0,
            "tokens_scored": 1e6,
            "tokens_trained": 2e5,
            "tokens_saved_by_prefix": 3e6,
            "peak_rss_mb": 900,
        },
        "noise": _noise(),
        "robustness": _robustness(made[-1], texts),
        "slices": _slices(texts),
        "test_opened_before": 4,
        "stopped": texts[0][:100],
        "data": {
            "counts": {"train": 100, "dev": 50, "test": rows, "train_rows_in_test": 3},
            "findings": [{"kind": "x", "severity": "warning", "message": texts[0], "count": 3, "examples": ["train:1"]}],
        },
        "best": {"bundle": "best"},
        "seed": 0,
        "versions": {"cotune": "0.1.0", "python": "3.11"},
    }
