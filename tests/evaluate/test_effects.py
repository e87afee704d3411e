from __future__ import annotations

import numpy as np
import pytest

from cotune.evaluate.effects import prompt_effects


def test_a_prompt_that_met_only_easy_rows_does_not_look_good_for_it() -> None:
    rng = np.random.default_rng(0)
    worth = np.linspace(-0.3, 0.3, 9)
    hard = np.concatenate([np.full(16, -1.0), np.full(48, 1.0)])
    table = 2 + worth[:, None] + hard + 0.1 * rng.standard_normal((9, 64))
    # The better half went on to the hard rows.
    losses = [table[i, :64] if i < 4 else table[i, :16] for i in range(9)]
    plain = np.array([row.mean() for row in losses])
    assert plain[0] > plain[8], "the plain mean is misled"
    effects = prompt_effects(losses)
    assert np.corrcoef(effects.value, worth)[0, 1] > 0.97
    assert effects.value.mean() == pytest.approx(0.0, abs=1e-9)
    assert np.allclose(effects.noise[:4] * 4, effects.noise[4])
    assert effects.noise[0] == pytest.approx(0.01 / 64, rel=0.5)


def test_prompts_without_rows_are_unknown_and_lone_ones_are_taken_as_they_are() -> None:
    effects = prompt_effects([np.array([1.0, 2.0]), np.array([]), np.array([2.0, 3.0])])
    assert np.isnan(effects.value[1]) and np.isinf(effects.noise[1])
    assert effects.value[0] == pytest.approx(-effects.value[2])
    assert effects.value[2] - effects.value[0] == pytest.approx(1.0)
    nothing = prompt_effects([np.array([])])
    assert np.isnan(nothing.value).all() and np.isinf(nothing.noise).all()
    alone = prompt_effects([np.array([0.5])])
    assert alone.value.tolist() == [0.0] and np.isfinite(alone.noise).all()
