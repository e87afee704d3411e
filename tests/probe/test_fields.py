"""Read-outs of several fields: those of each field alone, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from cotune.cycle.probe_search.fits import head_of
from cotune.errors import CotuneError, InputError
from cotune.probe import fields
from cotune.probe.cross_fitting import ADDED_ROWS, best_temperature, cross_fit, tempered
from cotune.probe.fields import alike, likeliest, log_softmax_by_field, row_correct, row_losses, spans
from cotune.probe.logistic import Axes, fit_logistic
from cotune.probe.readout import PROBE, Probe, load_probe
from cotune.probe.term_fits import TermFits
from cotune.task.values.chain import Chain

SIZES = (3, 2, 2)
ROWS, WIDTH = 90, 12
_DRAW = np.random.default_rng(0)
STATES = _DRAW.normal(size=(ROWS, WIDTH)).astype(np.float32)
# The first field is in the states, the second one is noise, the third one never changes.
OWN = np.stack([STATES[:, :3].argmax(axis=1), _DRAW.integers(0, 2, ROWS), np.zeros(ROWS, dtype=np.int64)], axis=1)
TRUTH = OWN + np.array([0, 3, 5])


def table(seed: int = 1, rows: int = ROWS) -> np.ndarray:
    return log_softmax_by_field(2 * np.random.default_rng(seed).normal(size=(rows, sum(SIZES))), SIZES)


def test_each_field_has_a_distribution_and_an_answer() -> None:
    logits = np.random.default_rng(2).normal(size=(5, 4, 7))
    found = log_softmax_by_field(logits, SIZES)
    for span in spans(SIZES, 7):
        np.testing.assert_allclose(found[..., span], log_softmax(logits[..., span], axis=-1))
    np.testing.assert_allclose(log_softmax_by_field(logits, ()), log_softmax(logits, axis=-1))
    log_probs = table()
    for row, places, loss, right in zip(
        log_probs, likeliest(log_probs, SIZES), row_losses(log_probs, TRUTH), row_correct(log_probs, TRUTH, SIZES), strict=True
    ):
        expected = [int(row[:3].argmax()), 3 + int(row[3:5].argmax()), 5 + int(row[5:].argmax())]
        assert places.tolist() == expected
        truth = TRUTH[int(np.flatnonzero((log_probs == row).all(axis=1))[0])]
        assert loss == pytest.approx(-row[truth].mean()) and right == pytest.approx((places == truth).mean())


def test_fields_that_are_alike_are_fitted_at_once_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = TRUTH.copy()
    found = list(alike(truth, SIZES, 7))
    assert [[(place.start, place.stop) for place in places] for places, _ in found] == [[(0, 3)], [(3, 5), (5, 7)]]
    assert found[0][1].tolist() == [OWN[:, 0].tolist()] and found[1][1].tolist() == OWN[:, 1:].T.tolist()
    # Other rows are other regressions, and so are those that would be too much at once.
    truth[4, 2] = -1
    assert [len(places) for places, _ in alike(truth, SIZES, 7)] == [1, 1, 1]
    monkeypatch.setattr(fields, "MOST_LOGITS", 2 * 2 * 10 * ROWS)
    assert [len(places) for places, _ in alike(TRUTH, SIZES, 7, 10)] == [1, 2]
    assert [len(places) for places, _ in alike(TRUTH, SIZES, 7, 11)] == [1, 1, 1]


def test_one_field_is_a_label() -> None:
    labels = OWN[:, 0]
    one = log_softmax(np.random.default_rng(3).normal(size=(ROWS, 3)), axis=1)
    np.testing.assert_allclose(row_losses(one, labels), -one[np.arange(ROWS), labels])
    np.testing.assert_allclose(row_correct(one, labels, ()), one.argmax(axis=1) == labels)
    assert best_temperature(one, labels) == best_temperature(one, labels[:, None], (3,))


def test_one_temperature_has_the_lowest_loss_over_all_fields() -> None:
    logits = np.random.default_rng(4).normal(size=(ROWS, 7))
    np.put_along_axis(logits, TRUTH, 1.0, axis=1)
    log_probs = log_softmax_by_field(4 * logits, SIZES)
    found = best_temperature(log_probs, TRUTH, SIZES)

    def loss(temperature: float) -> float:
        again = tempered(log_probs, temperature, SIZES)
        added = [
            again[:, span][np.arange(ROWS)[:, None], np.argsort(log_probs[:, span], axis=1)[:, -2:]] for span in spans(SIZES, 7)
        ]
        return float(row_losses(again, TRUTH).sum() - ADDED_ROWS * np.mean(added))

    grid = np.exp(np.linspace(np.log(0.25), np.log(8), 400))
    assert 0.5 < found < 7
    assert loss(found) <= min(map(loss, grid)) + 1e-6


def test_a_read_out_of_several_fields_is_that_of_each() -> None:
    both = head_of(STATES, TRUTH, 7, 0.1, sizes=SIZES)
    for column, span in enumerate(spans(SIZES, 7)):
        alone = head_of(STATES, OWN[:, column], span.stop - span.start, 0.1)
        np.testing.assert_allclose(both.weight[span], alone.weight, atol=1e-6)
        np.testing.assert_allclose(both.bias[span], alone.bias, atol=1e-6)


def test_cross_fitting_finds_the_layer_that_knows_and_judges_each_field() -> None:
    noise = np.random.default_rng(5).normal(size=(2, ROWS, WIDTH)).astype(np.float32)
    stack = np.stack([noise[0], STATES, noise[1]])
    found = cross_fit(stack, TRUTH, sizes=SIZES, layers=[4, 8, 12])
    assert found.layer == 8 and found.sizes == SIZES
    right = likeliest(found.log_probs, SIZES) == TRUTH
    assert right[:, 0].mean() > 0.8 and right[:, 1].mean() < 0.7 and right[:, 2].all()
    assert found.best.log_loss == pytest.approx(found.best.losses.mean()) and np.isfinite(found.best.losses).all()
    # Losses are means over the fields, and over three draws of the folds, of which the table is the first.
    assert found.best.accuracy == pytest.approx(right.mean(), abs=0.05)


def test_cross_fitting_of_fields_that_are_one_label_twice_is_that_of_the_label() -> None:
    labels = OWN[:, 0]
    twice = cross_fit(STATES, np.stack([labels, labels + 3], axis=1), sizes=(3, 3))
    once = cross_fit(STATES, labels[:, None], sizes=(3,))
    assert twice.best.strength == once.best.strength
    np.testing.assert_allclose(twice.best.losses, once.best.losses, atol=1e-9)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (OWN[:, 0], "do not fit 3 fields"),
        (np.tile(TRUTH[:1], (ROWS, 1)), "two labels"),
        (TRUTH + np.array([0, 0, 2]), "numbers from"),
    ],
)
def test_classes_that_do_not_fit_the_fields_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cross_fit(STATES, labels, sizes=SIZES)


def test_tfidf_of_fields_is_that_of_each() -> None:
    texts = [f"{'abc'[own[0]]}{'abc'[own[0]]} word{own[1]} row" for own in OWN]
    both = TermFits(texts, TRUTH, 7, SIZES)
    weights = both.fit(np.ones(ROWS, dtype=bool), ("text",))
    alone = TermFits(texts, OWN[:, 0], 3).fit(np.ones(ROWS, dtype=bool), ("text",))
    np.testing.assert_allclose(weights.logits(texts[:9])[:, :3], alone.logits(texts[:9]), atol=2e-2)
    found = both.cross_fitted()
    assert found is not None
    np.testing.assert_allclose(np.exp(found[:, 3:5]).sum(axis=1), 1)
    assert row_correct(found, TRUTH, SIZES).mean() == 1.0


def probe(**change: object) -> Probe:
    given = {"labels": tuple("abcdefg"), "sizes": SIZES} | change
    weight = np.random.default_rng(6).normal(size=(7, 2 * WIDTH)).astype(np.float32)
    return Probe(given["labels"], weight, np.zeros(7, dtype=np.float32), 3, sizes=given["sizes"])  # type: ignore[arg-type]


def test_a_stored_probe_keeps_its_fields(tmp_path: Path) -> None:
    (tmp_path / PROBE).write_bytes(probe().to_bytes())
    found = load_probe(tmp_path)
    assert found is not None and found.sizes == SIZES
    states = np.random.default_rng(7).normal(size=(4, 2 * WIDTH)).astype(np.float32)
    log_probs = found.log_probs(states, found.labels)
    np.testing.assert_allclose([np.exp(log_probs[:, span]).sum(axis=1) for span in spans(SIZES, 7)], 1)
    # In another order, values would go to other fields.
    with pytest.raises(CotuneError, match="other labels"):
        found.log_probs(states, found.labels[::-1])


@pytest.mark.parametrize("sizes", [(3, 2), (3, 2, 1, 1), (3, 4.0), ("3", 4)])
def test_a_stored_probe_whose_fields_do_not_fit_is_refused(tmp_path: Path, sizes: tuple[object, ...]) -> None:
    (tmp_path / PROBE).write_bytes(probe(sizes=sizes).to_bytes())
    with pytest.raises(InputError, match="fields do not fit"):
        load_probe(tmp_path)


def words_and_rows(rows: int = 40, words: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States of three words and of the whole of each row, a tag of each word, and a field that only the whole row has."""
    draw = np.random.default_rng(7)
    tags, kinds = draw.integers(0, 3, (rows, words + 1)), draw.integers(0, 2, rows)
    tags[:, -1] = 0
    states = draw.normal(size=(rows, words + 1, 8)) * 0.3
    states[..., :3] += np.eye(3)[tags] * (np.arange(words + 1) < words)[:, None]
    states[:, -1, 4] += 0.1 * (2 * kinds - 1) + 5
    truth = np.stack([tags, np.full_like(tags, -1)], axis=2)
    truth[:, -1, 1] = 3 + kinds
    return states.reshape(-1, 8).astype(np.float32), truth.reshape(-1, 2), np.repeat(np.arange(rows), words + 1)


def test_a_field_may_be_read_off_some_of_a_rows_states() -> None:
    states, truth, owners = words_and_rows()
    found = cross_fit(states, truth, sizes=(3, 2), owners=owners)
    assert found.best.losses.shape == found.best.correct.shape == (40,) and found.log_probs.shape == (160, 5)
    last = truth[:, 1] >= 0
    once = cross_fit(states, truth, sizes=(3, 2), owners=owners, repeats=1).best
    by_hand = -once.log_probs[np.arange(160), truth[:, 0]]
    by_hand[last] = (by_hand[last] - once.log_probs[last, truth[last, 1]]) / 2
    np.testing.assert_allclose(once.losses, by_hand.reshape(40, 4).mean(axis=1))
    likely = likeliest(found.log_probs, (3, 2))
    assert (likely[~last, 0] == truth[~last, 0]).mean() > 0.85
    assert np.allclose(found.log_probs[~last, 3:], np.log(0.5)), "where the field is not read, nothing is said"


def test_the_penalty_of_some_rows_is_that_of_rows_of_unit_variance() -> None:
    states, truth, _ = words_and_rows()
    rows = np.flatnonzero(truth[:, 1] >= 0)
    axes, square = Axes(states, double=True).of_rows(rows)
    found = fit_logistic(axes, truth[rows, 1] - 3, 2, strengths=[0.1 / square], tolerance=1e-8)
    scaled = fit_logistic(states[rows] / np.float32(np.sqrt(square)), truth[rows, 1] - 3, 2, strengths=[0.1], tolerance=1e-8)
    np.testing.assert_allclose(found.weight * np.sqrt(square), scaled.weight, atol=1e-4)


def test_all_states_of_a_row_are_in_one_fold() -> None:
    draw = np.random.default_rng(8)
    # All words of a row have its state and its label, which says nothing about other rows.
    states, labels = np.repeat(draw.normal(size=(60, 90)), 5, axis=0).astype(np.float32), np.repeat(draw.integers(0, 2, 60), 5)
    owners = np.repeat(np.arange(60), 5)
    apart = cross_fit(states, labels[:, None], sizes=(2,), owners=owners)
    leaking = cross_fit(states, labels[:, None], sizes=(2,))
    assert apart.best.accuracy < 0.65 and leaking.best.accuracy > 0.9
    grouped = cross_fit(states, labels[:, None], sizes=(2,), owners=owners, groups=[row // 2 for row in range(60)])
    assert grouped.best.losses.shape == (60,)
    with pytest.raises(InputError, match="groups do not fit 60 rows"):
        cross_fit(states, labels[:, None], sizes=(2,), owners=owners, groups=list(range(300)))


def test_one_state_a_row_is_the_special_case_of_several() -> None:
    once = cross_fit(STATES, TRUTH, sizes=SIZES)
    owned = cross_fit(STATES, TRUTH, sizes=SIZES, owners=np.arange(ROWS))
    np.testing.assert_array_equal(once.log_probs, owned.log_probs)
    np.testing.assert_allclose(once.best.losses, owned.best.losses)
    with pytest.raises(InputError, match="numbers from 0"):
        cross_fit(STATES, TRUTH - 1, sizes=SIZES)


def test_a_probe_of_words_is_stored_and_has_the_models_width(tmp_path: Path) -> None:
    weight = np.ones((7, 5), dtype=np.float32)
    made = Probe(tuple("abcdefg"), weight, np.zeros(7, dtype=np.float32), 3, sizes=SIZES, words=True)
    assert made.width == 5
    (tmp_path / PROBE).write_bytes(made.to_bytes())
    found = load_probe(tmp_path)
    assert found is not None and found.words and found.width == 5 and found.chain is None
    chain = Chain.flat(SIZES[0] - 1)
    (tmp_path / PROBE).write_bytes(replace(made, chain=chain).to_bytes())
    again = load_probe(tmp_path)
    assert again is not None and again.chain is not None and again.chain.parts == chain.parts
    (tmp_path / PROBE).write_bytes(replace(made, chain=Chain.flat(SIZES[0])).to_bytes())
    with pytest.raises(InputError, match="its chain does not fit"):
        load_probe(tmp_path)
    rows = Probe(tuple("abcdefg"), weight, np.zeros(7, dtype=np.float32), 3, sizes=SIZES)
    (tmp_path / PROBE).write_bytes(rows.to_bytes())
    with pytest.raises(InputError, match="width is invalid"):
        load_probe(tmp_path)
