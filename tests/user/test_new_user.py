"""The first hour of a new user, by the commands alone: a spreadsheet in, answers out, scores, runs side by side."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from desk import HEADER, Cotune, Desk, sheet_rows
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import cotune as library
from cotune.bundle.manifest import bundle_folder
from cotune.run_files import run_folder

FIELD = "Customer message"
NO_MODEL = ("--base", "nowhere")


def read_csv(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    """Rows to be answered, one of them blank."""
    path = tmp_path / "new.csv"
    path.write_text("\n".join(["Customer message,Order no.", "late parcel,7", ",8", "lovely parcel,9", ""]), encoding="utf-8")
    return path


# A spreadsheet in -------------------------------------------------------------------------------------------------


def test_a_header_with_blanks_becomes_a_field_and_is_told(desk: Desk) -> None:
    assert "'Customer message' is {Customer_message}" in desk.said[0].stdout
    manifest = json.loads((desk.bundle / "manifest.json").read_text())
    assert manifest["input_fields"] == ["Customer_message"] and manifest["output_field"] == "Stars (1-5)"


def test_blank_rows_are_left_out_and_counted(desk: Desk, cotune: Cotune) -> None:
    summary = json.loads((desk.out / "summary.json").read_text())
    assert summary["data"]["counts"]["blank_rows_skipped"] == 2
    assert any("2 of" in finding["message"] for finding in summary["data"]["findings"] if finding["kind"] == "blank_rows")
    assert sum(summary["n"].values()) <= 90
    refused = cotune("run", *(a for a in desk.arguments if a != "data.on_blank=skip"), "--out", desk.out.parent / "other")
    assert refused.code == 2 and "data.on_blank=skip" in refused.stderr and not (desk.out.parent / "other").exists()


def test_columns_that_are_not_named_are_asked_for_by_name(desk: Desk, cotune: Cotune) -> None:
    ended = cotune("run", desk.sheet)
    assert ended.code == 2
    assert "'Customer message', 'Order no.', 'Stars (1-5)'" in ended.stderr
    assert f"cotune run {desk.sheet} --input 'Customer message' --output 'Stars (1-5)'" in ended.stderr
    missing = cotune("run", desk.sheet, "--input", "Custmer message", "--output", "Stars (1-5)")
    assert "did you mean 'Customer message'? Its columns" in missing.stderr


def test_stages_are_named_while_nothing_else_is_told(desk: Desk) -> None:
    said = desk.said[0].stdout
    assert said.index("reading the rows") < said.index("loading the model")


# Answers out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_a_file_is_answered_in_any_format(desk: Desk, cotune: Cotune, unseen: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"answers.{kind}"
    ended = cotune("predict", desk.bundle, unseen, "--out", out, "--probabilities")
    assert ended.code == 0, ended.stderr
    assert f"2 rows answered: {out}" in ended.stdout
    assert "1 row could not be answered" in ended.stderr and "line 3" in ended.stderr and "empty" in ended.stderr
    wanted = library.load(desk.bundle).predict([{FIELD: "late parcel"}, {FIELD: "lovely parcel"}], probabilities=True)
    if kind == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        shares = [row.get("probabilities", {}).get("5") for row in rows]
    elif kind == "parquet":
        table = pq.read_table(out)
        assert pa.types.is_integer(table.schema.field("answer").type)
        rows = table.to_pylist()
        shares = [row["p(5)"] for row in rows]
    else:
        rows = read_csv(out.read_text(), "\t" if kind == "tsv" else ",")
        assert list(rows[0]) == [FIELD, "Order no.", "answer", "p(1)", "p(3)", "p(5)", "error"]
        shares = [row["p(5)"] for row in rows]
    assert [row["Order no."] for row in rows] == ["7", "8", "9"]
    assert [str(row["answer"] or "") for row in rows] == [str(wanted[0].answer), "", str(wanted[1].answer)]
    assert float(shares[0] or 0) == pytest.approx(wanted[0].probabilities[5], abs=2e-5) and not shares[1]
    assert "empty" in (rows[1]["error"] or "") and not rows[0].get("error")


def test_columns_keep_their_types_and_names(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    source, out = tmp_path / "new.parquet", tmp_path / "answers.parquet"
    table = pa.table({FIELD: ["late", "quick"], "day": pa.array([1, 2], pa.date32()), "answer": ["mine", "too"]})
    pq.write_table(table, source)
    ended = cotune("predict", desk.bundle, source, "--out", out)
    assert ended.code == 0 and "the answers are in 'answer_2'" in ended.stderr
    found = pq.read_table(out)
    assert found.select(table.column_names).equals(table) and found.column_names == [FIELD, "day", "answer", "answer_2"]


def test_answers_go_to_the_screen_in_the_format_of_the_file(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    source = tmp_path / "new.csv"
    source.write_bytes(b"\xef\xbb\xbf" + 'Customer message;note\n"late; broken";é\n'.encode())
    ended = cotune("predict", desk.bundle, source)
    assert read_csv(ended.stdout, ";")[0][FIELD] == "late; broken" and "1 row answered" in ended.stderr
    (row,) = map(json.loads, cotune("predict", desk.bundle, source, "--json").stdout.splitlines())
    assert row[FIELD] == "late; broken" and row["answer"] in (1, 3, 5)
    out = tmp_path / "answers.csv"
    assert cotune("predict", desk.bundle, source, "--out", out).code == 0
    assert out.read_bytes().startswith(b"\xef\xbb\xbf") and read_csv(out.read_text("utf-8-sig"), ";")[0]["note"] == "é"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--input", "NEW"),
            ("--input: it needs a text to answer, but 'NEW' is a file", "cotune predict", "NEW --out answers.csv"),
        ),
        (("NEW", "--out", "answers.xlsx"), ("answers.xlsx", ".csv")),
        (("NEW", "--input", "text"), ("--input",)),
        (("none.csv",), ("no such file",)),
        (("OTHER",), ("OTHER, line 2", "no field 'Customer_message'", "'message'")),
        # What is wrong with a file is found before a model is loaded, which would be told to be missing.
        (("BLANK", *NO_MODEL), ("BLANK, line 2", "empty")),
        (("NEW", "--out", "FOLDER", *NO_MODEL), ("cannot write FOLDER", "A folder has that name")),
        (("NEW", "--out", "NEW/answers.csv", *NO_MODEL), ("cannot write NEW/answers.csv", "where a folder is needed")),
        (("EMPTY",), ("EMPTY: the file is empty. Give a file with rows.",)),
        (("HEADER",), ("HEADER: there is a header but no rows. Add rows below the header.",)),
    ],
)
def test_what_cannot_be_answered_is_told(
    desk: Desk, cotune: Cotune, unseen: Path, tmp_path: Path, arguments: tuple[str, ...], told: tuple[str, ...]
) -> None:
    places = {"NEW": unseen, "FOLDER": tmp_path / "sub.csv"}
    contents = {
        "OTHER": "message,n\nlate,1\n",
        "BLANK": "Customer message,n\n ,1\n",
        "EMPTY": "",
        "HEADER": "Customer message,n\n",
    }
    places["FOLDER"].mkdir()
    for name, content in contents.items():
        places[name] = tmp_path / f"{name.lower()}.csv"
        places[name].write_text(content)

    def placed(word: str) -> str:
        for name, path in places.items():
            word = word.replace(name, str(path))
        return word

    ended = cotune("predict", desk.bundle, *map(placed, arguments))
    assert ended.code == 2 and ended.stderr.count("\n") == 1, ended
    for fragment in told:
        assert placed(fragment) in ended.stderr


def test_answers_never_replace_the_rows_themselves(desk: Desk, cotune: Cotune, unseen: Path) -> None:
    before = unseen.read_bytes()
    ended = cotune("predict", desk.bundle, unseen, "--out", unseen.parent / "." / unseen.name, *NO_MODEL)
    assert ended.code == 2 and "this is the input file" in ended.stderr and unseen.read_bytes() == before


def test_a_command_that_is_suggested_can_be_typed(desk: Desk, cotune: Cotune, unseen: Path, tmp_path: Path) -> None:
    path = unseen.rename(tmp_path / "new rows; ls.csv")
    said = cotune("predict", desk.bundle, "--input", path).stderr
    assert f"cotune predict {desk.bundle} '{path}' --out answers.csv" in said


def test_a_blank_line_of_a_stream_is_told_and_the_others_are_answered(desk: Desk, cotune: Cotune) -> None:
    lines = [{FIELD: "late"}, {"Customer_message": ""}, {"Customer_message": "quick", "id": 3}]
    ended = cotune("predict", desk.bundle, stdin="".join(json.dumps(line) + "\n" for line in lines))
    assert ended.code == 0 and "1 row could not be answered" in ended.stderr
    first, blank, last = (json.loads(line) for line in ended.stdout.splitlines())
    assert first["answer"] in (1, 3, 5) and last["answer"] in (1, 3, 5) and last["id"] == 3
    assert blank["answer"] is None and "empty" in blank["error"]


def test_labels_come_back_in_their_own_type(desk: Desk, cotune: Cotune) -> None:
    found = library.load(desk.bundle).predict(["late", "quick"])
    assert all(type(label) is int and label in (1, 3, 5) for label in found)
    told = json.loads(cotune("predict", desk.bundle, "--input", "late", "--json").stdout)
    assert told["answer"] == found[0] and set(told["probabilities"]) == {"1", "3", "5"}


# How good ---------------------------------------------------------------------------------------------------------


def test_a_bundle_is_scored_on_labelled_rows(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    rows = [*sheet_rows(40, 200), ",1,3", "unknown,2,4"]
    path = tmp_path / "labelled.csv"
    path.write_text("\n".join([HEADER, *rows]), encoding="utf-8")
    found = json.loads(cotune("evaluate", desk.bundle, path, "--json").stdout)
    given = read_csv("\n".join([HEADER, *rows[:40], rows[41]]))
    gold = [int(row["Stars (1-5)"]) for row in given]
    answers = library.load(desk.bundle).predict([{FIELD: row[FIELD]} for row in given])
    assert (found["n"], found["skipped"], found["unknown_labels"]) == (41, 1, {"4": 1})
    right = sum(a == g for a, g in zip(answers, gold, strict=True))
    assert found["score"] == pytest.approx(right / 41, abs=1e-6) and found["right"] == right
    assert found["ci"][0] <= found["score"] <= found["ci"][1] and found["ci"][1] - found["ci"][0] > 0.1
    labels = [1, 3, 4, 5]
    assert found["seen"] == {"learnt": 0, "tested": 0}
    assert found["confusion"] == {
        "labels": list(map(str, labels)),
        "rows": confusion_matrix(gold, answers, labels=labels).tolist(),
    }
    table = precision_recall_fscore_support(gold, answers, labels=labels, zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), table, strict=False):
        for one, value in zip(found["labels"], values, strict=True):
            assert (one[name] or {"value": 0.0})["value"] == pytest.approx(value, abs=1e-6)
            if one[name]:
                assert one[name]["ci"][0] <= one[name]["value"] <= one[name]["ci"][1]
    assert found["majority"]["score"] == pytest.approx(max(map(gold.count, gold)) / 41, abs=1e-6)
    shown = cotune("evaluate", desk.bundle, path)
    assert shown.code == 0, shown.stderr
    assert f"accuracy {right / 41:.3f} (95% interval" in shown.stdout and "41 rows" in shown.stdout
    assert re.search(r"label +rows +given +precision +recall +F1", shown.stdout)


def test_rows_that_the_run_has_seen_are_warned_of(desk: Desk, cotune: Cotune) -> None:
    found = cotune("evaluate", desk.bundle, desk.sheet, "--json")
    n, seen = json.loads((desk.out / "summary.json").read_text())["n"], json.loads(found.stdout)["seen"]
    assert seen == {"learnt": n["train"] + n["dev"], "tested": 24}
    assert f"Warning: {seen['learnt']} of these 90 rows were used by this run for learning, so the score says" in found.stderr
    assert "Warning: 24 of these 90 rows were in the test of this run" in found.stderr


def test_what_cannot_be_scored_is_told(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    path = tmp_path / "labelled.csv"
    path.write_text("Customer message,stars\nlate,1\n")
    missing = cotune("evaluate", desk.bundle, path)
    assert missing.code == 2 and "'Stars (1-5)'" in missing.stderr and "'stars'" in missing.stderr
    assert "or add --output COLUMN." in missing.stderr
    assert cotune("evaluate", desk.bundle, path, "--output", "stars", "--json").code == 0
    assert "does not fit" in cotune("evaluate", desk.bundle, path, "--output", "stars", "--metric", "json_f1").stderr
    for option in ("--output", "--group"):
        said = cotune("evaluate", desk.bundle, path, "--output", "stars", option, "starz").stderr
        assert "there is no column 'starz', did you mean 'stars'? Its columns:" in said
        assert "the bundle" not in said and "Rename" not in said


# Runs side by side ------------------------------------------------------------------------------------------------


def test_a_larger_budget_goes_to_a_numbered_folder(desk: Desk) -> None:
    first, second = desk.said
    assert first.stderr == "" and f"runs in {desk.out}-2" in second.stderr and "25ktok" in second.stderr
    # Quiet: the score and the bundle's path.
    line, bundle = second.stdout.splitlines()
    assert re.fullmatch(r"accuracy [01]\.\d{3} \(0\.\d{3} to [01]\.\d{3}\) on 24 test rows", line)
    assert bundle == f"{desk.out}-2/best" and Path(bundle).is_dir()
    before = (desk.out / "journal.jsonl").read_bytes()
    again = desk.run("30ktok", "--quiet")
    assert again.stdout == second.stdout and "resumes in" in again.stderr
    assert (desk.out / "journal.jsonl").read_bytes() == before
    smaller = desk.run("20ktok")
    assert smaller.code == 2 and "budget: '25ktok' -> '20ktok'" in smaller.stderr
    assert not Path(f"{desk.out}-3").exists()


def test_runs_are_listed(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    shutil.copytree(desk.out, tmp_path / "done")
    (tmp_path / "half").mkdir()
    shutil.copy(desk.out / "config.json", tmp_path / "half")
    lines = (desk.out / "journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half" / "journal.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "journal.jsonl").write_text("nothing\n")
    found = {Path(run["folder"]).name: run for run in json.loads(cotune("list", tmp_path, "--json").stdout)}
    assert {name: run["state"] for name, run in found.items()} == {"done": "finished", "half": "stopped", "broken": "damaged"}
    summary = json.loads((desk.out / "summary.json").read_text())
    arm = summary["arms"][summary["best"]["arm"]]
    assert (found["done"]["score"], found["done"]["ci"], found["done"]["n"]) == (arm["score"], arm["ci"], 24)
    assert found["done"]["model"] == "model" and found["done"]["seconds"] == summary["cost"]["wall_s"]
    assert found["half"]["score"] is None and found["half"]["seconds"] == json.loads(lines[3])["active_s"]
    shown = cotune("list", tmp_path).stdout
    assert f"{arm['score']:.3f}" in shown and "stopped" in shown
    assert cotune("list", tmp_path / "none").code == 2


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_run_is_named_whole_in_a_list(
    desk: Desk, cotune: Cotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    runs = Path(shutil.copytree(desk.out, tmp_path / "runs" / f"{'a-long-name-' * 4}end")).parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    shown = cotune("list", runs.name).stdout.splitlines()
    assert all(len(line) <= width for line in shown) and "finished" in shown[1]
    assert "".join(line[: shown[0].index("score")].split()[0] for line in shown[1:]) == f"runs/{'a-long-name-' * 4}end"
    assert ("model" in shown[0]) == (width >= 120)


def test_two_runs_are_compared_on_the_same_test_rows(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    other = Path(f"{desk.out}-2")
    found = json.loads(cotune("compare", desk.out, other, "--json").stdout)
    scores = []
    for folder in (desk.out, other):
        summary = json.loads((folder / "summary.json").read_text())
        scores.append(summary["arms"][summary["best"]["arm"]]["score"])
    assert found["scores"] == pytest.approx(scores) and found["n"] == 24 and 0 < found["p"] <= 1
    assert found["difference"] == pytest.approx(scores[1] - scores[0])
    assert found["ci"][0] <= found["difference"] <= found["ci"][1]
    assert found["only_second_right"] - found["only_first_right"] == round(24 * found["difference"])
    back = json.loads(cotune("compare", other, desk.out, "--json").stdout)
    assert back["difference"] == pytest.approx(-found["difference"]) and back["p"] == pytest.approx(found["p"])
    shown = cotune("compare", desk.out, other)
    assert shown.code == 0 and "the same 24 test rows" in shown.stdout and "95% interval" in shown.stdout


def test_rows_that_stand_in_another_order_are_paired(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    changed = shutil.copytree(desk.out, tmp_path / "turned")
    told = json.loads((changed / "test_rows.json").read_text())
    (changed / "test_rows.json").write_text(json.dumps({**told, "rows": told["rows"][::-1]}))
    found = json.loads(cotune("compare", desk.out, changed, "--json").stdout)
    assert (found["difference"], found["only_first_right"], found["only_second_right"]) == (0, 0, 0)


def test_runs_of_other_test_rows_are_not_compared(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    changed = shutil.copytree(desk.out, tmp_path / "other")
    told = json.loads((changed / "test_rows.json").read_text())
    told["rows"][0]["input"] = {"Customer_message": "another"}
    (changed / "test_rows.json").write_text(json.dumps(told))
    refused = cotune("compare", desk.out, changed)
    assert refused.code == 2 and "24 and 24, of which 23 are the same" in refused.stderr
    (changed / "summary.json").unlink()
    assert "has not ended" in cotune("compare", desk.out, changed).stderr
    assert "not a run's folder" in cotune("compare", desk.out, tmp_path).stderr


def test_embedding_a_table_asks_for_its_column(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    ended = cotune("embed", "--input", desk.sheet, "--out", tmp_path / "vectors.npy")
    assert ended.code == 2 and "--column" in ended.stderr and "'Customer message', 'Order no.'" in ended.stderr
    missing = cotune("embed", "--input", desk.sheet, "--out", tmp_path / "vectors.npy", "--column", "message")
    assert missing.code == 2 and "did you mean 'Customer message'?" in missing.stderr


def test_a_run_and_its_bundle_are_named_alike_everywhere(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    path = tmp_path / "labelled.csv"
    path.write_text("\n".join([HEADER, *sheet_rows(6, 200)]), encoding="utf-8")
    inside = cotune("predict", desk.bundle, "--input", "late parcel")
    around = cotune("predict", desk.out, "--input", "late parcel")
    assert inside.code == 0 and around == inside
    assert cotune("evaluate", desk.out, path).stdout == cotune("evaluate", desk.bundle, path).stdout
    assert library.load(desk.out).bundle_id == library.load(desk.bundle).bundle_id
    for command in ("list", "report"):
        ended = cotune(command, desk.bundle, "--json")
        assert ended.code == 0 and ended.stdout == cotune(command, desk.out, "--json").stdout != "[]\n"
    assert json.loads(cotune("compare", desk.bundle, desk.out, "--json").stdout)["difference"] == 0
    assert run_folder(desk.bundle) == desk.out and run_folder(tmp_path) == tmp_path
    # A copy has no run around it.
    copied = shutil.copytree(desk.bundle, tmp_path / "best")
    assert bundle_folder(copied) == copied and run_folder(copied) == copied
    assert "not a run's folder" in cotune("report", copied).stderr
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "journal.jsonl").write_text("")
    assert "this run has no bundle yet" in cotune("predict", tmp_path / "begun", "--input", "late").stderr


def test_going_on_names_who_named_a_column(desk: Desk, cotune: Cotune, tmp_path: Path) -> None:
    out = tmp_path / "on"
    typed = cotune("run", desk.sheet, "--from", desk.out, "--output", "typo", "--out", out)
    assert typed.code == 2 and "there is no column 'typo'" in typed.stderr and "the bundle" not in typed.stderr
    other = tmp_path / "other.csv"
    other.write_text(desk.sheet.read_text().replace("Stars (1-5)", "Rating"), encoding="utf-8")
    named = cotune("run", other, "--from", desk.out, "--out", out)
    assert named.code == 2 and "there is no column 'Stars (1-5)', which the bundle names" in named.stderr
    assert "Its columns: 'Customer message'" in named.stderr and not out.exists()
