from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cotune.cli import main
from cotune.embed import EmbedSettings, command
from cotune.embed.command import _texts_of, open_embedder
from cotune.embed.texts import read_texts, texts_of_table
from cotune.errors import InputError
from cotune.task.reading.table import table_from_rows
from tiny import save_tiny

TEXTS = ["Who?", "How tall is the tower?", "card", "Who?"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    return save_tiny(tmp_path / "model", "llama")


def embed(*arguments: str) -> int:
    try:
        main(["embed", *arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_texts_in_vectors_out_in_all_formats(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"question": text, "n": 1}) + "\n\n" for text in TEXTS), encoding="utf-8")
    plain = tmp_path / "texts.txt"
    plain.write_text("\n".join(TEXTS), encoding="utf-8")
    given = ["--model", str(model), "--json"]
    assert embed("--input", str(lines), "--column", "question", "--out", str(tmp_path / "a.npy"), *given) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["texts"] == 4 and first["from_cache"] == 0
    for name in ("b.jsonl", "c.parquet"):
        assert embed("--input", str(plain), "--out", str(tmp_path / name), *given) == 0
        assert json.loads(capsys.readouterr().out)["from_cache"] == 3
    vectors = np.load(tmp_path / "a.npy")
    assert vectors.shape == (4, first["width"]) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[0], vectors[3])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    np.testing.assert_allclose([row["vector"] for row in rows], vectors, atol=1e-5)
    table = pq.read_table(tmp_path / "c.parquet").to_pydict()
    assert table["text"] == TEXTS
    np.testing.assert_allclose(np.array(table["vector"]), vectors, atol=1e-6)


def test_whatever_changes_a_vector_is_in_the_key(model: Path) -> None:
    one = open_embedder(str(model))
    one.embed(TEXTS)
    again = open_embedder(str(model))
    np.testing.assert_array_equal(one.embed(TEXTS), again.embed(TEXTS))
    assert again.found == 3
    for settings in (EmbedSettings("static"), EmbedSettings(layer=None), EmbedSettings(words=False)):
        other = open_embedder(str(model), settings)
        assert not np.array_equal(one.embed(TEXTS), other.embed(TEXTS))
        assert other.found == 0


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("", [], "there are no texts"),
        ('{"text": "a"}\n{"text": 3}', [], "line 2: the line has no text in 'text'"),
        ('{"text": "a"}\nplain', [], "line 2: the line is not JSON"),
        ("a", ["--pooling", "mean"], "--pooling: unknown value 'mean'"),
        ("a", ["--standard", "zca"], "--standard: unknown value 'zca'"),
        ("a\na", ["--standard", "whiten"], "two different texts"),
        ("a", ["--standard", "centre"], "two different texts"),
        ('{"text": "cut \\ud83d"}', [], "line 1: there is half a character"),
        ("a", ["--layer", "99"], "layer: the model has"),
        ("a", ["--out", "vectors.pkl"], "not written as .pkl"),
        ("a", ["--out", "/dev/null/vectors.npy"], "where a folder is needed"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, arguments: list[str], said: str
) -> None:
    texts = tmp_path / "texts"
    texts.write_text(content, encoding="utf-8")
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "v.npy")]
    assert embed("--input", str(texts), "--model", str(model), *out, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "v.npy").exists()


@given(st.lists(st.text(min_size=1).filter(lambda t: bool(t.strip())), min_size=1))
def test_json_lines_come_back_as_they_were(texts: list[str]) -> None:
    for escaped in (True, False):
        content = "\n".join(json.dumps({"text": text}, ensure_ascii=escaped) for text in texts)
        assert read_texts(content, "here") == texts


def test_a_json_list_is_a_table(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('[{"text": "first"}, {"text": "second"}]')
    assert _texts_of(file, None, blank=False) == (["first", "second"], 0)


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed("--input", str(tmp_path / "no"), "--out", str(tmp_path / "v.npy")) == 2
    assert "the file does not exist" in capsys.readouterr().err
    with pytest.raises(InputError):
        read_texts("\n \n", "here")


def test_one_text_keeps_its_own_vector(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With nothing to compare with, nothing can be taken off: centring would leave zeros."""
    (tmp_path / "one").write_text("Who?\nWho?", encoding="utf-8")
    assert embed("--input", str(tmp_path / "one"), "--out", str(tmp_path / "v.npy"), "--model", str(model), "--json") == 0
    assert json.loads(capsys.readouterr().out)["standard"] == "none"
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), open_embedder(str(model)).embed(["Who?", "Who?"]))


def test_files_fitted_on_the_same_texts_can_be_compared(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "both").write_text("\n".join(TEXTS), encoding="utf-8")
    for name, texts in (("few", TEXTS[:1]), ("many", TEXTS)):
        (tmp_path / name).write_text("\n".join(texts), encoding="utf-8")
        fitted = ["--fit-on", str(tmp_path / "both"), "--model", str(model), "--json"]
        assert embed("--input", str(tmp_path / name), "--out", str(tmp_path / f"{name}.npy"), *fitted) == 0
        assert json.loads(capsys.readouterr().out)["standard"] == "centre"
    few, many = np.load(tmp_path / "few.npy"), np.load(tmp_path / "many.npy")
    np.testing.assert_array_equal(few[0], many[0])


def test_what_is_longer_than_a_model_reads_is_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long").write_text("Who?\n" + "card " * 300, encoding="utf-8")
    arguments = ["--input", str(tmp_path / "long"), "--out", str(tmp_path / "v.npy"), "--model", str(model)]
    assert embed(*arguments, "--pooling", "static") == 0
    assert "Of 1 only the first 1200 characters were read." in capsys.readouterr().err


def test_only_line_ends_end_a_text_and_a_brace_is_no_object() -> None:
    assert read_texts("one\u2028still one\r\ntwo\x85\rthree", "here") == ["one\u2028still one", "two", "three"]
    assert read_texts('{"text": "a\u2028b"}\n', "here") == ["a\u2028b"]
    assert read_texts("{name} asks\n{}", "here") == ["{name} asks", "{}"]
    for broken in ('{"text": "a"', '{\n  "text": "a"\n}'):
        with pytest.raises(InputError, match="not JSON"):
            read_texts(broken, "here")


def test_standard_input_that_is_no_utf_8_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for errors in ("strict", "surrogateescape"):
        piped = io.TextIOWrapper(io.BytesIO("wie weit\nMünchen".encode("latin-1")), encoding="utf-8", errors=errors)
        monkeypatch.setattr("sys.stdin", piped)
        assert embed("--input", "-", "--out", str(tmp_path / "v.npy"), "--model", str(model)) == 2
        assert "standard input: it is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["Customer message", "Customer_message"])
def test_a_column_is_known_by_either_name(column: str) -> None:
    table = table_from_rows([{"Customer message": "late", "n": 1}], "rows.csv")
    assert texts_of_table(table, column) == ["late"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("rows.csv", 'text,n\nWho?,1\n,2\ncard,3\n"  ",4\n', "line 3, column 'text': the cell is blank (2 rows are like this)"),
        (
            "rows.jsonl",
            '{"text": "Who?"}\n{"text": ""}\n{"text": "card"}\n{"text": null}',
            "line 2: the line has no text in 'text'",
        ),
    ],
)
def test_rows_without_text_are_left_out_on_request(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, error: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    arguments = ["--input", str(tmp_path / name), "--out", str(tmp_path / "v.jsonl"), "--model", str(model)]
    assert embed(*arguments) == 2
    told = capsys.readouterr().err
    assert error in told and "leave such rows out: --on-blank skip" in told
    assert embed(*arguments, "--on-blank", "skip") == 0
    assert "2 rows without text were left out." in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == ["Who?", "card"]
    assert embed(*arguments, "--on-blank", "skip", "--json") == 0
    assert json.loads(capsys.readouterr().out)["blank_rows_skipped"] == 2
    assert embed(*arguments, "--on-blank", "drop") == 2
    assert "--on-blank: unknown value 'drop'" in capsys.readouterr().err


def test_a_column_of_blanks_has_no_texts(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("text,n\n,1\n,2\n", encoding="utf-8")
    arguments = ["--input", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "v.npy"), "--model", str(model)]
    assert embed(*arguments, "--on-blank", "skip") == 2
    assert "every row has a blank text" in capsys.readouterr().err


def test_the_input_is_not_replaced_by_its_vectors(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    assert embed("--input", str(rows), "--out", str(rows), "--model", str(model)) == 2
    assert "this is the input file" in capsys.readouterr().err and rows.read_text() == '{"text": "a"}\n'


def test_an_interrupt_loses_a_few_vectors_only(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_TEXTS_AT_ONCE", 3)
    texts, asked = [f"an interrupted text {place}" for place in range(8)], []
    embedder = open_embedder(str(model))
    real = embedder.embedder.embed

    def interrupted(part: Sequence[str]) -> NDArray[np.float32]:
        asked.append(len(part))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(part)

    monkeypatch.setattr(embedder.embedder, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedder.embed(texts)
    assert asked == [3, 3, 2]
    again = open_embedder(str(model))
    assert again.embed(texts).shape[0] == 8 and again.found == 6


def test_json_lines_of_texts_are_read_without_their_quotes() -> None:
    assert read_texts('"first \\u00e9"\n"second"\nthird\n', "rows.jsonl") == ["first é", "second", "third"]
    assert read_texts('"quoted" is a word\n', "rows.jsonl") == ['"quoted" is a word']
    assert read_texts('"first"\n', "rows.txt") == ['"first"']
    assert read_texts('{"Customer message": "hello"}\n', "rows.jsonl", column="Customer_message") == ["hello"]
