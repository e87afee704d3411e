"""The journal: whole lines come back, torn ones do not, and steps are done once. Budgets as users write them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cycle_runs import labelled_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.budget.budget import Clock, parse_budget
from cotune.cycle.inputs import read_inputs
from cotune.cycle.journal import DamagedJournalError, Journal, cut_journal, read_journal
from cotune.errors import BudgetError, CotuneError, DivergedError, InputError
from cotune.run_files import JOURNAL
from journals import write_journal

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
steps = st.lists(st.tuples(st.text(min_size=1, max_size=8), values, values), min_size=1, max_size=8)


def never() -> NoReturn:
    raise AssertionError("a step that stands in the journal was done again")


def gives(value: Any) -> Callable[[], Any]:
    return lambda: value


@settings(max_examples=60, deadline=None)
@given(events=steps, share=st.floats(0, 1))
def test_torn_at_any_byte_it_reads_whole_lines_and_goes_on(events: list[tuple[str, Any, Any]], share: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = Journal(folder)
        given_back = [first.step(kind, key, gives(value)) for kind, key, value in events]
        whole = (folder / JOURNAL).read_bytes()
        # The lines hold times, so their length is not the same twice.
        cut = round(share * len(whole))
        (folder / JOURNAL).write_bytes(whole[:cut])
        standing = whole[:cut].count(b"\n")
        assert len(read_journal(folder / JOURNAL)) == standing

        again = Journal(folder)
        assert (folder / JOURNAL).read_bytes() == whole[: whole[:cut].rfind(b"\n") + 1]
        for number, (kind, key, value) in enumerate(events):
            assert again.replaying == (number < standing)
            effect = never if number < standing else gives(value)
            assert again.step(kind, key, effect) == given_back[number]
        assert [(e["n"], e["kind"], e["value"]) for e in read_journal(folder / JOURNAL)] == [
            (n, kind, given_back[n]) for n, (kind, _, _) in enumerate(events)
        ]


@settings(max_examples=60, deadline=None)
@given(events=steps)
def test_a_step_gives_back_what_a_later_session_will_read(events: list[tuple[str, Any, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = Journal(Path(name))
        now = [json.dumps(journal.step(kind, key, gives(value))) for kind, key, value in events]
        again = Journal(Path(name))
        assert [json.dumps(again.step(kind, key, never)) for kind, key, _ in events] == now


@pytest.mark.parametrize("garbage", [b"{", b'{"kind"', b"\xff\xfe", b"[1, 2]", b'{"n": 1}', b'"text"', b"\0\0\0\0"])
@pytest.mark.parametrize("ended", [b"", b"\n"])
def test_a_last_line_that_is_nothing_is_cut_off(tmp_path: Path, garbage: bytes, ended: bytes) -> None:
    Journal(tmp_path).step("a", 1, lambda: 1)
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole + garbage + ended)
    journal = Journal(tmp_path)
    assert len(journal.events) == 1
    assert (tmp_path / JOURNAL).read_bytes() == whole
    journal.step("a", 1, never)
    journal.step("b", 2, lambda: 2)
    assert [event["kind"] for event in read_journal(tmp_path / JOURNAL)] == ["a", "b"]


def test_damage_further_up_is_told_with_its_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        journal.step("a", number, lambda: None)
    lines = (tmp_path / JOURNAL).read_bytes().split(b"\n")
    (tmp_path / JOURNAL).write_bytes(b"\n".join([lines[0], lines[1][:9], *lines[2:]]))
    with pytest.raises(CotuneError, match=r"line 2 .*damaged.*--cut-journal.*--out"):
        Journal(tmp_path)


def journal_of_five(folder: Path) -> list[str]:
    journal = Journal(folder)
    for number in range(5):
        journal.step("arm", number, lambda n=number: {"score": n / 8})  # type: ignore[misc]
    return (folder / JOURNAL).read_text().splitlines(keepends=True)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_altered_line_is_told(tmp_path: Path, at: int) -> None:
    lines = journal_of_five(tmp_path)
    event = json.loads(lines[at - 1])
    event["value"]["score"] = 0.123
    lines[at - 1] = json.dumps(event, sort_keys=True) + "\n"
    (tmp_path / JOURNAL).write_text("".join(lines))
    with pytest.raises(DamagedJournalError, match=f"line {at} ") as caught:
        read_journal(tmp_path / JOURNAL)
    assert caught.value.line == at


@pytest.mark.parametrize("change", ["a line less", "two lines swapped", "a line without its hash", "a line twice"])
def test_lines_that_are_not_in_their_order_are_told(tmp_path: Path, change: str) -> None:
    lines = journal_of_five(tmp_path)
    if change == "a line less":
        del lines[1]
    elif change == "two lines swapped":
        lines[1:3] = lines[2:0:-1]
    elif change == "a line twice":
        lines.insert(1, lines[0])
    else:
        event = json.loads(lines[1])
        del event["chain"]
        lines[1] = json.dumps(event) + "\n"
    (tmp_path / JOURNAL).write_text("".join(lines))
    with pytest.raises(DamagedJournalError, match="line 2 "):
        read_journal(tmp_path / JOURNAL)


def test_a_damaged_journal_is_cut_and_a_copy_is_kept(tmp_path: Path) -> None:
    lines = journal_of_five(tmp_path)
    assert cut_journal(tmp_path) is None
    lines[3] = lines[3].replace("0.375", "0.875")
    (tmp_path / JOURNAL).write_text("".join(lines))
    copy = cut_journal(tmp_path)
    assert copy is not None and copy.read_text() == "".join(lines)
    journal = Journal(tmp_path)
    assert len(journal.events) == 3
    for number in range(3):
        journal.step("arm", number, never)
    journal.step("arm", 3, lambda: {"score": 0.375})
    assert len(read_journal(tmp_path / JOURNAL)) == 4 and cut_journal(tmp_path) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"n": 0, "kind": "a", "key": "x"}',
        '{"n": 0, "kind": 1, "value": 2}',
        '{"n": 0, "value": 2}',
        '{"n": 0, "kind": "a", "value": 2, "active_s": "long"}',
        '{"n": 0, "kind": "a", "value": 2, "active_s": null}',
    ],
)
def test_a_line_that_is_no_step_is_damage(tmp_path: Path, line: str) -> None:
    (tmp_path / JOURNAL).write_text(line + "\n" + '{"n": 1, "kind": "b", "key": "x", "value": 1}\n')
    with pytest.raises(DamagedJournalError, match="line 1 "):
        read_journal(tmp_path / JOURNAL)


@pytest.mark.parametrize(("kind", "key"), [("b", 1), ("a", 2)])
def test_another_step_at_the_same_place_is_refused(tmp_path: Path, kind: str, key: int) -> None:
    Journal(tmp_path).step("a", 1, lambda: 1)
    with pytest.raises(CotuneError, match=r"line 1 records .*'a'.*--out"):
        Journal(tmp_path).step(kind, key, never)


def test_a_step_that_fails_leaves_no_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.step("a", 1, lambda: 1)
    before = (tmp_path / JOURNAL).read_bytes()

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        journal.step("b", 2, fails)
    with pytest.raises(ValueError, match="JSON"):
        journal.step("b", 2, lambda: float("nan"))
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert journal.step("b", 2, lambda: 3) == 3


def test_a_step_that_diverged_diverges_again_when_the_run_is_resumed(tmp_path: Path) -> None:
    """A run goes on without the prompt or weights that diverged, and the steps after it are at their places."""
    tried: list[str] = []

    def run() -> list[Any]:
        journal, found = Journal(tmp_path), list[Any]()
        for name in ("a", "b", "c"):

            def effect(name: str = name) -> str:
                tried.append(name)
                if name == "b":
                    raise DivergedError("not finite")
                return name

            try:
                found.append(journal.step("embed", name, effect))
            except DivergedError as error:
                found.append(str(error))
        return found

    assert run() == run() == ["a", "not finite", "c"] and tried == ["a", "b", "c"]
    kinds = [json.loads(line)["kind"] for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert kinds == ["embed", "diverged", "embed"]


def test_listeners_hear_new_events_alone(tmp_path: Path) -> None:
    heard: list[int] = []
    Journal(tmp_path).step("a", 1, lambda: 1)
    journal = Journal(tmp_path)
    journal.listeners.append(lambda event: heard.append(event["n"]))
    journal.step("a", 1, never)
    assert heard == []
    journal.step("b", 2, lambda: 2)
    assert heard == [1]


def test_no_space_left_is_an_error_for_people(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / JOURNAL).symlink_to("/dev/full")
    journal = Journal.__new__(Journal)
    journal.path, journal._events, journal._next, journal.clock, journal.listeners = tmp_path / JOURNAL, [], 0, Clock(), []
    with pytest.raises(InputError, match=r"No space left.*Free some space.*same command"):
        journal.step("a", 1, lambda: 1)


def test_active_seconds_of_earlier_sessions_count(tmp_path: Path) -> None:
    write_journal(tmp_path, [{"n": 0, "kind": "a", "key": "", "active_s": 90.0, "value": None}])
    assert 90.0 <= Journal(tmp_path).clock() < 91.0


# Budgets ----------------------------------------------------------------------------------------------------------

_UNITS = {"s": ("time", 1), "m": ("time", 60), "min": ("time", 60), "h": ("time", 3600)} | {
    "tok": ("tokens", 1),
    "ktok": ("tokens", 1e3),
    "Mtok": ("tokens", 1e6),
    "Gtok": ("tokens", 1e9),
}


@given(
    amount=st.integers(1, 10**6) | st.decimals("0.01", 1000, places=2),
    unit=st.sampled_from(sorted(_UNITS)),
    case=st.sampled_from([str, str.lower, str.upper]),
    space=st.sampled_from(["", " ", "  "]),
)
def test_a_budget_is_read_as_written(amount: object, unit: str, case: Callable[[str], str], space: str) -> None:
    found = parse_budget(f"{space}{amount}{space}{case(unit)}{space}")
    kind, factor = _UNITS[unit]
    assert found.kind == kind
    assert found.amount == pytest.approx(float(str(amount)) * factor)
    assert str(found).strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10",
        "m",
        "10 minutes",
        "-5m",
        "1e3s",
        "5x",
        "ten m",
        "0s",
        "0ktok",
        "0.0h",
        "5m5m",
        "∞s",
        "9" * 400 + "s",
        "٣m x",
    ],
)
def test_what_is_no_budget_is_told(text: str) -> None:
    with pytest.raises(BudgetError, match=r"^budget: .*(Write|Give)"):
        parse_budget(text)


@given(st.text(max_size=12))
def test_any_text_is_a_budget_or_a_clear_error(text: str) -> None:
    try:
        assert parse_budget(text).amount > 0
    except BudgetError as error:
        assert str(error).startswith("budget: ")


def test_a_step_within_a_step_is_refused(tmp_path: Path) -> None:
    """It would stand before the other one, and the next session would not find it there."""
    journal = Journal(tmp_path)
    with pytest.raises(CotuneError, match="'inner' was taken inside the step 'outer'"):
        journal.step("outer", 1, lambda: journal.step("inner", 2, lambda: 3))
    assert journal.events == [] and journal.broken
    assert Journal(tmp_path).step("outer", 1, lambda: 4) == 4


@pytest.mark.parametrize(("budget", "why"), [("1s", "saving and the report alone"), ("60tok", "reading 80 rows once")])
def test_a_budget_that_nothing_fits_is_refused_before_anything_is_loaded(tmp_path: Path, budget: str, why: str) -> None:
    task = Task.from_rows(labelled_rows(80), input="text", output="label", limit={"test": 20})
    config = config_in_memory(name="hopeless", input=["text"], output="label", model="no such model", budget=budget)
    least = "60s" if budget == "1s" else "50ktok"
    with pytest.raises(BudgetError, match=rf"{why}.*Give --budget {least} or more"):
        read_inputs(config, tmp_path / "run", task, ())
    # What might fit is looked at with the model.
    with pytest.raises(InputError, match="no such model"):
        read_inputs(config.model_copy(update={"budget": "20s" if budget == "1s" else "2ktok"}), tmp_path / "run", task, ())
