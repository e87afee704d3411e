"""Pushing a bundle to the hub and taking it back, against a server on this machine."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from bundles import LABELS, PROMPT, TEXTS, Bench, loaded, make_bench
from hub_server import READER, TOKEN, Hub, running_hub

import cotune
from command_line import call
from cotune.bundle.hub.fetch import fetch_bundle
from cotune.bundle.hub.repository import Repository, form_of, licence_of
from cotune.bundle.load import OpenedBundle, resolve_bundle
from cotune.bundle.manifest import read_manifest
from cotune.cli import app
from cotune.config import config_from_data
from cotune.errors import InputError
from tiny import merging_tokenizer

REPOSITORY = "org/questions"
_ARM = {"score": 0.9, "ci": [0.8, 0.95], "n": 100, "split": "test"}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Pushed:
    """A bundle that a probe answers, what a dry run wrote, and what the push printed."""

    hub: Hub
    bundle: Path
    written: Path
    told: dict[str, Any]
    said: str

    @property
    def name(self) -> str:
        return f"hf://{REPOSITORY}@{self.told['commit']}"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("hub")
    with running_hub() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ENDPOINT": found.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": found.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            # Its uploads go to a storage that is more than a few calls.
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_STORED_TOKENS_PATH": str(folder / "tokens"),
        }.items():
            patch.setattr(constants, name, value)
        # As Python does unless it is told not to.
        patch.setattr(sys, "dont_write_bytecode", False)
        patch.setenv("COTUNE_CACHE", str(folder / "cotune"))
        patch.setenv("HF_TOKEN", TOKEN)
        patch.chdir(folder)
        yield found


@pytest.fixture(scope="module")
def pushed(hub: Hub, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    folder = tmp_path_factory.mktemp("pushed")
    bundle = bench.save_probed(folder / "bundle")
    manifest = read_manifest(bundle)
    arm = _ARM | {"prompt_id": manifest.prompt_id, "adapter_id": manifest.adapter_id, "decision": manifest.decision.to_json()}
    metrics = {"arms": {"seed_prompt": _ARM, "best_tuned": arm}, "data": {"rows": "a" * 16, "test": "b" * 16}}
    bundle = bench.save_probed(folder / "bundle", metrics=metrics)
    options = (bundle, REPOSITORY, "--license", "mit")
    assert call("push", *options, "--dry-run", "--out", folder / "written")[0] == 0
    code, out, err = call("push", *options, "--yes", "--json")
    assert code == 0, err
    return Pushed(hub, bundle, folder / "written", json.loads(out), err)


def test_what_is_uploaded_is_what_a_dry_run_writes_in_one_commit(pushed: Pushed) -> None:
    found = pushed.hub.repositories[REPOSITORY]
    there = {name: content for name, content in found.commits[pushed.told["commit"]].items() if name != ".gitattributes"}
    assert not [name for name in there if "__pycache__" in name]
    assert there == files_of(pushed.written) and sorted(there) == pushed.told["files"]
    assert len(found.commits) == 2 and not found.private
    bundle = {f"bundle/{name}": content for name, content in files_of(pushed.bundle).items()}
    assert bundle.items() <= there.items() and {"config.json", "model.safetensors", "pipeline.py", "EXPORT.md"} <= set(there)


def test_a_dry_run_asks_nobody_and_replaces_nothing(pushed: Pushed, tmp_path: Path) -> None:
    before = len(pushed.hub.asked)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    code, _, err = call("push", pushed.bundle, REPOSITORY, "--dry-run", "--out", tmp_path / "mine")
    assert code == 2 and "is not empty" in err and len(pushed.hub.asked) == before


def test_the_card_holds_scores_intervals_hashes_widget_and_licence(pushed: Pushed) -> None:
    page = pushed.hub.repositories[REPOSITORY].commits[pushed.told["commit"]]["README.md"].decode()
    _, head, text = page.split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["license"] == "mit" and found["pipeline_tag"] == "text-classification" and "cotune" in found["tags"]
    assert "THE TEXT" not in found["widget"][0]["text"] and PROMPT.instruction[:8] in found["widget"][0]["text"]
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert model["name"] == "questions" and result["dataset"]["revision"] == "b" * 16
    assert result["dataset"]["args"] == {"rows": "a" * 16, "test": "b" * 16}
    (metric,) = result["metrics"]
    assert metric["value"] == 0.9 and metric["args"] == {"ci": [0.8, 0.95], "n": 100} and "0.8 to 0.95" in metric["name"]
    assert "base_model" not in found, "a folder on this machine is no base that others can have"
    assert "**The prompt contains 1 row of the training data" in text and f"`{'b' * 16}`" in text
    assert f'cotune.load("hf://{REPOSITORY}")' in text and 'subfolder="bundle/adapter"' in text
    assert str(pushed.bundle.parent) not in page


def test_the_card_says_that_a_pooled_classifier_is_code_and_its_lines_run(pushed: Pushed) -> None:
    page = (pushed.written / "README.md").read_text()
    assert (pushed.written / "pooled.py").is_file() and "runs that file" in page and "`score.bias`" not in page
    (code,) = [found for found in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "trust_remote_code=True" in found]
    example = f'hf_hub_download("{REPOSITORY}", "example.json")'
    assert example in code
    with redirect_stdout(StringIO()) as printed:
        exec(code.replace(example, repr(str(pushed.written / "example.json"))).replace(REPOSITORY, str(pushed.written)), {})
    assert printed.getvalue().split() == loaded(pushed.bundle).predict(["Hello, can you help me with this?"])


def test_the_cards_lines_load_the_adapter(pushed: Pushed, bench: Bench) -> None:
    page = (pushed.written / "README.md").read_text()
    (code,) = [found for found in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "PeftModel" in found]
    found: dict[str, Any] = {}
    exec(code.replace("FOLDER OR HUB ID OF THE BASE MODEL", str(bench.base)).replace(REPOSITORY, str(pushed.written)), found)
    names = {name for name, _ in found["model"].named_parameters() if "lora_" in name}
    assert names and len(found["tokenizer"]) == len(bench.model.tokenizer)


def test_the_cards_lines_read_no_token_too_many(tmp_path: Path) -> None:
    """The tokenizer merges the end of the text with the answer's beginning, so the model answers before the text's end."""
    bench = make_bench(tmp_path, tokenizer=merging_tokenizer())
    bundle = bench.save_probed(tmp_path / "bundle", prompt=PROMPT.edit(cue="Answer:", demonstrations=()))
    out = tmp_path / "out"
    Repository.of("org/cut", bundle, to="transformers").write(out)
    assert json.loads((out / "template.json").read_text())["beyond"] > 0
    page = (out / "README.md").read_text()
    (code,) = [found for found in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "trust_remote_code=True" in found]
    code = code.replace('hf_hub_download("org/cut", "example.json")', repr(str(out / "example.json"))).replace(
        "org/cut", str(out)
    )
    asked, said = "Hello, can you help me with this?", []
    for text in TEXTS:
        with redirect_stdout(StringIO()) as printed:
            exec(code.replace(asked, text.replace("\n", " ")), {})
        said.append(printed.getvalue().strip())
    wanted = loaded(bundle).predict([text.replace("\n", " ") for text in TEXTS])
    assert said == wanted and len(set(wanted)) > 1


def test_a_bundle_comes_back_from_the_hub_and_answers_alike(pushed: Pushed) -> None:
    told: list[str] = []
    back = cotune.load(pushed.name, device="cpu", dtype="float32", threads=1, progress=told.append)
    assert back.predict(TEXTS) == loaded(pushed.bundle).predict(TEXTS)
    assert any(pushed.name in line for line in told)
    # Of the rest, a model as large as the base among it, nothing is fetched.
    fetched = [path for method, path in pushed.hub.asked if "/resolve/" in path and method == "GET"]
    assert fetched and all("/bundle/" in path for path in fetched)
    before = len(pushed.hub.asked)
    assert fetch_bundle(pushed.name) == fetch_bundle(pushed.name)
    assert len(pushed.hub.asked) == before, "a commit that is there is not asked for again"


def test_without_a_network_what_was_fetched_is_still_there(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    by_branch = fetch_bundle(f"hf://{REPOSITORY}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_bundle(f"hf://{REPOSITORY}") == by_branch
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch_bundle("hf://org/never-seen")


def test_commands_and_runs_take_a_bundle_from_the_hub(pushed: Pushed, tmp_path: Path) -> None:
    code, out, err = call("predict", pushed.name, "--input", TEXTS[0])
    assert code == 0 and out.strip() in LABELS, err
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\na,person\nb,place\n")
    config = config_from_data(rows, overrides=[f"start={pushed.name}"])
    assert config.start == str(fetch_bundle(pushed.name)) and config.data.output == "label"
    labelled = [(f"who or where is number {i}", LABELS[i % 2]) for i in range(40)]
    task = cotune.Task.from_rows(labelled, start=pushed.name)
    assert task.start == config.start


def test_a_run_stands_for_its_bundle_wherever_one_on_the_hub_does(pushed: Pushed, tmp_path: Path) -> None:
    best = shutil.copytree(pushed.bundle, tmp_path / "run" / "best")
    assert resolve_bundle(tmp_path / "run") == resolve_bundle(best) == best
    assert resolve_bundle(pushed.name) == fetch_bundle(pushed.name)
    out = tmp_path / "written"
    code, _, err = call("push", tmp_path / "run", REPOSITORY, "--dry-run", "--to", "bundle", "--out", out)
    assert code == 0 and set(files_of(out / "bundle")) == set(files_of(best)), err
    # And one on the hub can be pushed under another name.
    code, _, err = call("push", pushed.name, "org/again", "--dry-run", "--to", "bundle", "--out", tmp_path / "again")
    assert code == 0 and files_of(tmp_path / "again" / "bundle") == files_of(out / "bundle"), err
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\na,person\nb,place\n")
    assert config_from_data(rows, overrides=[f"start={tmp_path / 'run'}"]).data.output == "label"
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command in ("predict", "evaluate", "label", "serve", "export", "push", "run"):
        helps = [str(getattr(parameter, "help", "")) for parameter in commands[command].params]
        assert any("hf://org/name@revision" in told and "run" in told for told in helps), command


def test_a_file_that_was_changed_on_the_hub_is_refused(pushed: Pushed) -> None:
    found = pushed.hub.repositories[REPOSITORY]
    files = found.commits[pushed.told["commit"]]
    oid = found.commit(files | {"bundle/decision.json": b'{"kind": "probe"}'})
    with pytest.raises(InputError, match="has changed since the bundle was made"):
        fetch_bundle(f"hf://{REPOSITORY}@{oid}")
    del found.commits[oid]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf://org/nothing", "there is no model org/nothing"),
        (f"hf://{REPOSITORY}@v9", "no revision 'v9'"),
        ("hf://questions", "not the name of a bundle"),
        ("hf://org/plain", "contains no bundle"),
    ],
)
def test_what_cannot_be_fetched_is_told(pushed: Pushed, name: str, told: str) -> None:
    repositories = pushed.hub.repositories
    repositories["org/plain"] = type(repositories[REPOSITORY])(False)
    repositories["org/plain"].commit({"README.md": b"# a model"})
    code, _, err = call("predict", name, "--input", "a")
    assert code == 2 and told in err and "Traceback" not in err, err


def test_rows_in_the_prompt_are_uploaded_only_where_the_user_says_so(pushed: Pushed) -> None:
    assert "shows 1 row of your data, word for word" in pushed.said
    before = set(pushed.hub.repositories)
    code, _, err = call("push", pushed.bundle, "org/other")
    assert code == 2 and "Add --yes" in err and set(pushed.hub.repositories) == before


@pytest.mark.parametrize(
    ("repository", "token", "told"),
    [
        ("org/new", "", "there is no token"),
        ("org/new", "hf_wrong", "the hub refused the token"),
        ("org/new", READER, "the token has no permission to write to org"),
        ("others/new", TOKEN, "the token has no permission to write to others"),
        (REPOSITORY, TOKEN, "the repository already exists"),
        ("questions", TOKEN, "has no owner"),
        ("org/a b", TOKEN, "is not a valid name of a repository"),
    ],
)
def test_what_cannot_be_pushed_is_told(
    pushed: Pushed, monkeypatch: pytest.MonkeyPatch, repository: str, token: str, told: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    code, out, err = call("push", pushed.bundle, repository, "--yes", "--to", "bundle")
    assert code == 2 and told in err and not out, err
    assert "Traceback" not in err and (not token or token not in err)
    assert set(pushed.hub.repositories) <= {REPOSITORY, "org/plain"}


def test_no_network_is_told(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = call("push", pushed.bundle, "org/new", "--yes")
    assert code == 2 and "cannot be reached" in err and "--dry-run" in err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, err = call("push", pushed.bundle, "org/new", "--yes")
    assert code == 2 and "HF_HUB_OFFLINE is set" in err


def test_a_file_that_the_hub_does_not_take_is_told_and_the_push_can_be_repeated(pushed: Pushed) -> None:
    pushed.hub.full = True
    try:
        code, _, err = call("push", pushed.bundle, "org/full", "--yes", "--to", "bundle")
    finally:
        pushed.hub.full = False
    assert code == 2 and "the hub answered with 400: Storage quota exceeded" in err, err
    assert list(pushed.hub.repositories["org/full"].files) == [".gitattributes"]
    assert call("push", pushed.bundle, "org/full", "--yes", "--to", "bundle", "--update")[0] == 0
    del pushed.hub.repositories["org/full"]


def test_an_update_leaves_nothing_of_before_and_spares_what_is_another_repository(pushed: Pushed) -> None:
    repositories = pushed.hub.repositories
    code, _, err = call("push", pushed.bundle, "org/updated", "--yes", "--private", "--to", "bundle")
    assert code == 0 and repositories["org/updated"].private, err
    repositories["org/updated"].private = False
    code, _, err = call("push", pushed.bundle, "org/updated", "--yes", "--private", "--to", "bundle", "--update")
    assert code == 2 and "is public" in err, "the hub leaves the visibility of a repository as it is"
    repositories["org/updated"].private = True
    repositories["org/updated"].files["bundle/old.json"] = b"{}"
    assert call("push", pushed.bundle, "org/updated", "--yes", "--to", "bundle", "--update")[0] == 0
    head = {name for name in repositories["org/updated"].files if name != ".gitattributes"}
    assert head == {"README.md", *(f"bundle/{name}" for name in files_of(pushed.bundle))}
    with pytest.raises(InputError, match="or it is private"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "")
        fetch_bundle("hf://org/updated")
    repositories["org/theirs"] = type(repositories["org/updated"])(False)
    repositories["org/theirs"].commit({"model.safetensors": b"theirs"})
    code, _, err = call("push", pushed.bundle, "org/theirs", "--yes", "--to", "bundle", "--update")
    assert (
        code == 2 and "contains no cotune bundle" in err and repositories["org/theirs"].files["model.safetensors"] == b"theirs"
    )
    for name in ("org/updated", "org/theirs"):
        del repositories[name]


def test_the_form_fits_how_a_bundle_answers(bench: Bench, tmp_path: Path) -> None:
    by_words = OpenedBundle.read(bench.save(tmp_path / "words"))
    assert form_of(by_words) == "merged"
    assert form_of(replace(by_words, prompt=PROMPT.edit(nearest=1))) is None
    page = Repository("org/words", by_words, None)._card(None).page()
    head = yaml.safe_load(page.split("---\n")[1])
    assert "model-index" not in head and "license" not in head and "is not known here" in page
    (bench.base / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    try:
        assert licence_of(by_words) == "mit"
    finally:
        (bench.base / "README.md").unlink()


def test_a_bundle_without_rows_says_so_and_asks_nothing(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(tmp_path / "plain", prompt=PROMPT.edit(demonstrations=()))
    found = Repository.of("org/plain", bundle)
    assert found.rows == 0 and not any("rows" in line for line in found.told())
    assert "contains no rows of the training data" in found._card(None).page()
    assert any(str(bench.base) in line for line in found.told()), "a path of this machine goes along, and is told"
