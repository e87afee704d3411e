"""A bundle with a trained prefix: it predicts as it was measured, is exported for PEFT, and its files are guarded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import LABELS, PROMPT, TEXTS, Bench, loaded, make_bench

from cotune.bundle.export.command import export_bundle
from cotune.bundle.load import load_several
from cotune.cli import main
from cotune.errors import InputError
from cotune.files import file_sha256
from cotune.model.adapters.prefix import TrainedPrefix
from cotune.model.adapters.slots import BASE

ROWS = [{"text": text} for text in TEXTS]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = make_bench(tmp_path_factory.mktemp("prefix"))
    ids = made.model.own_prefix(PROMPT, ["text"], LABELS)
    with torch.no_grad():
        state = made.model.run_prefix(BASE, ids)
    assert state is not None
    trained = TrainedPrefix.of_state(state, ids)
    generator = torch.Generator().manual_seed(0)
    moved = TrainedPrefix(
        trained.keys, trained.values + 0.5 * torch.randn(trained.values.shape, generator=generator), trained.ids
    )
    adapter = made.model.adapters.save_prefix(moved, made.adapter.parent)
    return Bench(made.base, made.model, made.adapter.parent / adapter)


def test_it_predicts_as_it_was_measured(prefix: Bench, bench: Bench, tmp_path: Path) -> None:
    measured = prefix.model.score(PROMPT, ROWS, LABELS, adapter=prefix.adapter_id).log_probs
    assert np.abs(measured - prefix.model.score(PROMPT, ROWS, LABELS).log_probs).max() > 0.1
    bundle = prefix.save(tmp_path / "bundle")
    predictor = loaded(bundle)
    np.testing.assert_array_equal(predictor.model.score(PROMPT, ROWS, LABELS, adapter=prefix.adapter_id).log_probs, measured)
    assert predictor.predict(TEXTS) == [LABELS[i] for i in measured.argmax(1)]
    assert "a trained prefix and a decision rule" in (bundle / "README.md").read_text(encoding="utf-8")


def test_it_shares_its_base_with_a_lora_bundle(prefix: Bench, tmp_path: Path) -> None:
    lora = Bench(prefix.base, prefix.model, make_bench(tmp_path / "other").adapter)
    folders = [prefix.save(tmp_path / "prefix"), lora.save(tmp_path / "lora")]
    both = load_several(folders, device="cpu", dtype="float32", threads=1)
    assert both[0].model.fingerprint == both[1].model.fingerprint
    alone = [loaded(folder).predict(TEXTS, probabilities=True) for folder in folders]
    for _ in range(2):
        for predictor, expected in zip(both, alone, strict=True):
            found = predictor.predict(TEXTS, probabilities=True)
            assert [p.probabilities for p in found] == [pytest.approx(p.probabilities, abs=1e-6) for p in expected]


def test_predict_takes_it(prefix: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = prefix.save(tmp_path / "bundle")
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(bundle), "--input", TEXTS[0]])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == loaded(bundle).predict(TEXTS[:1])[0]


def test_a_peft_export_runs_as_its_page_says(prefix: Bench, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bundle = prefix.save(tmp_path / "bundle")
    out = export_bundle(bundle, tmp_path / "out", "peft")
    stands_for = len(prefix.model.own_prefix(PROMPT, ["text"], LABELS))
    assert f"part[:, {stands_for}:]" in (out / "README.md").read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(out / "base")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32), out / "adapter")
    text = json.loads((out / "example.json").read_text(encoding="utf-8"))["prompt_text"].replace("THE TEXT", TEXTS[0])
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    (rendered,) = prefix.model.renderer.render(PROMPT, ROWS[:1], LABELS)
    with torch.inference_mode():
        logits = torch.log_softmax(model(**{n: part[:, stands_for:] for n, part in ids.items()}).logits[0, -1], -1)
    wanted = prefix.model.score(PROMPT, ROWS[:1], LABELS, adapter=prefix.adapter_id).log_probs[0]
    first = [completion[0] for completion in rendered.completions]
    for token in set(first):
        reached = np.logaddexp.reduce([wanted[i] for i, t in enumerate(first) if t == token])
        assert reached <= float(logits[token]) + 1e-4


def test_a_probe_on_it_of_an_earlier_build_answers_and_is_not_exported(prefix: Bench, tmp_path: Path) -> None:
    bundle = prefix.save_probed(tmp_path / "bundle", layer=2, pooled=False)
    assert len(set(loaded(bundle).predict(TEXTS))) > 1
    with pytest.raises(InputError, match="fitted after a search by words"):
        export_bundle(bundle, tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["merged", "gguf", "gguf-merged"])
def test_it_cannot_be_merged_or_written_as_gguf_and_says_so(prefix: Bench, tmp_path: Path, to: Any) -> None:
    with pytest.raises(InputError, match="cannot be added to a model's weights"):
        export_bundle(prefix.save(tmp_path / "bundle"), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["gone", "other"])
def test_what_it_stands_for_is_guarded(prefix: Bench, how: str, tmp_path: Path) -> None:
    bundle = prefix.save(tmp_path / "bundle")
    place = bundle / "adapter" / "prefix.json"
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    if how == "gone":
        place.unlink()
        del manifest["files"]["adapter/prefix.json"]
    else:
        ids = json.loads(place.read_text(encoding="utf-8"))["ids"]
        place.write_text(json.dumps({"ids": ids[::-1]}), encoding="utf-8")
        manifest["files"]["adapter/prefix.json"] = file_sha256(place)
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match="the adapter is not the one"):
        loaded(bundle)
