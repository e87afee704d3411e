"""Folders of an earlier build: a run's config with keys that were removed, and a bundle with a probe of the last token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cycle_runs import journal_of, labelled_rows

import cotune
from cotune.bundle import save_bundle
from cotune.bundle.load import OpenedBundle
from cotune.config import RunConfig, config_from_data
from cotune.config.task import Task
from cotune.cycle.folder import open_folder
from cotune.cycle.kept import read_config
from cotune.cycle.probe_search.fits import head_of
from cotune.cycle.runs.next_folder import folder_for
from cotune.errors import InputError
from cotune.evaluate.decision import BY_PROBE
from cotune.model.adapters.files import adapter_content_id
from cotune.model.local import LocalModel
from cotune.probe.readout import PROBE, Probe

if TYPE_CHECKING:
    from conftest import Bench


def old_bundle(words: Path, base: Path, folder: Path) -> Path:
    """A bundle that answers by words as an earlier build would have written it, with a probe."""
    found = OpenedBundle.read(words)
    manifest, model, rows = found.manifest, LocalModel.load(base), labelled_rows(90, seed=3)
    assert model.adapters.register(words / "adapter") == manifest.adapter_id
    rendered = model.renderer.render(found.prompt, [{"text": row["text"]} for row in rows], manifest.labels)
    ids = [row.prompt_ids for row in rendered]
    states = model.layer_states(ids, [model.depth], adapter=manifest.adapter_id)[0]
    truth = np.array([manifest.labels.index(row["label"]) for row in rows])
    probe = Probe(manifest.labels, *head_of(states, truth, len(manifest.labels), 0.1).folded(), model.depth)
    probed = model.adapters.add_probe(manifest.adapter_id, probe, folder.parent / "adapters")
    return save_bundle(
        folder,
        task_name=manifest.task,
        input_fields=manifest.input_fields,
        output_field=manifest.output_field,
        output=manifest.output,
        metric=manifest.metric,
        prompt=found.prompt,
        decision=BY_PROBE,
        adapter_folder=folder.parent / "adapters" / probed,
        model=model,
        metrics={},
        model_name=str(base),
    )


def test_a_later_run_starts_from_its_weights_and_judges_it_as_it_was(bench: Bench, whole: Path, tmp_path: Path) -> None:
    old = old_bundle(whole / "best", bench.model, tmp_path / "old" / "bundle")
    fresh = [row | {"text": row["text"].replace(" ", " then ")} for row in labelled_rows(160, seed=9)]
    later = Task.from_rows(fresh, limit={"test": 40}, start=old)
    engine, search = {"dtype": "float32", "threads": 1}, {"pool": 6, "max_cycles": 1}
    result = cotune.run(later, out=tmp_path / "later", budget="60ktok", seed=4, engine=engine, search=search)
    arm = result.summary["arms"]["previous"]
    assert (arm["decision"]["kind"], arm["readout"]) == ("probe", "probe") and arm["score"] > 0.4
    told = next(event["value"] for event in journal_of(tmp_path / "later") if event["kind"] == "previous")
    assert told["ground"] != told["was"]["adapter_id"] == arm["adapter_id"] == adapter_content_id(old / "adapter")
    # The weights alone may win, so they lie there as an adapter of their own.
    ground = tmp_path / "later" / "adapters" / told["ground"]
    assert adapter_content_id(ground) == told["ground"] and not (ground / PROBE).exists()


def stored(folder: Path, search: dict[str, object] | None = None, **tune: object) -> RunConfig:
    """Write the config of a run of an earlier build, with removed keys of two sections; returns the config without them."""
    config = config_from_data(folder / "rows.csv", input="text", output="label")
    dumped = config.model_dump(mode="json")
    dumped["tune"] |= tune
    dumped["search"] |= search or {}
    (folder / "config.json").write_text(json.dumps({"config": dumped, "identity": {"data": "x"}}))
    return config


@pytest.mark.parametrize(
    "tune",
    [{"head": True}, {"head": False, "method": "lora", "prefix": {"init": "text", "tokens": None, "learning_rate": 0.03}}],
)
def test_a_config_with_keys_that_were_removed_is_read(tmp_path: Path, tune: dict[str, object]) -> None:
    config = stored(tmp_path, {"hard_demonstrations": False}, **tune)
    assert read_config(tmp_path / "config.json") == (config, {"data": "x"})
    assert not config.differences(read_config(tmp_path / "config.json")[0])


def test_a_run_that_drew_hard_demonstrations_is_refused(tmp_path: Path) -> None:
    config = stored(tmp_path, {"hard_demonstrations": True})
    with pytest.raises(InputError) as caught, open_folder(tmp_path, config, {"data": "x"}):
        pass
    assert "search.hard_demonstrations, which this version of cotune does not know" in str(caught.value)


@pytest.mark.parametrize("refit", [False, True])
def test_a_run_with_refit_is_read_only_if_it_did_not_use_it(tmp_path: Path, refit: bool) -> None:
    config = stored(tmp_path)
    path = tmp_path / "config.json"
    kept = json.loads(path.read_text())
    kept["config"]["refit"], kept["config"]["search"]["entrants"] = refit, 4
    path.write_text(json.dumps(kept))
    if refit:
        with pytest.raises(ValueError, match="the setting refit, which this version of cotune does not know"):
            read_config(path)
    else:
        assert read_config(path)[0] == config and not config.differences(read_config(path)[0])


def test_a_run_that_trains_a_prefix_is_refused(tmp_path: Path) -> None:
    config = stored(tmp_path, method="prefix", prefix={"init": "random", "tokens": 16, "learning_rate": 0.03})
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError) as caught, open_folder(tmp_path, config, {"data": "x"}):
        pass
    assert caught.value.where == str(tmp_path / "config.json") and "tune.method=prefix" in caught.value.what
    assert "no longer supports" in caught.value.what and "the version of cotune that started it" in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} - set(before) <= {".lock"}
    with pytest.raises(InputError, match="trains a prefix"):
        cotune.try_prompt(tmp_path, "Question: {text}")
    # It is neither resumed nor in the way of a numbered folder.
    assert folder_for(config, tmp_path) == (tmp_path, "")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_run_whose_teacher_writes_rows_is_refused_and_any_other_is_read(tmp_path: Path, share: float) -> None:
    config = config_from_data(tmp_path / "rows.csv", input="text", output="label")
    dumped = config.model_dump(mode="json")
    dumped["teacher"]["write"] = share
    (tmp_path / "config.json").write_text(json.dumps({"config": dumped, "identity": {"data": "x"}}))
    if not share:
        assert read_config(tmp_path / "config.json") == (config, {"data": "x"})
        return
    with pytest.raises(InputError) as caught, open_folder(tmp_path, config, {"data": "x"}):
        pass
    assert "teacher.write, which this version of cotune does not know" in str(caught.value)
