"""What a bundle answers is what was measured: same ids, same probabilities, same rule."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from bundles import BIAS, LABELS, PROMPT, TEXTS, Bench, loaded

from cotune.bundle import Prediction, Predictor, predict_stream
from cotune.bundle.answer_sheet import answer_sheet, check_sheet
from cotune.bundle.rows import checked_row
from cotune.cli import main
from cotune.errors import DivergedError, InputError
from cotune.evaluate.decision import RAW, Decision
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow, Renderer
from cotune.prompt.truncate import Truncation
from cotune.task.reading.read import read_sheet
from cotune.task.reading.sheet import sheet_text
from cotune.task.values.output import Output, label_output
from cotune.tune.batches import training_rows
from cotune.tune.settings import TuneSettings
from cotune.tune.trainer import TuningRun

ROWS = [{"text": text} for text in TEXTS]


@pytest.fixture(scope="module")
def predictor(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return loaded(bench.save(tmp_path_factory.mktemp("saved") / "best"))


@pytest.mark.parametrize("decision", [RAW, BIAS], ids=["raw", "bias"])
@pytest.mark.parametrize("tuned", [True, False])
def test_round_trip_gives_the_measured_answers(bench: Bench, tmp_path: Path, decision: Decision, tuned: bool) -> None:
    bundle = bench.save(tmp_path / "best", decision=decision, adapter_folder=bench.adapter if tuned else None)
    found = loaded(bundle).predict(TEXTS, probabilities=True)
    scores = bench.model.score(PROMPT, ROWS, LABELS, adapter=bench.adapter_id if tuned else BASE).log_probs
    expected = np.exp(decision.log_probs(scores))
    assert np.array_equal([list(one.probabilities.values()) for one in found], expected)
    assert [one.answer for one in found] == [LABELS[i] for i in decision.predict(scores)]
    assert all(tuple(one.probabilities) == LABELS and math.isclose(sum(one.probabilities.values()), 1) for one in found)
    assert loaded(bundle).predict(TEXTS) == [one.answer for one in found]
    assert (bundle / "adapter").exists() == tuned


def test_a_bias_can_lift_a_label_that_pruning_would_leave_out(bench: Bench, tmp_path: Path) -> None:
    pruned, full = (bench.model.score(PROMPT, ROWS, LABELS, adapter=bench.adapter_id, top=top).log_probs for top in (1, None))
    row, label = np.argwhere(np.isneginf(pruned))[0]
    bias = np.zeros(len(LABELS))
    bias[label] = full[row].max() - full[row, label] + 1
    found = loaded(bench.save(tmp_path / "best", decision=Decision("bias", tuple(map(float, bias)))))
    assert found.predict(TEXTS)[row] == LABELS[label]


@pytest.mark.parametrize(("free", "tokens"), [(10**12, 2048), (0, 256)])
def test_passes_are_as_long_as_memory_allows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, tokens: int
) -> None:
    monkeypatch.setattr("cotune.model.hardware.capability.free_memory", lambda device: free)
    found = loaded(bench.save(tmp_path / "best"))
    assert isinstance(found.model, LocalModel) and found.model.settings.batch_tokens == tokens


def test_for_one_row_nothing_is_prepared_for_many(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(tmp_path / "best")
    found = loaded(bundle, once=True)
    assert isinstance(found.model, LocalModel) and not found.model.prepacked
    one, other = (each.predict(TEXTS[0], probabilities=True)[0] for each in (found, loaded(bundle)))
    assert one.answer == other.answer
    assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-5)


def test_adapter_and_bias_matter(bench: Bench, tmp_path: Path) -> None:
    kinds = {"base": {"adapter_folder": None}, "tuned": {}, "biased": {"decision": BIAS}}
    found = [
        [one.probabilities["place"] for one in loaded(bench.save(tmp_path / name, **more)).predict(TEXTS, probabilities=True)]
        for name, more in kinds.items()
    ]
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[1], found[2])


def test_the_copied_adapter_is_a_plain_peft_folder(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(tmp_path / "best")
    assert {p.name: p.read_bytes() for p in (bundle / "adapter").iterdir()} == {
        p.name: p.read_bytes() for p in bench.adapter.iterdir()
    }


def test_training_scoring_and_predicting_see_the_same_ids(
    bench: Bench, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[list[RenderedRow]] = []
    whole = Renderer.render

    def recorded(self: Renderer, prompt: Prompt, rows: Sequence[Any], labels: Sequence[str]) -> list[RenderedRow]:
        rendered.append(whole(self, prompt, rows, labels))
        return rendered[-1]

    monkeypatch.setattr(Renderer, "render", recorded)
    bench.model.score(PROMPT, ROWS, LABELS)
    by_score = rendered.pop()
    predictor.predict([{"label": "place", **row} for row in ROWS])
    by_predict = rendered.pop()
    gold = [0, 1, 2, 3]
    learned = training_rows(bench.model.renderer.render(PROMPT, ROWS, LABELS), gold)
    assert [row.prompt_ids for row in learned] == [row.prompt_ids for row in by_score]
    assert [row.answer_ids for row in learned] == [row.completions[i] for row, i in zip(by_score, gold, strict=True)]
    assert by_predict == by_score

    # And these ids, whole, are what the weights are given: prefix once, then each row's own.
    fed: dict[str, list[int]] = {}

    def listen(name: str, model: Any) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            # The engine adds a few tokens of id 0 at the end of a pass.
            fed.setdefault(name, []).extend(token for token in inputs[0].flatten().tolist() if token)

        return model.model.get_input_embeddings().register_forward_pre_hook(hook)

    one = ROWS[:1]
    # Which layers share their input is looked up once, on ids that mean nothing, before any row is learnt from.
    bench.model.adapters.wrap(TuneSettings().lora)
    hooks = [listen("predict", predictor.model), listen("tune", bench.model)]
    try:
        predictor.predict(one, probabilities=True)
        settings = TuneSettings(batch_size=1, shared_prefix=False)
        TuningRun(bench.model, learned[:1], settings, seed=0, folder=tmp_path).advance(1)
    finally:
        for hook in hooks:
            hook.remove()
        bench.model.adapters.use(BASE)
    ids = list(learned[0].prompt_ids)
    assert 0 not in ids
    assert fed["tune"][: len(ids)] == ids
    assert fed["predict"][: len(ids)] == ids


def test_inputs_in_every_form(predictor: Predictor) -> None:
    (first,) = predictor.predict(TEXTS[0])
    assert predictor.predict(ROWS[0]) == predictor.predict([TEXTS[0]]) == [first]
    assert predictor.predict(tuple(TEXTS)) == predictor.predict(ROWS) == predictor.predict(iter(TEXTS))  # type: ignore[call-overload]
    assert predictor.predict([{"text": 12}]) == predictor.predict("12")
    assert predictor.predict("x", probabilities=True)[0].truncated is False


def test_frames_are_answered_by_row(predictor: Predictor) -> None:
    columns = {"id": list(range(5)), "text": [*TEXTS, 0.5]}
    by_row = predictor.predict([*TEXTS, "0.5"], probabilities=True)
    frame = pd.DataFrame(columns, index=[7, 7, 2, 1, 0])
    assert predictor.predict(frame, probabilities=True) == by_row
    texts = {**columns, "text": list(map(str, columns["text"]))}
    for found in (pl.DataFrame(texts), pl.DataFrame(texts).lazy(), pa.table(texts)):
        assert predictor.predict(found, probabilities=True) == by_row
    with pytest.raises(InputError, match="row 2, text: the input is empty"):
        predictor.predict(pd.DataFrame({"text": ["a", None]}))
    with pytest.raises(InputError, match="row 1: there is no field 'text', did you mean 'Texts'"):
        predictor.predict(pd.DataFrame({"Texts": ["a"]}))
    with pytest.raises(InputError, match="row 1, column 'text': the cell holds a value that cannot be written as text"):
        predictor.predict(pd.DataFrame({"text": [b"a"]}))
    with pytest.raises(InputError, match="no rows"):
        predictor.predict(pd.DataFrame({"text": []}))


def test_other_columns_cannot_change_an_answer(predictor: Predictor) -> None:
    odd = {"labels": "none", "question": "{text}", "text": TEXTS[0]}
    assert predictor.predict([odd], probabilities=True) == predictor.predict(TEXTS[:1], probabilities=True)


def test_cut_texts_are_told(bench: Bench, predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    long = "How tall is the tower? "
    found = predictor.predict([TEXTS[0], long * 200, long * 4000], probabilities=True)
    assert [one.truncated for one in found] == [False, True, True]
    assert found[1].probabilities == pytest.approx(found[2].probabilities)
    assert "2 of 3 rows" in caplog.text


@pytest.mark.parametrize("truncate", ["middle", "end"])
def test_long_texts_are_shortened_as_they_were_in_the_run(bench: Bench, tmp_path: Path, truncate: Truncation) -> None:
    model = bench.model.with_prompts(200, truncate)
    bundle = bench.save(tmp_path / "best", model=model)
    # Older bundles say nothing; their runs removed the end.
    recorded = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["engine"]
    assert recorded == {"max_tokens": 200} | ({"truncate": "middle"} if truncate == "middle" else {})
    found, row = loaded(bundle), {"text": "How tall is the tower? " * 100 + "Who built it?"}
    (rendered,) = found.rendered([row])
    assert rendered == model.renderer.render(PROMPT, [row], LABELS)[0] and rendered.truncated
    assert ("Who built it?" in model.tokenizer.decode(rendered.prompt_ids)) == (truncate == "middle")


@pytest.mark.parametrize(
    ("rows", "where", "what"),
    [
        ([], "predict", "no rows"),
        (["ok", "  "], "row 2, text", "empty"),
        ("", "row 1", "empty"),
        ([{"text": "ok"}, {"Texts": "x"}], "row 2", "did you mean 'Texts'"),
        ([{}], "row 1", "no field 'text'"),
        ([{"text": [b"a"]}], "row 1, field 'text'", "type list cannot be converted"),
        ([{"text": b"a"}], "row 1, field 'text'", "type bytes cannot be converted"),
        ([{"text": ["\ud83d"]}], "row 1, field 'text'", "half a character"),
        ([{"text": None}], "row 1", "empty"),
        ([3], "row 1", "not a int"),
        (["a\0b"], "row 1, field 'text'", "NUL"),
        (["\ud83d"], "row 1, field 'text'", "half a character"),
    ],
)
def test_rows_that_cannot_be_answered(predictor: Predictor, rows: Any, where: str, what: str) -> None:
    with pytest.raises(InputError) as error:
        predictor.predict(rows)
    assert error.value.where.startswith(where)
    assert what in error.value.what
    assert error.value.hint


def test_a_row_is_told_by_the_header_of_its_file() -> None:
    with pytest.raises(InputError) as error:
        checked_row({"Customer message": " "}, ("Customer_message",), "row 1")
    assert error.value.where == "row 1, Customer message"
    with pytest.raises(InputError, match="field 'Customer message': there is a NUL"):
        checked_row({"Customer message": "\0"}, ("Customer_message",), "row 1")


def test_lists_and_objects_are_asked_as_they_were_learnt(predictor: Predictor) -> None:
    rows: list[dict[str, Any]] = [{"text": ["How", 2]}, {"text": []}, {"text": {"a": ["b"]}}]
    shown = ["How, 2", "none", '{"a": ["b"]}']
    assert predictor.predict(rows, probabilities=True) == predictor.predict(shown, probabilities=True)


def test_a_task_with_two_fields(bench: Bench, tmp_path: Path) -> None:
    prompt = Prompt(input_template="{title}\n{body}", cue="Label:")
    found = loaded(bench.save(tmp_path / "best", input_fields=("title", "body"), prompt=prompt))
    row = {"body": "My card", "title": "Card"}
    scores = bench.model.score(prompt, [{"title": "Card", "body": "My card"}], LABELS, adapter=bench.adapter_id).log_probs
    assert found.predict(row) == [LABELS[int(scores.argmax())]]
    assert found.predict([{"title": "", "body": "x"}])
    with pytest.raises(InputError, match="2 input fields"):
        found.predict("one text")


def stream(predictor: Predictor, lines: list[str], **options: Any) -> list[dict[str, Any]]:
    written: list[str] = []
    predict_stream(predictor, lines, written.append, **options)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in written)
    return [json.loads(line) for line in written]


def test_stream_answers_rows_in_order(predictor: Predictor) -> None:
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    lines = ["\ufeff" + json.dumps(rows[0]) + "\n", "\n", *(json.dumps(row) + "\n" for row in rows[1:])]
    assert stream(predictor, ['{"text": "a", "x": [1e999]}\n'])[0]["x"] == [None], "JSON has no infinity"
    found = stream(predictor, lines, batch=3, probabilities=True)
    whole = predictor.predict(TEXTS, probabilities=True)
    assert [row["id"] for row in found] == [0, 1, 2, 3]
    assert [row["text"] for row in found] == TEXTS
    assert [row["answer"] for row in found] == [one.answer for one in whole]
    assert [list(row["probabilities"]) for row in found] == [list(LABELS)] * 4
    shares = [[row["probabilities"][label] for label in LABELS] for row in found]
    np.testing.assert_allclose(shares, [[one.probabilities[label] for label in LABELS] for one in whole], atol=2e-5)


def test_stream_takes_bare_texts_and_tells_cut_ones(predictor: Predictor) -> None:
    long = "How tall is the tower? " * 200
    found = stream(predictor, [json.dumps(TEXTS[0]), json.dumps({"text": long, "odd": "\ud83d"})])
    assert found[0] == {"text": TEXTS[0], "answer": predictor.predict(TEXTS[0])[0]}
    assert found[1]["truncated"] is True
    assert found[1]["odd"] == "\ud83d"


def test_stream_keeps_all_keys_of_a_row(predictor: Predictor) -> None:
    own = {"answer": "old", "error": "E12", "possible": 1, "truncated": False, "answer_2": None}
    found = stream(predictor, [json.dumps({"text": text, **own}) for text in (TEXTS[0], " ")])
    assert found[0] == {"text": TEXTS[0], **own, "answer_3": predictor.predict(TEXTS[0])[0]}
    assert found[1] == {"text": " ", **own, "answer_3": None, "error_2": "the input is empty"}


def test_stream_writes_each_batch_before_it_reads_on(predictor: Predictor) -> None:
    written: list[str] = []
    seen: list[int] = []
    flushed: list[int] = []

    def lines() -> Any:
        for text in TEXTS:
            seen.append(len(written))
            yield json.dumps({"text": text})

    count = predict_stream(predictor, lines(), written.append, flush=lambda: flushed.append(len(written)), batch=2)
    assert seen == [0, 0, 2, 2] and flushed[:2] == [2, 4]
    assert (count.rows, count.truncated) == (4, 0)


def test_a_program_gets_each_answer_before_it_sends_the_next_row(bench: Bench, tmp_path: Path) -> None:
    """And in UTF-8, whatever the locale."""
    command = [sys.executable, "-m", "cotune.cli", "predict", str(bench.save(tmp_path / "best")), "--batch", "1"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*command, "--probabilities"], **pipes, env={**os.environ, "PYTHONIOENCODING": "latin-1"}) as asked:
        assert asked.stdin is not None and asked.stdout is not None
        killed = threading.Timer(120, asked.kill)
        killed.start()
        told = []
        for escaped in (True, False):
            asked.stdin.write(f"{json.dumps({'text': 'größer, für 5 €?'}, ensure_ascii=escaped)}\n".encode())
            asked.stdin.flush()
            told.append(json.loads(asked.stdout.readline()))
        assert told[0] == told[1] and told[0]["text"] == "größer, für 5 €?"
        asked.stdin.close()
        assert asked.wait(60) == 0
        killed.cancel()


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("{", "not JSON"),
        ("[1]", "not a list"),
        ("{}", "no field 'text'"),
        ('{"text": NaN}', "NaN is not a number"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_stream_names_the_line_and_answers_what_stood_before(predictor: Predictor, bad: str, what: str) -> None:
    written: list[str] = []
    with pytest.raises(InputError) as error:
        predict_stream(predictor, ['{"text": "a"}', "", bad, '{"text": "b"}'], written.append, source="rows.jsonl")
    assert error.value.where.startswith("rows.jsonl, line 3")
    assert what in error.value.what
    assert [json.loads(line)["text"] for line in written] == ["a"]


@pytest.mark.parametrize(
    ("errors", "where", "before"), [("surrogateescape", "line 3", ["a", "b"]), ("strict", "after line", [])]
)
def test_stream_that_is_no_utf_8_is_told(predictor: Predictor, errors: str, where: str, before: list[str]) -> None:
    written: list[str] = []
    content = '{"text": "a"}\n{"text": "b"}\n{"text": "Müller"}\n{"text": "c"}\n'.encode("latin-1")
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors=errors)
    with pytest.raises(InputError, match="not UTF-8 text") as error:
        predict_stream(predictor, lines, written.append)
    assert error.value.where.startswith(f"standard input, {where}") and "iconv" in str(error.value.hint)
    assert [json.loads(line)["text"] for line in written] == before


def test_a_row_that_cannot_be_answered_is_told_in_its_place(predictor: Predictor) -> None:
    written: list[str] = []
    lines = ['{"text": "a"}', '{"text": " ", "id": 1}', '{"text": "\\ud83d"}', '""', '{"text": "b"}']
    count = predict_stream(predictor, lines, written.append, batch=2)
    found = [json.loads(line) for line in written]
    assert (count.rows, count.errors) == (2, 3)
    assert [row["answer"] for row in found[:1] + found[4:]] == predictor.predict(["a", "b"])
    assert found[1] == {"text": " ", "id": 1, "answer": None, "error": "the input is empty"}
    assert [row["answer"] for row in found[1:4]] == [None] * 3 and "half a character" in found[2]["error"]
    with pytest.raises(InputError, match=r"line 1.*empty"):
        stream(predictor, ['{"text": ""}', '{"text": ""}'])


@pytest.mark.parametrize(("label_type", "own"), [("int", [0, 1, 10, 11]), ("text", ["0", "1", "10", "11"])])
def test_labels_come_back_as_the_data_had_them(bench: Bench, tmp_path: Path, label_type: Any, own: list[Any]) -> None:
    output = label_output(("0", "1", "10", "11"), label_type)
    found = loaded(bench.save(tmp_path / "best", output=output, prompt=PROMPT.edit(label_words=(), demonstrations=())))
    told = found.predict(TEXTS, probabilities=True)
    assert [one.answer for one in told] == found.predict(TEXTS) and list(told[0].probabilities) == own
    assert all(type(one.answer) is type(own[0]) for one in told)
    assert [row["answer"] for row in stream(found, [json.dumps(text) for text in TEXTS])] == found.predict(TEXTS)
    assert [one.answer for one in found.answers(ROWS)] == [str(one.answer) for one in told]


def test_json_answers_are_values_in_json(bench: Bench, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    output = Output("json", schema_text=json.dumps(schema))
    prompt = Prompt("Write it.", "{text}", "Answer:")
    bundle = bench.save(tmp_path / "best", output=output, metric="json_f1", answer_tokens=20, prompt=prompt)
    predictor = loaded(bundle)
    (text,) = predictor.predict(TEXTS[:1])
    assert stream(predictor, [json.dumps(TEXTS[0])], probabilities=True)[0]["answer"] == json.loads(text)
    (tmp_path / "rows.csv").write_text(f"text\n{TEXTS[0]}\n")
    sheet = read_sheet(tmp_path / "rows.csv")
    for nested, wanted in ((False, text), (True, json.loads(text))):
        found = answer_sheet(predictor, sheet, check_sheet(sheet, ("text",)), nested=nested)
        assert found.added == {"answer": [wanted]}


def test_truth_values_are_written_as_the_training_rows_had_them(bench: Bench, tmp_path: Path) -> None:
    labels = label_output(("FALSE", "TRUE"), "bool")
    bundle = bench.save(tmp_path / "best", output=labels, prompt=Prompt("Is it?", "{text}", "Answer:"))
    (tmp_path / "rows.csv").write_text(f"text\n{TEXTS[0]}\n")
    sheet = read_sheet(tmp_path / "rows.csv")
    predictor, checked = loaded(bundle), check_sheet(sheet, ("text",))
    assert answer_sheet(predictor, sheet, checked).added["answer"][0] in (True, False)
    found = answer_sheet(predictor, sheet, checked, typed=False)
    assert sheet_text(sheet, found.added, ".csv").splitlines()[1].endswith((",TRUE", ",FALSE"))


def test_how_right_numbers_are_written_is_told(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("number", schema_text='{"type": "number"}')
    prompt = Prompt("Count.", "{text}", "Answer:")
    bundle = bench.save(tmp_path / "best", output=output, answer_tokens=4, prompt=prompt)
    rows = tmp_path / "rows.csv"
    rows.write_text('text,label\na,"1,5 kg"\nb,"2,25 kg"\n')
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(bundle), str(rows)])
    said = capsys.readouterr()
    assert "accuracy" in said.out
    assert "'label' is read as numbers with decimal commas and without the unit 'kg'" in said.err
    assert "('1,5 kg' is 1.5)" in said.err


def test_an_empty_stream(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="no rows"):
        stream(predictor, ["\n"])


def test_predictions_compare_by_content() -> None:
    assert Prediction("a", {"a": 1.0}, False) == Prediction("a", {"a": 1.0}, False)


@pytest.mark.parametrize("probabilities", [False, True])
def test_weights_that_are_no_numbers_give_no_answer(bench: Bench, tmp_path: Path, probabilities: bool) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(bench.adapter, tmp_path / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    save_file({name: torch.full_like(each, torch.nan) for name, each in weights.items()}, broken / "adapter_model.safetensors")
    found = loaded(bench.save(tmp_path / "best", adapter_folder=broken))
    with pytest.raises(DivergedError, match="not finite"):
        found.predict(TEXTS, probabilities=True) if probabilities else found.predict(TEXTS)


def test_a_row_that_lacks_one_of_several_fields_ends_no_stream(bench: Bench, tmp_path: Path) -> None:
    two = loaded(bench.save(tmp_path / "two", input_fields=("subject", "text")))
    written: list[str] = []
    lines = ['{"subject": "a", "text": "b"}', '{"text": "b"}', '{"subject": "c", "text": "d"}']
    count = predict_stream(two, lines, written.append)
    found = [json.loads(line) for line in written]
    assert (count.rows, count.errors) == (2, 1) and found[1]["answer"] is None and "no field 'subject'" in found[1]["error"]
    with pytest.raises(InputError, match="no field"):
        predict_stream(two, ['{"body": "b"}'], written.append)
