"""What a test is said to show is what it shows."""

from __future__ import annotations

import numpy as np
import pytest

from cotune.evaluate.stats.detectable import (
    ASSUMED_CORRELATION,
    detectable_sentence,
    mcnemar_power,
    minimum_detectable_effect,
)
from cotune.evaluate.stats.paired import mcnemar, sign_flip_test


@pytest.mark.parametrize(("n", "discordant"), [(100, 0.2), (200, 0.1), (500, 0.1)])
def test_the_detectable_effect_is_found_as_often_as_it_says(n, discordant):
    effect = minimum_detectable_effect(n, discordant=discordant)
    generator = np.random.default_rng(n)
    up, down = (discordant + effect) / 2, (discordant - effect) / 2
    tables = generator.multinomial(n, [up, down, 1 - discordant], size=4000)
    found = np.mean([mcnemar(int(lost), int(gained)) <= 0.05 for gained, lost, _ in tables])
    assert found == pytest.approx(0.8, abs=0.025)
    assert mcnemar_power(n, effect - 0.01, discordant) < 0.8


def test_the_detectable_effect_shrinks_with_rows_and_is_hopeless_for_a_handful():
    effects = [minimum_detectable_effect(n) for n in (20, 50, 100, 200, 500, 2000, 20_000)]
    assert effects == sorted(effects, reverse=True)
    assert minimum_detectable_effect(5) == 1.0
    assert detectable_sentence(200) == "With 200 test rows, a gain below about 6 points cannot be distinguished from noise."
    assert "no gain of any size" in detectable_sentence(5)


def test_grouped_rows_show_less_and_the_sentence_says_what_is_assumed():
    alone, told = detectable_sentence(200), detectable_sentence(200, group_sizes=[10] * 20)
    assert told.startswith("With 200 test rows in 20 groups, worth about 54 rows at a correlation of 0.3 within groups")
    points = [int(text.split("below about ")[1].split()[0]) for text in (alone, told)]
    assert points[1] > 1.5 * points[0]
    assert "no gain of any size" in detectable_sentence(200, group_sizes=[40] * 5)
    assert "in 1 group," in detectable_sentence(50, group_sizes=[50])
    assert detectable_sentence(200, group_sizes=[1] * 200).split("below")[1] == alone.split("below")[1]


def test_another_metric_is_named():
    told = detectable_sentence(200, metric="macro_f1")
    assert told.startswith(detectable_sentence(200)) and "the metric is macro F1, for which it is a rough guide" in told


def test_a_gain_of_that_size_is_found_in_groups_as_alike_as_assumed():
    groups, size, discordant = 60, 5, 0.2
    rows = round(groups * size / (1 + (size - 1) * ASSUMED_CORRELATION))
    effect, generator = minimum_detectable_effect(rows, discordant=discordant), np.random.default_rng(0)
    shares = np.array([(discordant + effect) / 2, (discordant - effect) / 2, 1 - discordant])
    own = generator.dirichlet(shares * (1 / ASSUMED_CORRELATION - 1), size=(400, groups))
    tables = np.array([[generator.multinomial(size, share) for share in sample] for sample in own])
    found = [sign_flip_test(table[:, 0] - table[:, 1], seed=run, draws=199) <= 0.05 for run, table in enumerate(tables)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)
