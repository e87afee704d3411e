from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cotune.model.layers.packed_weights as laid_out_module
from cotune.model.adapters.files import LoraSettings
from cotune.model.layers.fused_lora import LoraGroup
from cotune.model.layers.packed_weights import can_prepack
from cotune.model.layers.peft_lora import FusedLinear
from cotune.model.local import LocalModel
from cotune.tune.batches import TrainingRow
from cotune.tune.loss import plain_loss, shared_prefix_loss
from tiny import FITTING, tiny_local, widen_lora

SMALL = LoraSettings(rank=4, alpha=8)
ROWS = [TrainingRow((5, 6, 7, 8, 9 + i, 11), (20 + i, 2)) for i in range(3)]


@pytest.fixture(autouse=True, params=["prepacked", "stacked"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Frozen weights in the processor's layout, where it has one, and as they are on other machines."""
    if request.param == "stacked":
        monkeypatch.setattr(laid_out_module, "can_prepack", lambda dtype: False)
    elif not can_prepack(torch.float32):
        pytest.skip("this processor has no layout of its own")
    return str(request.param)


def trained(local: LocalModel) -> list[Tensor]:
    parameters = local.adapters.start(SMALL, seed=0)
    widen_lora(parameters, 0)
    return [p for _, p in parameters]


def gradients(local: LocalModel, parameters: list[Tensor], *, shared: bool) -> tuple[float, Tensor]:
    for parameter in parameters:
        parameter.grad = None
    loss, _ = shared_prefix_loss(local, ROWS, 4) if shared else plain_loss(local, ROWS)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters)
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@pytest.mark.parametrize("kind", FITTING)
@pytest.mark.parametrize("shared", [True, False])
def test_loss_and_gradient_are_those_of_peft(kind: Any, shared: bool) -> None:
    local = tiny_local(kind)
    parameters = trained(local)
    loss, found = gradients(local, parameters, shared=shared)
    with local.adapters.unfused():
        wanted_loss, wanted = gradients(local, parameters, shared=shared)
    assert float(wanted.norm()) > 1e-2
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize("kind", FITTING)
def test_layers_that_read_one_input_are_one_group(kind: Any, layout: str) -> None:
    local = tiny_local(kind)
    trained(local)
    groups: dict[int, LoraGroup] = {}
    names: dict[int, list[str]] = {}
    for name, module in local.model.named_modules():
        if isinstance(module, FusedLinear):
            groups[id(module.group)] = module.group
            names.setdefault(id(module.group), []).append(name.rsplit(".", 1)[-1])
    layers = local.model.config.get_text_config().num_hidden_layers
    assert len(groups) == 4 * layers
    assert sorted(map(tuple, names.values())) == sorted(
        [("down_proj",), ("gate_proj", "up_proj"), ("o_proj",), ("q_proj", "k_proj", "v_proj")] * layers
    )
    assert all(bool(group._stacked) == (layout == "stacked") for group in groups.values())
    if layout == "stacked":
        # Frozen weights lie in memory once, inside of the stacked matrix.
        group = next(iter(groups.values()))
        first = group.layers[0].base.weight.untyped_storage().data_ptr()
        assert all(layer.base.weight.untyped_storage().data_ptr() == first for layer in group.layers)


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizer_step_is_seen_by_the_next_pass(fused: bool) -> None:
    local = tiny_local("llama")
    parameters = trained(local)
    optimizer = torch.optim.AdamW(parameters, lr=0.05, fused=fused)
    before, _ = gradients(local, parameters, shared=True)
    optimizer.step()
    with torch.inference_mode():
        found = float(shared_prefix_loss(local, ROWS, 4)[0])
        with local.adapters.unfused():
            wanted = float(shared_prefix_loss(local, ROWS, 4)[0])
    assert abs(wanted - before) > 0.05
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_layer_asked_out_of_turn_still_answers_right() -> None:
    local = tiny_local("llama")
    trained(local)
    attention = local.model.get_decoder().layers[0].self_attn
    x = torch.randn(1, 3, attention.k_proj.base_layer.weight.shape[1])
    with torch.inference_mode():
        found = [attention.v_proj(x), attention.q_proj(x), attention.q_proj(x + 1), attention.k_proj(x)]
        with local.adapters.unfused():
            wanted = [attention.v_proj(x), attention.q_proj(x), attention.q_proj(x + 1), attention.k_proj(x)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_group_answers_on_when_a_frozen_weight_changed() -> None:
    """What was prepacked of it is no more then."""
    local = tiny_local("llama")
    parameters = trained(local)
    gradients(local, parameters, shared=True)
    with torch.no_grad():
        for name, weight in local.model.named_parameters():
            if "base_layer" in name:
                weight.mul_(1.5)
    loss, found = gradients(local, parameters, shared=True)
    with local.adapters.unfused():
        wanted_loss, wanted = gradients(local, parameters, shared=True)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
