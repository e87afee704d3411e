"""The endpoint client against a real language-model server: llama-cpp-python's, with an exported base model and adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.bundle.export.command import export_bundle
from cotune.endpoint import Client, Endpoint
from cotune.endpoint.request_format import RequestFormat
from cotune.model.engine.attention import use_plain_attention
from cotune.model.remote.model import RemoteModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
from bundles import LABELS, TEXTS, loaded, make_bench

from llama import llama_server

pytestmark = pytest.mark.llama


def test_a_served_export_tells_the_bundles_probabilities(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("fastapi")
    bench = make_bench(tmp_path)
    bundle = bench.save(tmp_path / "bundle")
    out = export_bundle(bundle, tmp_path / "out", "gguf")
    predictor, rows = loaded(bundle), [{"text": text} for text in TEXTS]
    name = f"questions-{bench.adapter_id}"
    adapter = out / f"adapter-{bench.adapter_id}.gguf"
    with llama_server(out / "base.gguf", name, tmp_path / "log", adapter=adapter) as url:
        client = Client(Endpoint(url, name), most=2)
        remote = RemoteModel(client, way=RequestFormat())
        assert remote.settle(predictor.prompt, rows[0], LABELS).tells_probabilities
        said, _, _ = remote.say([remote_messages(predictor, row) for row in rows])
        scores = remote.score(predictor.prompt, rows, LABELS)
    assert scores.log_probs.shape == (len(rows), len(LABELS)) and np.isfinite(scores.log_probs).all()
    bench.model.adapters.register(bench.adapter)
    bench.model.adapters.use(bench.adapter_id)
    tokenizer = predictor.model.tokenizer
    for row, answer in zip(predictor.model.renderer.render(predictor.prompt, rows, LABELS), said, strict=True):
        assert answer.usage.input == len(row.prompt_ids)
        with torch.inference_mode():
            logits = plain_logits(bench.model.model, row.prompt_ids)
        best = torch.log_softmax(logits.double(), -1).max(0)
        token, log_prob = max(answer.positions[0], key=lambda pair: pair[1])
        assert abs(log_prob - float(best.values)) < 0.05
        assert token == tokenizer.decode([int(best.indices)]) or "�" in tokenizer.decode([int(best.indices)])


def plain_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    use_plain_attention(model)
    logits: torch.Tensor = model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    return logits


def remote_messages(predictor: object, row: dict[str, str]) -> list[dict[str, str]]:
    from cotune.prompt.messages import turns_of

    return list(turns_of(predictor.prompt, row, LABELS).messages)  # type: ignore[attr-defined]
