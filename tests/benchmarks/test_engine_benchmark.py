from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import save_tiny, tiny_local

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

baselines, engine, measure, scoring, tuning, workloads = map(
    import_module, ("baselines", "engine", "measure", "scoring", "tuning", "workloads")
)

TREC = ("abbreviation", "description", "entity", "human", "location", "number")
BANKING = ("card_arrival", "card_delivery", "card_delivery_time", "refund_not_showing_up", "account_locked", "payment")


def made_data(folder: Path) -> Path:
    """Both data sets, with a few made rows each."""
    draw = np.random.default_rng(0)
    words = ("who", "built", "the", "tower", "what", "is", "capital", "of", "country", "card", "account", "code", "book")
    for name, labels in (("trec6", TREC), ("banking77", BANKING)):
        lines = []
        for i in range(40):
            text = " ".join(draw.choice(words, int(draw.integers(2, 9)))) + f" {i}?"
            lines.append(json.dumps({"input": text, "output": labels[i % len(labels)]}))
        (folder / name).mkdir(parents=True)
        (folder / name / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / name / "labels.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("engine-benchmark")
    return save_tiny(root / "model", max_position_embeddings=1024), made_data(root / "data")


@pytest.fixture(scope="module")
def report(folders: tuple[Path, Path]) -> dict[str, Any]:
    model, data = folders
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert engine.main(["--data", str(data), "--model", str(model), "--quick", "--repeats", "2"]) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def test_every_key_is_there_and_a_number(report: dict[str, Any]) -> None:
    assert list(report)[: len(engine.KEYS)] == list(engine.KEYS)
    for key in engine.KEYS:
        if key == "tuning_vs_trl" and report[key] is None:
            continue
        assert isinstance(report[key], float) and math.isfinite(report[key]) and report[key] > 0, key
    assert report["quick"] is True and report["repeats"] == 2


def test_what_is_compared_is_the_same(report: dict[str, Any]) -> None:
    assert report["scores_equal"] is True
    compared = {key for key in engine.KEYS if key.startswith(("scoring_vs", "tuning_vs_plain"))}
    assert set(report["difference_fp32"]) == compared
    assert max(report["difference_fp32"].values()) < 1e-3
    assert report["gradient_rel_diff_fp32"] < 1e-4


def test_facts_behind_the_numbers(report: dict[str, Any]) -> None:
    machine = report["machine"]
    assert machine["cpu"] and machine["threads"] >= 1 and machine["torch"] and machine["dtype"] in ("float32", "bfloat16")
    assert machine["gemm_gflops"]["max"] >= machine["gemm_gflops"]["median"] > 0
    wanted = {"scoring_gemm_share_300": 300, "tuning_vs_plain_300_24": 300}
    for key, facts in report["details"].items():
        if "prefix" in facts:
            assert facts["prefix"] == wanted.get(key, 60), key
        for side in {"engine", "baseline"} & set(facts):
            assert len(facts[side]["runs"]) == (8 if "share" in key else 2) and 0 < facts[side]["min"] <= facts[side]["median"]
    assert report["details"]["scoring_gemm_share"]["own_tokens"] >= scoring.QUICK.share_tokens
    assert report["details"]["tuning_vs_plain_60_20"]["own_tokens_mean"] == 20
    assert report["details"]["tuning_vs_plain_300_24"]["engine_tokens_a_step"] == 300 + 16 * 24


def test_only_some_keys(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model, data = folders
    wanted = ["scoring_vs_one_pass_trec6", "gradient_rel_diff_fp32"]
    given = ["--data", str(data), "--model", str(model), "--quick", "--repeats", "1", "--only", *wanted]
    assert engine.main(given) == 0
    found = json.loads(capsys.readouterr().out)
    assert [key for key in engine.KEYS if key in found] == wanted


def test_missing_data_is_one_message(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(tmp_path), "--model", str(folders[0]), "--quick", "--only", "scoring_gemm_share"]
    assert engine.main(given) == 2
    said = capsys.readouterr()
    assert said.out == "" and "trec6" in said.err and "train.jsonl" in said.err


def test_a_difference_is_seen(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    local, versus = tiny_local("llama"), scoring.comparisons(scoring.QUICK)
    for key, one in versus.items():
        assert scoring.difference(local, folders[1], one, scoring.QUICK) < 1e-4, key
    assert tuning.loss_difference(local, 60, 20) < 1e-4
    assert tuning.gradient_difference(local)[0] < 1e-4
    one_off = baselines._plain_hidden
    monkeypatch.setattr(baselines, "_plain_hidden", lambda model, ids: one_off(model, ids).roll(1, dims=1))
    assert scoring.difference(local, folders[1], versus["scoring_vs_per_label_trec6"], scoring.QUICK) > 1e-2
    assert tuning.loss_difference(local, 60, 20) > 1e-2


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from cotune.tune.loss import shared_prefix_loss

    local = tiny_local("llama")
    work = workloads.tuning_work(448, 60, 20)
    stepper = tuning.Stepper(local)
    # Operations that are needed: stacked layers multiply some zeros, attention is left out.
    with local.adapters.unfused(), FlopCounterMode(display=False) as counter:
        loss, tokens = shared_prefix_loss(local, work.rows, work.prefix)
        loss.backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counts.items() if not any(word in str(op) for word in ("attention", "bmm")))
    assert stepper.parameters and tokens == 60 + 16 * 20
    # The first layer's LoRA reads the embeddings too: no gradient for them.
    expected = measure.tuning_flops(local, tokens, 32)
    assert products == pytest.approx(expected, rel=0.03)
    assert expected >= products


def test_a_draw_of_rows_has_the_mean_length_of_all() -> None:
    lengths = np.random.default_rng(1).integers(5, 60, 200).tolist()
    chosen = workloads.middle_of_strides(lengths, 20)
    assert len(set(chosen)) == 20
    assert np.mean([lengths[place] for place in chosen]) == pytest.approx(np.mean(lengths), abs=1)
