"""Prompts that show each row the demonstrations nearest to it: which, in every room alike, and what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cotune.bundle import load, save_bundle
from cotune.embed import Neighbours, TextEmbedder
from cotune.errors import CotuneError, InputError
from cotune.evaluate.decision import RAW
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.refine import not_shown
from cotune.task.example import Example
from cotune.task.values.output import Output
from tiny import save_tiny, tiny_local

LABELS = ("person", "place", "number")
TEXTS = (
    "who built the tower",
    "what is the capital",
    "how many people",
    "who wrote the book",
    "where is the river",
    "how tall",
)
STOCK = tuple(Demonstration((("text", text),), LABELS[i % 3]) for i, text in enumerate(TEXTS))
PROMPT = Prompt("Name the kind: {labels}", "{text}", "Kind:", demonstrations=STOCK, nearest=2)
ROWS = [{"text": text} for text in ("who is it", "How  Tall", "what is the capital of the country", "many books")]


@pytest.fixture(scope="module")
def model() -> LocalModel:
    found: LocalModel = tiny_local()
    found.renderer.chooser = Neighbours(found)
    return found


def test_the_nearest_stand_last_and_none_is_the_row_itself(model: LocalModel) -> None:
    vectors = TextEmbedder(model).embed([*TEXTS, *(row["text"] for row in ROWS)])
    mean = vectors[: len(TEXTS)].mean(axis=0)
    unit = (vectors - mean) / np.linalg.norm(vectors - mean, axis=1, keepdims=True)
    for place, (row, shown) in enumerate(zip(ROWS, Neighbours(model)(PROMPT, ROWS), strict=True)):
        likeness = unit[: len(TEXTS)] @ unit[len(TEXTS) + place]
        if row["text"] == "How  Tall":
            likeness[5] = -2.0
        assert list(shown.demonstrations) == [STOCK[i] for i in np.argsort(likeness)[-2:]]
    assert len({shown.demonstrations for shown in Neighbours(model)(PROMPT, ROWS)}) > 1
    for shown, own in zip(Neighbours(model)(PROMPT, [dict(d.fields) for d in STOCK]), STOCK, strict=True):
        assert own not in shown.demonstrations and len(shown.demonstrations) == 2


def test_a_row_reads_as_if_its_nearest_were_the_prompts_own(model: LocalModel) -> None:
    rendered = model.renderer.render(PROMPT, ROWS, LABELS)
    for row, shown, found in zip(ROWS, Neighbours(model)(PROMPT, ROWS), rendered, strict=True):
        fixed = PROMPT.edit(demonstrations=shown.demonstrations, nearest=0)
        assert found.prompt_ids == model.renderer.render(fixed, [row], LABELS)[0].prompt_ids
        assert model.renderer.text(PROMPT, row, LABELS) == model.renderer.text(fixed, row, LABELS)
    # Whatever else is asked for with it.
    assert [model.renderer.render(PROMPT, [row], LABELS)[0] for row in ROWS] == rendered


def test_what_a_row_is_shown_costs_tokens_known_or_not(model: LocalModel) -> None:
    first = model.renderer.render(PROMPT, ROWS, LABELS)
    assert all(row.looked_up > 10 for row in first) and model.renderer.render(PROMPT, ROWS, LABELS) == first
    plain = PROMPT.edit(demonstrations=(), nearest=0)
    assert all(row.looked_up == 0 for row in model.renderer.render(plain, ROWS, LABELS))
    fixed = [
        model.score(PROMPT.edit(demonstrations=shown.demonstrations, nearest=0), [row], LABELS)
        for row, shown in zip(ROWS, Neighbours(model)(PROMPT, ROWS), strict=True)
    ]
    together = model.score(PROMPT, ROWS, LABELS)
    np.testing.assert_allclose(together.log_probs, np.concatenate([one.log_probs for one in fixed]), atol=1e-4)
    assert together.tokens > sum(row.looked_up for row in first) + len(ROWS) * 20


def test_rows_of_the_stock_are_learnt_from() -> None:
    rows = [Example(f"train:{i}", dict(shown.fields), shown.output) for i, shown in enumerate(STOCK)]
    assert not_shown(PROMPT, rows) == tuple(rows)
    assert not_shown(PROMPT.edit(nearest=0), rows) == ()


def test_without_a_model_to_look_it_is_refused() -> None:
    with pytest.raises(CotuneError, match="nearest"):
        tiny_local().renderer.render(PROMPT, ROWS, LABELS)


def test_a_prompt_of_before_keeps_its_id_and_a_wrong_number_is_refused() -> None:
    assert "nearest" not in Prompt().to_json() and PROMPT.to_json()["nearest"] == 2
    for wrong in (-1, True, "2", 1.5):
        with pytest.raises(InputError, match="nearest"):
            Prompt.from_json({**PROMPT.to_json(), "nearest": wrong})
    with pytest.raises(InputError, match="nearest"):
        Prompt.from_json({"nearest": 2})


def test_a_bundle_carries_the_stock_and_answers_as_the_model_did(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    local = LocalModel.load(folder)
    local.renderer.chooser = Neighbours(local)
    scores = local.score(PROMPT, ROWS, LABELS).log_probs
    save_bundle(
        tmp_path / "bundle",
        task_name="kinds",
        input_fields=("text",),
        output_field="kind",
        output=Output("label", labels=LABELS),
        metric="accuracy",
        prompt=PROMPT,
        decision=RAW,
        adapter_folder=None,
        model=local,
        metrics={},
        model_name=str(folder),
    )
    predictor = load(tmp_path / "bundle", base=folder, device="cpu", dtype="float32")
    assert predictor.prompt == PROMPT
    assert predictor.model.renderer.render(PROMPT, ROWS, LABELS) == local.renderer.render(PROMPT, ROWS, LABELS)
    found = predictor.predict(ROWS, probabilities=True)
    assert [one.answer for one in found] == [LABELS[i] for i in scores.argmax(axis=1)]
    shares = np.array([[one.probabilities[label] for label in LABELS] for one in found])
    np.testing.assert_allclose(shares, np.exp(RAW.log_probs(scores)), atol=1e-4)
    assert "the 2 most similar of 6 examples" in (tmp_path / "bundle" / "README.md").read_text()
