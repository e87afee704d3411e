"""Ten thousand requests with adapters that change from one to the next: memory does not grow with them."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from bundles import PROMPT, Bench
from servers import running, texts

from cotune.bundle import load_several
from cotune.model.adapters.files import LoraSettings
from tiny import widen_lora

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

REQUESTS, WARM, CLIENTS, ADAPTERS = 10_000, 2_000, 4, 4


def test_memory_does_not_grow_with_requests(bench: Bench, tmp_path: Path) -> None:
    folders = []
    for number in range(ADAPTERS):
        widen_lora(bench.model.adapters.start(LoraSettings(rank=4, alpha=8), seed=number))
        adapter = bench.model.adapters.save(bench.model.adapters.weights(), tmp_path / "adapters")
        prompt = replace(PROMPT, instruction=f"Classify the question ({number}): {{labels}}.")
        task = f"task{number}"
        made = bench.save(tmp_path / task, task_name=task, prompt=prompt, adapter_folder=tmp_path / "adapters" / adapter)
        folders.append(made)
    predictors = load_several(folders, device="cpu", dtype="float32", threads=1)
    asked = texts(512)
    with running(predictors) as client, ThreadPoolExecutor(CLIENTS) as pool:

        def ask(i: int) -> int:
            # A text that was not met before, so that no cache answers.
            text, name = f"{asked[i % len(asked)]} {i}", client.models[i % ADAPTERS]
            if i % 3 == 0:
                body = {"model": name, "messages": [{"role": "user", "content": text}]}
                return client.ask("/v1/chat/completions", body).status
            if i % 101 == 1:
                return client.ask("/predict", {"bundle": name, "rows": [text] * 20}).status
            return client.ask("/predict", {"bundle": name, "text": text}).status

        def measured() -> tuple[int, int]:
            gc.collect()
            return psutil.Process().memory_info().rss, sys.getallocatedblocks()

        assert set(pool.map(ask, range(WARM))) == {200}
        rss, blocks = measured()
        assert set(pool.map(ask, range(WARM, REQUESTS))) == {200}
        later, later_blocks = measured()
    print(f"RSS {rss / 2**20:.1f} to {later / 2**20:.1f} MiB, blocks {blocks} to {later_blocks}")
    # A thousand bytes for each request would be 8 MB, a leaked row or future some blocks each.
    assert later - rss < 24 * 2**20
    assert later_blocks - blocks < 0.5 * (REQUESTS - WARM)
