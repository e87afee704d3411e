"""A prefix read aloud: untrained it says its own words and has not moved; a word put into it is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cotune.model.adapters.prefix import TrainedPrefix
from cotune.model.adapters.prefix_reading import read_prefix
from cotune.model.adapters.slots import BASE
from tiny import FITTING, Kind, tiny_local


def prefix_of(model: object, ids: tuple[int, ...]) -> TrainedPrefix:
    with torch.no_grad():
        state = model.run_prefix(BASE, ids)  # type: ignore[attr-defined]
    return TrainedPrefix.of_state(state, ids)


@pytest.mark.parametrize("kind", FITTING)
def test_an_untrained_prefix_is_its_own_words(kind: Kind) -> None:
    model = tiny_local(kind)
    ids = tuple(model.tokenizer("Name the kind of the question")["input_ids"])
    before = model.run_prefix(BASE, ids)
    found = read_prefix(model, prefix_of(model, ids))
    assert [token.words[0][0] for token in found] == [token.text for token in found]
    assert all(token.words[0][1] == pytest.approx(1, abs=1e-4) and token.moved == pytest.approx(0, abs=1e-6) for token in found)
    assert all(len(token.words) == 5 for token in found)
    # Looking leaves the model as it was.
    after = model.run_prefix(BASE, ids)
    assert all(torch.equal(before.layers[n][0], after.layers[n][0]) for n in before.layers)


def test_what_moved_is_told_where_it_moved() -> None:
    model = tiny_local()
    ids, others = (tuple(model.tokenizer(text)["input_ids"][:3]) for text in ("Name the kind", "Who is it?"))
    trained, other = prefix_of(model, ids), prefix_of(model, others)
    values = trained.values.clone()
    values[0, 1] = other.values[0, 1]
    found = read_prefix(model, replace(trained, values=values))
    assert [token.words[0][0] for token in found] == [model.tokenizer.decode([i]) for i in (ids[0], others[1], ids[2])]
    assert [bool(token.moved and token.moved > 0.05) for token in found] == [False, True, False]
    assert [(token.text, token.moved) for token in read_prefix(model, replace(trained, ids=()))] == [(None, None)] * 3


def test_models_that_the_engine_does_not_fit_tell_no_words() -> None:
    model = tiny_local("gemma2")
    ids = tuple(model.tokenizer("Name the kind")["input_ids"])
    assert [token.words for token in read_prefix(model, prefix_of(model, ids))] == [()] * len(ids)
