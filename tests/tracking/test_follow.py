"""What a tracker is told of a run: the journal's measurements, once each, whatever happens to the run or to the tracker."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from command_line import call
from cotune.config import config_from_data, load_config
from cotune.cycle.journal import Journal
from cotune.errors import InputError
from cotune.files import write_json
from cotune.run_files import SUMMARY, TRACKING
from cotune.tracking import tracked, tracker_of
from cotune.tracking.facts import settings_of
from cotune.tracking.tracker import Estimate, Moment, Status, Tracked

ARM = {"score": 0.9, "ci": [0.8, 0.95], "n": 40, "log_loss": 0.3}
OPENING: list[tuple[str, Any]] = [("engine", {"device": "cpu"}), ("start", {"task": "mails"}), ("clock", 1.5)]
SEARCH: list[tuple[str, Any]] = [
    ("embed", {"tokens": 700, "saved": 100}),
    ("race", {"best": {"score": 0.7, "log_loss": 0.8}, "cycle": 1}),
    ("verdict", {"score": 0.71, "ci": [0.6, 0.8], "log_loss": 0.82, "seconds": 3.0}),
    ("rewrite", {"tokens": 5000}),
    ("train", {"loss": 0.5, "steps": 12, "tokens": 400, "new_tokens": 250}),
    ("cycle", {"cycle": 1, "dev_score": 0.8, "dev_log_loss": 0.5, "tokens": 1000}),
]
END: list[tuple[str, Any]] = [("arm", {"name": "best_tuned", "score": 0.9}), ("done", {"bundle": "best"})]
SUMMED = {
    "arms": {"seed_prompt": {**ARM, "score": 0.7}, "best_tuned": ARM, "seed_tuned": None},
    "references": {"tfidf": {**ARM, "score": 0.6, "log_loss": float(1)}},
    "gains": {"both": {"value": 0.2, "ci": [0.1, 0.3], "p": 0.01}},
}


class Recorder:
    """A tracker that writes down what it is told, and fails or waits where it is asked to."""

    where = "http://tracker.example/1"

    def __init__(self, fails_at: str = "", waits_for: threading.Event | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.points: list[tuple[dict[str, float], Moment]] = []
        self.fails_at, self.waits_for = fails_at, waits_for

    def start(self, run: Tracked, resume: str | None) -> str:
        self._called("start", resume)
        return resume or "run-1"

    def metrics(self, values: Mapping[str, float], at: Moment) -> None:
        if self.waits_for is not None:
            self.waits_for.wait(20)
        self._called("metrics", sorted(values))
        self.points.append((dict(values), at))

    def arms(self, found: Sequence[Estimate], at: Moment) -> None:
        self._called("arms", list(found))

    def files(self, run: Tracked) -> None:
        self._called("files", run.folder)

    def end(self, status: Status) -> None:
        self._called("end", status)

    def told(self, kind: str) -> list[Any]:
        return [what for name, what in self.calls if name == kind]

    def _called(self, kind: str, what: Any) -> None:
        if self.fails_at == kind:
            raise ConnectionError("no answer from http://me:secret@tracker.example/api")
        self.calls.append((kind, what))


class Lines:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """Nothing."""

    def set_time_left(self, seconds: float | None) -> None:
        """Nothing."""

    @property
    def notes(self) -> list[str]:
        return [event["value"]["text"] for event in self.events if event["kind"] == "note"]


def session(
    folder: Path,
    tracker: Recorder,
    steps: Sequence[tuple[str, Any]],
    then: Callable[[], object] = lambda: None,
    view: Lines | None = None,
) -> Lines:
    """One session of a run: its journal goes on, and a view and a tracker follow."""
    view = view or Lines()
    config = config_from_data("mails.csv", input="text", output="label", tracking="mlflow")
    folder.mkdir(exist_ok=True)
    with tracked(tracker, config, folder, view) as watched:
        journal = Journal(folder)
        journal.listeners.append(watched.event)
        if journal.events:
            # As the cycle tells of a run that resumes.
            watched.event({"n": len(journal.events) - 1, "kind": "note", "value": {"text": "resuming"}})
            for event in journal.events:
                watched.event(event)
        # A run that resumes takes all of its steps again; those that stand in the journal are given back.
        for place, (kind, value) in enumerate(steps):
            journal.step(kind, place, lambda value=value: value)
            if kind == "arm":
                write_json(folder / SUMMARY, SUMMED)
        then()
    return view


def fails(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_a_run_is_told_with_its_seconds_and_tokens_and_what_it_found(tmp_path: Path) -> None:
    tracker, folder = Recorder(), tmp_path / "mails"
    view = session(folder, tracker, [*OPENING, *SEARCH, *END])
    assert [name for name, _ in tracker.calls] == ["start", *["metrics"] * 4, "arms", "files", "end"]
    assert [point for point, _ in tracker.points] == [
        {"race/score": 0.7, "race/log_loss": 0.8},
        {"first_verdict/score": 0.71, "first_verdict/log_loss": 0.82, "first_verdict/low": 0.6, "first_verdict/high": 0.8},
        {"train/loss": 0.5, "train/steps": 12.0},
        {"cycle/score": 0.8, "cycle/log_loss": 0.5},
    ]
    at = [moment for _, moment in tracker.points]
    assert [moment.tokens for moment in at] == [700, 700, 950, 1000]
    seconds = {event["n"]: event["active_s"] for event in view.events if event["kind"] != "note"}
    assert [(moment.place, moment.seconds) for moment in at] == [(n, seconds[n]) for n in (4, 5, 7, 8)]
    (found,) = tracker.told("arms")
    assert found == [
        Estimate("arm", "seed_prompt", 0.7, 0.8, 0.95, 40, 0.3),
        Estimate("arm", "best_tuned", 0.9, 0.8, 0.95, 40, 0.3),
        Estimate("reference", "tfidf", 0.6, 0.8, 0.95, 40, 1.0),
        Estimate("gain", "both", 0.2, 0.1, 0.3, p=0.01),
    ]
    assert tracker.told("end") == ["finished"]
    assert view.notes.count("tracked in mlflow: http://tracker.example/1") == 1


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "stopped"), (RuntimeError("broken"), "failed")])
def test_a_run_that_resumes_goes_on_in_the_same_run_and_tells_nothing_twice(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    first, second, folder = Recorder(), Recorder(), tmp_path / "mails"
    with pytest.raises(type(error)):
        session(folder, first, [*OPENING, *SEARCH[:3]], then=fails(error))
    assert (first.told("start"), first.told("end"), len(first.points)) == ([None], [status], 2)
    session(folder, second, [*OPENING, *SEARCH, *END])
    assert second.told("start") == ["run-1"] and second.told("end") == ["finished"]
    assert [sorted(point) for point, _ in second.points] == [["train/loss", "train/steps"], ["cycle/log_loss", "cycle/score"]]
    assert [at.tokens for _, at in second.points] == [950, 1000]


def test_a_run_that_ended_is_told_once(tmp_path: Path) -> None:
    folder, tracker, again = tmp_path / "mails", Recorder(), Recorder()
    # Without a tracker first: tracking was not asked for, or the package was missing.
    steps = [*OPENING, *SEARCH, *END]
    folder.mkdir()
    journal = Journal(folder)
    for place, (kind, value) in enumerate(steps):
        journal.step(kind, place, lambda value=value: value)
    write_json(folder / SUMMARY, SUMMED)
    for recorder in (tracker, again):
        with tracked(recorder, config_from_data("m.csv", input="a", output="b", tracking="wandb"), folder, Lines()):
            pass
    assert len(tracker.points) == 4 and len(tracker.told("files")) == 1
    assert again.calls == []


@pytest.mark.parametrize("where", ["start", "metrics", "arms", "files", "end"])
def test_a_tracker_that_fails_is_told_of_once_and_the_run_goes_on(tmp_path: Path, where: str) -> None:
    folder, steps = tmp_path / "mails", [*OPENING, *SEARCH, *END]
    view = session(folder, Recorder(fails_at=where), steps)
    told = [note for note in view.notes if "tracking in mlflow stopped" in note]
    assert len(told) == 1 and "tracker.example" in told[0] and "secret" not in told[0]
    assert [event["kind"] for event in view.events if event["kind"] != "note"] == [kind for kind, _ in steps]
    # The same command tells the rest.
    later = Recorder()
    session(folder, later, steps)
    missed = {"start": 4, "metrics": 4, "arms": 0, "files": 0, "end": 0}
    assert len(later.points) == missed[where]
    assert len(later.told("files")) == (where != "end")
    assert len(later.told("arms")) == (where in ("start", "metrics", "arms")), "not twice"


def test_a_run_that_is_refused_leaves_nothing_in_the_tracker(tmp_path: Path) -> None:
    tracker, folder = Recorder(), tmp_path / "mails"
    with pytest.raises(InputError):
        session(folder, tracker, OPENING, then=fails(InputError("the budget is too small")))
    assert tracker.calls == [] and not (folder / TRACKING).exists()


def test_a_slow_tracker_holds_nothing_up(tmp_path: Path) -> None:
    answer = threading.Event()
    tracker = Recorder(waits_for=answer)
    view = Lines()

    def let_go() -> None:
        assert len([event for event in view.events if event["kind"] != "note"]) == len([*OPENING, *SEARCH, *END])
        assert tracker.points == []
        answer.set()

    session(tmp_path / "mails", tracker, [*OPENING, *SEARCH, *END], then=let_go, view=view)
    assert len(tracker.points) == 4


def test_a_journal_that_was_cut_is_followed_from_there(tmp_path: Path) -> None:
    folder = tmp_path / "mails"
    with pytest.raises(KeyboardInterrupt):
        session(folder, Recorder(), [*OPENING, *SEARCH], then=fails(KeyboardInterrupt()))
    journal = folder / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:5]))
    later = Recorder()
    session(folder, later, [*OPENING, *SEARCH, *END])
    assert [at.place for _, at in later.points] == [5, 7, 8]


def test_what_was_told_is_kept_for_each_tracker_and_holds_no_address(tmp_path: Path) -> None:
    session(tmp_path / "mails", Recorder(), [*OPENING, *SEARCH, *END])
    kept = json.loads((tmp_path / "mails" / TRACKING).read_text())
    assert kept == {"mlflow": {"run": "run-1", "told": 11, "arms": True, "ended": True}}


def test_deleted_event_files_of_tensorboard_are_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            Path(folder).mkdir(exist_ok=True)

        def add_text(self, name: str, text: str, step: int) -> None:
            told.append(name)

        add_scalar = add_text

        def flush(self) -> None: ...

        close = flush

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.delitem(sys.modules, "cotune.tracking.tensorboard", raising=False)
    folder = tmp_path / "mails"
    for steps in ([*OPENING, *SEARCH[:2]], [*OPENING, *SEARCH[:3]]):
        with pytest.raises(KeyboardInterrupt):
            session(folder, tracker_of("tensorboard"), steps, then=fails(KeyboardInterrupt()))
    assert told.count("config") == 1 and told.count("race/score") == 1
    (folder / "tensorboard").rmdir()
    session(folder, tracker_of("tensorboard"), [*OPENING, *SEARCH, *END])
    assert told.count("config") == 2 and told.count("race/score") == 2


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_missing_package_is_told_before_anything_is_done(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(40)))
    monkeypatch.setitem(sys.modules, name, None)
    for module in (f"cotune.tracking.{name}", "torch.utils.tensorboard"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    out = tmp_path / "run"
    ended = call("run", tmp_path / "rows.csv", "--input=text", "--output=label", f"tracking={name}", "--out", out)
    assert ended.code == 2 and f"pip install 'cotune[{name}]'" in ended.stderr
    assert not out.exists()


def test_no_tracker_is_a_tracker_too(tmp_path: Path) -> None:
    view = Lines()
    with tracked(tracker_of(None), config_from_data("m.csv", input="a", output="b"), tmp_path, view) as watched:
        assert watched is view


def test_an_unknown_tracker_is_told_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"tracking.*mlflow"):
        config_from_data("m.csv", input="a", output="b", tracking="neptune")


def test_a_run_goes_on_with_another_tracker_or_none() -> None:
    tracked_one, other = (config_from_data("m.csv", input="a", output="b", tracking=name) for name in ("mlflow", None))
    assert tracked_one.differences(other) == []


def test_an_export_for_mlflow_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cotune.bundle.export.mlflow_folder import export_mlflow

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'cotune\[mlflow\]'"):
        export_mlflow(tmp_path, tmp_path / "out")


def test_a_schema_is_one_setting(tmp_path: Path) -> None:
    """Trackers refuse some of the names in it."""
    schema = {"$schema": "x", "type": "object", "properties": {"Amount (EUR)": {"type": "number"}}}
    file = tmp_path / "task.yaml"
    data = {"train": "rows.csv", "input": "text", "output": "out"}
    file.write_text(json.dumps({"name": "t", "data": data, "output": {"type": "json", "schema": schema}}))
    told = settings_of(load_config(file, []))
    assert json.loads(told["output.schema"]) == schema and not [name for name in told if "$" in name or "(" in name]
