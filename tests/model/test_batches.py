"""Batches of a given size, and scores that are run anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.model.engine import label_scoring
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.engine.scoring import cut_batches
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow
from tiny import tiny_local

PROMPT = Prompt(instruction="Classify the question.", input_template="{input}", cue="Label:")
ROWS = [{"input": "tower " * (1 + i % 4) + str(i)} for i in range(11)]
LABELS = ("place", "person", "number")


def test_batches_hold_no_more_rows_than_asked() -> None:
    rendered = tiny_local().renderer.render(PROMPT, ROWS, LABELS)
    for most in (1, 3, 4):
        batches = cut_batches(rendered, 0, 10_000, most)
        assert [len(b.places) for b in batches] == [most] * (11 // most) + [11 % most] * bool(11 % most)
        assert sorted(place for b in batches for place in b.places) == list(range(11))
    assert len(cut_batches(rendered, 0, 10_000)) == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(10, 200))
def test_batches_are_few_and_alike_in_size(lengths: list[int], most: int) -> None:
    rows = [RenderedRow(tuple(range(length)), ((1,), (2,)), False) for length in lengths]
    batches = cut_batches(rows, 0, most)
    assert sorted(place for b in batches for place in b.places) == list(range(len(rows)))
    filled, tokens = 1, 0
    for length in sorted(lengths):
        if tokens and tokens + length > most:
            filled, tokens = filled + 1, 0
        tokens += length
    assert len(batches) == filled
    largest = max(b.own_tokens for b in batches)
    assert largest <= max(most, max(lengths))
    # None could be smaller without one batch more.
    assert largest == max(lengths) or len(cut_batches(rows, 0, largest - 1)) > len(batches)


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_other_batches_score_alike_but_for_rounding(kind: str) -> None:
    local = tiny_local(kind)  # type: ignore[arg-type]
    whole = local.score(PROMPT, ROWS, LABELS, fresh=True).log_probs
    pieces = local.score(PROMPT, ROWS, LABELS, fresh=True, batch_rows=3).log_probs
    np.testing.assert_allclose(whole, pieces, atol=1e-4)


def test_fresh_scores_neither_come_from_the_cache_nor_enter_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tiny_local()
    cache = ScoreCache(tmp_path / "scores.sqlite")
    monkeypatch.setattr(local, "cache", cache)
    runs: list[int] = []
    real = label_scoring._compute
    monkeypatch.setattr(label_scoring, "_compute", lambda *a: (runs.append(1), real(*a))[1])
    for _ in range(2):
        assert local.score(PROMPT, ROWS, LABELS, fresh=True).cached == 0
    assert len(runs) == 2
    assert local.score(PROMPT, ROWS, LABELS).cached == 0 and len(runs) == 3
    assert local.score(PROMPT, ROWS, LABELS).cached == 11 and len(runs) == 3
    assert local.score(PROMPT, ROWS, LABELS, fresh=True).cached == 0 and len(runs) == 4
