"""The mean of adapters: exact where it can be, the nearest of its rank where it cannot."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cotune.errors import CotuneError
from cotune.tune.average import How, average

HOWS: tuple[How, ...] = ("factors", "updates")
A, B = "layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight"


def adapter(seed: int, *, rank: int = 2, layers: int = 2, like: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A drawn adapter; ``like`` gives it another one's A."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(layers):
        down, up = A.replace("0", str(layer)), B.replace("0", str(layer))
        found[down] = torch.randn(rank, 7, generator=generator) if like is None else like[down]
        found[up] = torch.randn(5, rank, generator=generator)
    return found


def update(weights: dict[str, Tensor], layer: int = 0) -> Tensor:
    return weights[B.replace("0", str(layer))].double() @ weights[A.replace("0", str(layer))].double()


def gap(weights: dict[str, Tensor], adapters: list[dict[str, Tensor]], shares: list[float]) -> float:
    """What is to be told, from the full matrices."""
    missing = whole = 0.0
    for layer in range(2):
        exact = sum(share / sum(shares) * update(one, layer) for share, one in zip(shares, adapters, strict=True))
        missing += float(((update(weights, layer) - exact) ** 2).sum())
        whole += float((exact**2).sum())
    return float((missing / whole) ** 0.5)


@pytest.mark.parametrize("how", HOWS)
@given(seeds=st.lists(st.integers(0, 50), min_size=1, max_size=4), data=st.data())
def test_the_distance_to_the_exact_mean_is_what_is_told(how: How, seeds: list[int], data: st.DataObject) -> None:
    adapters = [adapter(seed) for seed in seeds]
    shares = data.draw(st.lists(st.floats(0.1, 5.0), min_size=len(seeds), max_size=len(seeds)))
    made = average(adapters, how=how, shares=shares)
    assert made.distance == pytest.approx(gap(made.weights, adapters, shares), abs=1e-5)
    assert {name: value.shape for name, value in made.weights.items()} == {n: v.shape for n, v in adapters[0].items()}


def test_with_one_a_in_common_the_mean_of_the_factors_is_exact() -> None:
    first = adapter(0)
    made = average([first, adapter(1, like=first), adapter(2, like=first)])
    assert made.distance < 1e-6
    assert average([first, adapter(1)]).distance > 0.1


def test_the_nearest_of_the_rank_is_that_of_a_singular_value_decomposition() -> None:
    adapters = [adapter(seed) for seed in range(3)]
    exact = sum(update(one) for one in adapters) / 3
    u, sizes, v = torch.linalg.svd(exact)
    assert torch.allclose(update(average(adapters, how="updates").weights), u[:, :2] * sizes[:2] @ v[:2], atol=1e-5)
    assert average(adapters, how="updates").distance < average(adapters).distance


def test_rank_enough_is_exact_though_rows_are_fewer_than_twice_the_rank() -> None:
    adapters = [adapter(seed, rank=6) for seed in range(2)]
    made = average(adapters, how="updates")
    assert made.distance < 1e-5 and all(torch.isfinite(value).all() for value in made.weights.values())


@pytest.mark.parametrize("how", HOWS)
def test_one_adapter_is_its_own_mean_and_fresh_ones_have_none(how: How) -> None:
    assert torch.allclose(update(average([adapter(3)] * 2, how=how).weights), update(adapter(3)), atol=1e-5)
    fresh = {name: torch.zeros_like(value) if ".lora_B." in name else value for name, value in adapter(0).items()}
    made = average([fresh, fresh], how=how)
    assert made.distance == 0.0 and not update(made.weights).any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CotuneError, match="no adapters"):
        average([])
    with pytest.raises(CotuneError, match="same shape"):
        average([adapter(0), adapter(1, rank=3)])
    with pytest.raises(CotuneError, match="LoRA"):
        average([{"prompt_embeddings": torch.zeros(2, 3)}])
    for shares in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("inf")]):
        with pytest.raises(CotuneError, match="share"):
            average([adapter(0), adapter(1)], shares=shares)
