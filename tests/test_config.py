"""The config: what is read, what is refused and how that is said, and what must be equal to go on with a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cotune.config import RunConfig, config_from_data, config_in_memory, load_config
from cotune.config.read import task_name
from cotune.errors import InputError

PLAIN = """\
name: trec6
data:
  train: rows/train.jsonl
  test: hf://owner/name:test
  input: text
  output: label
"""


def written(folder: Path, text: str = PLAIN, name: str = "task.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def message_of(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    return str(caught.value)


def test_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    assert config.data.train == str(tmp_path / "rows" / "train.jsonl")
    assert config.data.test == "hf://owner/name:test"
    assert config.data.input == ("text",)
    assert (config.metric, config.model, config.budget, config.seed) == (None, "smollm2-135m", "10m", 0)
    assert (config.tune.rank, config.tune.alpha, config.tune.learning_rate, config.tune.target) == (16, 32, 1e-3, "all-linear")
    assert (config.search.pool, config.engine.max_tokens) == (16, None)
    assert config.prompt_text() is None


def test_the_name_defaults_to_the_files(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, PLAIN.split("\n", 1)[1], "mails.yml")).name == "mails"


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("seed=3", None, "seed", 3),
        ("budget=2Mtok", None, "budget", "2Mtok"),
        ("tune.learning_rate=1e-4", "tune", "learning_rate", 1e-4),
        ("tune.rank=8", "tune", "rank", 8),
        ("limit={train: 500, test: 100}", "limit", "train", 500),
        ("limit.dev=7", "limit", "dev", 7),
        ("data.input=[a, b]", "data", "input", ("a", "b")),
        ("data.input=#text", "data", "input", ("#text",)),
        ("data.output=# no", "data", "output", "# no"),
        ("data.group=#customer: id", "data", "group", "#customer: id"),
        ("output.labels=[yes, no, 1, true, 2.50, 1e3]", "output", "labels", ("yes", "no", "1", "true", "2.50", "1e3")),
        ("engine.threads=null", "engine", "threads", None),
        ("prompt=Say {labels}: {text} => {x", None, "prompt", "Say {labels}: {text} => {x"),
        ("prompt=null", None, "prompt", None),
        ("name=a=b: c", None, "name", "a=b: c"),
        ("data.test=null", "data", "test", None),
    ],
)
def test_overrides(tmp_path: Path, override: str, section: str | None, key: str, value: Any) -> None:
    config = load_config(written(tmp_path), [override])
    assert getattr(getattr(config, section) if section else config, key) == value


def test_overrides_win_over_the_file_and_later_over_earlier(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN + "seed: 1\nlimit:\n")
    assert load_config(path).seed == 1
    assert load_config(path, ["seed=2", "seed=3", "limit.test=9"]).seed == 3


def test_yaml_reads_labels_as_they_are_written(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN + "output:\n  labels: [yes, no, on, 12:30, 2024-01-01, null_, 0x1, 010]\n")
    assert load_config(path).output.labels == ("yes", "no", "on", "12:30", "2024-01-01", "null_", "0x1", "010")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1.0", 1.0), (".5", 0.5), ("-2", None), ("3", 3.0), ("1.e2", 100.0), ("1e", None)],
)
def test_numbers_in_yaml(tmp_path: Path, text: str, value: float | None) -> None:
    path = written(tmp_path, PLAIN + f"tune: {{clip: {text}}}\n")
    if value is None:
        assert "tune.clip" in message_of(path)
    else:
        assert load_config(path).tune.clip == value


def test_aliases_of_aliases_take_no_time(tmp_path: Path) -> None:
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    assert "unknown key 'a0'" in message_of(written(tmp_path, PLAIN + "a0: &a0 [x]\n" + levels))


def test_paths_are_relative_to_the_file_and_on_the_command_line_to_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(here)
    path = written(tmp_path, PLAIN + "prompt: p.md\nmodel: models/mine\n")
    config = load_config(path)
    assert (config.prompt, config.model) == (str(tmp_path / "p.md"), str(tmp_path / "models" / "mine"))
    config = load_config(path, ["data.train=x.csv", "prompt=q.txt", "model=owner/name"])
    assert (config.data.train, config.prompt, config.model) == (str(here / "x.csv"), str(here / "q.txt"), "owner/name")
    assert config.data.test == "hf://owner/name:test"


def test_the_prompt_is_a_text_or_a_files_text(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfSay: {text}\n")
    assert load_config(written(tmp_path, PLAIN + "prompt: p.txt\n")).prompt_text() == "Say: {text}\n"
    assert load_config(written(tmp_path, PLAIN + "prompt: 'See {text} in a.txt'\n")).prompt_text() == "See {text} in a.txt"
    missing = load_config(written(tmp_path, PLAIN + "prompt: gone.txt\n"))
    with pytest.raises(InputError, match=r"gone\.txt: the prompt file does not exist"):
        missing.prompt_text()
    (tmp_path / "p.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"p\.txt: the prompt file is not UTF-8"):
        load_config(written(tmp_path, PLAIN + "prompt: p.txt\n")).prompt_text()


BROKEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown key": ("bugdet: 5m", ("line 7, bugdet", "unknown key 'bugdet'", "'budget'", "Known keys")),
    "unknown inner key": ("tune: {lerning_rate: 1}", ("line 7, tune.lerning_rate", "'tune.learning_rate'")),
    "unlike any key": ("tune: {method: prefix}", ("line 7, tune.method", "unknown key 'method'", "Known keys here: rank")),
    "key in the wrong place": ("rank: 4", ("line 7, rank", "did you mean 'tune.rank'")),
    "text for a number": ("tune:\n  rank: many", ("line 8, tune.rank", "whole number, not 'many'")),
    "fraction for a whole number": ("seed: 1.5", ("line 7, seed", "whole number, not 1.5")),
    "truth value for a number": ("seed: true", ("line 7, seed", "whole number, not True")),
    "truth value for a real number": ("tune: {clip: true}", ("tune.clip", "must be a number, not True")),
    "infinite number": ("tune: {clip: .inf}", ("tune.clip",)),
    "text for a truth value": ("search: {demonstrations: yes}", ("line 7, search.demonstrations", "true or false, not 'yes'")),
    "number for a text": ("budget: 600", ("line 7, budget", "must be a text, not 600", "quotes")),
    "text for a section": ("tune: fast", ("line 7, tune", "section with its own keys", "'fast'")),
    "negative": ("limit: {train: -5}", ("limit.train", "at least 1, not -5")),
    "zero": ("tune: {learning_rate: 0}", ("tune.learning_rate", "more than 0")),
    "output type unknown": ("output: {type: jsno}", ("output.type", "'label', 'text', 'number' or 'json'", "'jsno'")),
    "labels of a number": ("output: {type: number, labels: [a, b]}", ("output", "labels can only be given for the type label")),
    "labels and schema": ("output: {labels: [a, b], schema: {type: object}}", ("output", "not both")),
    "unknown dtype": ("engine: {dtype: int8}", ("engine.dtype", "'bfloat16'", "'int8'")),
    "unknown metric": ("metric: acuracy", ("line 7, metric", "'acuracy'", "did you mean 'accuracy'")),
    "one label": ("output: {labels: [a]}", ("output.labels", "at least 2")),
    "label twice": ("output: {labels: [a, b, a]}", ("output", "label 'a' is given twice")),
    "empty name": ("model: ''", ("line 7, model", "non-empty")),
    "key twice": ("seed: 1\nseed: 2", ("line 8", "'seed' is given twice")),
    "broken YAML": ("tune: {rank: 8", ("task.yaml, line", "not valid YAML", "quotes")),
    "bad indentation": ("tune:\n  rank: 8\n alpha: 3", ("task.yaml, line 9", "not valid YAML")),
    "tab": ("tune:\n\trank: 8", ("task.yaml, line 8", "not valid YAML")),
    "second document": ("---\nname: b", ("task.yaml, line 7", "not valid YAML")),
    "alias in itself": ("tune: &a {rank: *a}", ("task.yaml, line 7", "alias")),
    "python object": ("tune: !!python/object:os.system {}", ("task.yaml, line 7", "not valid YAML")),
    "number as key": ("1: x", ("line 7, 1", "unknown key '1'", "Known keys here: name")),
    "nothing for a number": ("tune: {rank:}", ("tune.rank", "must be a whole number, but it is not set")),
    "number for a schema": ("output: {schema: 5}", ("line 7, output.schema:", "must be a JSON Schema, such as {type: object}")),
    "key for its variable": ("endpoint: {key_env: sk-abc}", ("endpoint.key_env", "NAME of an environment variable")),
    "list as key": ("? [a]\n: b", ("task.yaml, line 7", "plain word")),
}


@pytest.mark.parametrize(("text", "parts"), BROKEN.values(), ids=list(BROKEN))
def test_broken_files(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    message = message_of(written(tmp_path, PLAIN + text + "\n"))
    assert "task.yaml" in message
    assert not [part for part in parts if part not in message], message


@pytest.mark.parametrize("key", ["train", "input", "output"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    text = "".join(line for line in PLAIN.splitlines(keepends=True) if not line.strip().startswith(key))
    message = message_of(written(tmp_path, text))
    assert f"task.yaml, line 2, data.{key}: the key 'data.{key}' is missing" in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("tun.rank=8", "command line, tun: unknown key 'tun', did you mean 'tune'?"),
        ("tune.rank.x=8", "command line, tune.rank: 'tune.rank' must be a whole number"),
        ("limit.train=x", "command line, limit.train: "),
        ("output.max_tokens=8", "task.yaml, line 7, output: labels can only"),
    ],
)
def test_errors_name_the_command_line_or_the_file(tmp_path: Path, override: str, part: str) -> None:
    text = PLAIN + ("output: {type: json, labels: [a, b]}\n" if override.startswith("output") else "")
    assert part in message_of(written(tmp_path, text), override)


def test_missing_sections_are_named(tmp_path: Path) -> None:
    assert "the key 'data' is missing" in message_of(written(tmp_path, "name: a\n"))
    assert "'data' must be a section" in message_of(written(tmp_path, "name: a\ndata:\n"))
    assert "column 'text' is named twice" in message_of(written(tmp_path, PLAIN), "data.output=text")


@pytest.mark.parametrize(
    ("text", "part"), [("", "empty"), ("- a\n", "a list"), ("just words\n", "a text"), ("# no\n", "empty")]
)
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, part: str) -> None:
    assert part in message_of(written(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "gone.yaml: the task file does not exist" in message_of(tmp_path / "gone.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "is a folder" in message_of(tmp_path / "folder.yaml")
    assert "must end in .yaml" in message_of(written(tmp_path, PLAIN, "task.toml"))
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert "latin.yaml: the task file is not UTF-8" in message_of(tmp_path / "latin.yaml")
    (tmp_path / "bell.yaml").write_bytes(b"name: \x07\n")
    assert "bell.yaml" in message_of(tmp_path / "bell.yaml")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seed", ("'seed' is not of the form key=value", "tune.rank=8")),
        ("=3", ("not of the form",)),
        ("tune..rank=3", ("not of the form",)),
        ("seed.x=3", ("command line, seed.x", "'seed' is a single value")),
        ("tune.rnk=3", ("tune.rnk", "'tune.rank'")),
        ("tune.rank={", ("command line, tune.rank", "not valid YAML")),
        ("seed=abc", ("seed", "whole number")),
    ],
)
def test_broken_overrides(tmp_path: Path, override: str, parts: tuple[str, ...]) -> None:
    message = message_of(written(tmp_path, PLAIN + "seed: 1\n"), override)
    assert not [part for part in parts if part not in message], message


def test_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    message = message_of(written(tmp_path, PLAIN + "seed: 1\n"), "seed=abc")
    assert message.startswith("command line, seed: ")
    assert "line 7" not in message
    assert message_of(written(tmp_path), "tune={rank: x}").startswith("command line, tune.rank: ")
    assert message_of(written(tmp_path), "metric=acc").startswith("command line, metric: ")


def test_zero_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_from_data("tickets.csv", input="text", output="label", overrides=["seed=4"], budget="90s")
    assert config.name == "tickets"
    assert config.data.train == str(tmp_path / "tickets.csv")
    assert (config.seed, config.budget, config.data.input) == (4, "90s", ("text",))
    assert config_from_data(tmp_path / "trec" / "train.csv", input="a", output="b").name == "trec"
    assert config_from_data("hf://owner/mails:train", input=["a", "c"], output="b").name == "mails"
    with pytest.raises(InputError, match="did you mean 'budget'"):
        config_from_data("tickets.csv", input="text", output="label", bugdet="3m")
    assert config_in_memory(name="mine", input=["a"], output="b", seed=2).seed == 2


def test_what_must_be_equal_to_go_on(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "p.txt").write_text("{text}")
    text = PLAIN + "prompt: p.txt\n"
    config = load_config(written(one, text))
    moved = load_config(written(other, text.replace("name: trec6", "name: new")))
    assert config.differences(moved) == []
    assert config.fingerprint_view() == moved.fingerprint_view()
    assert str(tmp_path) not in str(config.fingerprint_view())
    changed = load_config(one / "task.yaml", ["seed=3", "tune.rank=4", "budget=5m", "limit.train=9", "data.input=[text, b]"])
    assert sorted(config.differences(changed)) == [
        "budget: '10m' -> '5m'",
        "data.input: ['text'] -> ['text', 'b']",
        "limit.train: not set -> 9",
        "seed: 0 -> 3",
        "tune.rank: 16 -> 4",
    ]
    (other / "p.txt").write_text("changed {text}")
    assert config.differences(moved) == ["prompt: '{text}' -> 'changed {text}'"]


def test_a_config_is_immutable_and_comes_back_from_json(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    with pytest.raises(Exception, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_importing_the_config_is_light() -> None:
    code = (
        "import sys, cotune.config; heavy = {'torch', 'transformers', 'pandas', 'sklearn', 'scipy', 'pyarrow', 'numpy'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_setting_changes_no_section_that_shares_an_alias(tmp_path: Path) -> None:
    text = PLAIN + "proposer: &server {base_url: 'http://127.0.0.1:1/v1', model: a}\nteacher: *server\n"
    path = written(tmp_path, text.replace("  input:", "  unlabelled: pool.csv\n  input:"))
    config = load_config(path, ["proposer.model=b", "proposer.calls=3"])
    assert (config.proposer.model, config.teacher.model) == ("b", "a")
    assert (config.proposer.calls, config.teacher.calls) == (3, 2000)


def test_a_data_file_may_be_named_after_a_tilde(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, PLAIN.replace("rows/train.jsonl", "'~$rows.csv'")))
    assert config.data.train == str(tmp_path / "~$rows.csv")


def test_paths_in_a_section_on_the_command_line_are_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = load_config(written(tmp_path), ["data={train: rows.csv, test: hf://a/b, input: text, output: label}"])
    assert (found.data.train, found.data.test) == (str(tmp_path / "here" / "rows.csv"), "hf://a/b")


def test_a_list_that_is_too_short_is_told_as_one(tmp_path: Path) -> None:
    told = message_of(written(tmp_path, PLAIN + "tune: {layers: [11]}\n"))
    assert "'tune.layers' has too few values. Give at least 2." in told


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/mails: may.csv", "mails: may"),
        ("hf://owner/mails:train", "mails"),
        ("mails/train.csv", "mails"),
        ("hf://imdb", "imdb"),
    ],
)
def test_a_task_is_named_after_its_data(source: str, name: str) -> None:
    assert task_name(source) == name


def test_a_model_in_a_folder_counts_by_its_name() -> None:
    config = config_in_memory(name="t", input=["text"], output="label", model="/somewhere/models/tiny")
    moved = config_in_memory(name="t", input=["text"], output="label", model="/elsewhere/tiny")
    assert config.model_identity == moved.model_identity == "tiny" and config.differences(moved) == []
    assert config_in_memory(name="t", input=["text"], output="label", model="org/tiny").model_identity == "org/tiny"


def test_a_key_with_a_dot_in_python_is_told_as_a_section() -> None:
    with pytest.raises(InputError) as error:
        config_in_memory(name="t", input=["text"], output="label", **{"search.max_cycles": 1})
    assert "Give search={'max_cycles': ...}." in (error.value.hint or "")
