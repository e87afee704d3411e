"""Stand-ins come and go in any order: the model that is left is the model that was there, and order changes no number."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cotune.model.adapters.slots import AdapterSlot, LoraSettings
from cotune.model.layers.fused_layers import LeanGated, LeanNorm, make_lean
from cotune.model.layers.lora_binding import BoundLinear, BoundLora, linear_groups
from cotune.model.layers.packed_weights import PackedLinear, can_prepack, prepack
from cotune.model.layers.peft_lora import FusedLinear
from cotune.model.layers.swap import Place, StandIn, install, layers_without, original, remove, without
from tiny import tiny_model

IDS = torch.tensor([[3, 9, 4, 7, 250, 12]])
PLENTY = 1 << 40
TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj")
Undo = Callable[[], object]


def found_in(model: nn.Module) -> tuple[list[tuple[str, int]], list[str], list[int]]:
    """The module tree with its very modules, and the names and the very tensors of the state."""
    state = model.state_dict(keep_vars=True)
    return [(name, id(module)) for name, module in model.named_modules()], list(state), [id(one) for one in state.values()]


def outputs(model: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(IDS, use_cache=False).logits
    return found


def pack(model: nn.Module) -> Undo:
    prepack(model, PLENTY)
    return lambda: remove(model, PackedLinear)


def lean(model: nn.Module) -> Undo:
    make_lean(model)
    return lambda: (remove(model, LeanNorm), remove(model, LeanGated))


def bind(model: nn.Module) -> Undo:
    """An adapter to be used, whose weights are drawn from a seed."""
    groups = linear_groups(model, TARGETS)
    assert groups is not None
    bound = BoundLora(model, groups, 4, 2.0)
    generator = torch.Generator().manual_seed(1)
    bound.put({name: torch.randn(bound._table[name].shape, generator=generator) / 8 for name in sorted(bound._table)})
    return bound.release


def train(model: nn.Module) -> Undo:
    """An adapter to be trained, by peft, whose weights are drawn from a seed."""
    slot = AdapterSlot(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in slot.start(LoraSettings(rank=4, alpha=8, target=",".join(TARGETS)), seed=0):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return lambda: (remove(model, FusedLinear), slot._peft.unload())


@pytest.mark.parametrize("lora", [bind, train])
def test_in_every_order_the_same_comes_and_nothing_stays(lora: Callable[[nn.Module], Undo]) -> None:
    model = tiny_model("llama")
    before, plain = found_in(model), outputs(model)
    composed: Tensor | None = None
    for order in permutations((pack, lean, lora)):
        for end in permutations(range(3)):
            undo = [one(model) for one in order]
            assert len(layers_without(model, Place.LEAN)) < len(list(model.modules()))
            if lora is bind:
                # Names and tensors are those of the model; what peft adds has names anyway.
                assert found_in(model)[1:] == before[1:]
            found = outputs(model)
            composed = found if composed is None else composed
            assert torch.equal(found, composed) and not torch.allclose(found, plain, atol=1e-2)
            for number in end:
                undo[number]()
                adapted = order.index(lora) not in end[: end.index(number) + 1]
                torch.testing.assert_close(outputs(model), composed if adapted else plain, rtol=1e-4, atol=1e-4)
            assert found_in(model) == before
            assert torch.equal(outputs(model), plain)


def test_what_stands_in_is_there_and_in_its_order() -> None:
    model = tiny_model("llama")
    bind(model)
    lean(model)
    pack(model)
    layer = model.get_decoder().layers[0]
    assert type(layer.self_attn.q_proj) is BoundLinear
    assert type(layer.self_attn.q_proj.inner) is (PackedLinear if can_prepack(torch.float32) else nn.Linear)
    assert type(layer.mlp) is LeanGated and type(layer.input_layernorm) is LeanNorm
    assert type(original(layer.self_attn.q_proj)) is nn.Linear


def test_a_second_stand_in_of_a_kind_is_refused_and_changes_nothing() -> None:
    model = tiny_model("llama")
    make_lean(model)
    before = found_in(model)
    norm, free = original(model.get_decoder().norm), model.get_decoder().layers[0].self_attn
    with pytest.raises(ValueError, match="LeanNorm already stands in for this LlamaRMSNorm"):
        install(model, [LeanGated(free, False), LeanNorm(norm)])
    assert found_in(model) == before


def test_an_adapter_that_was_taken_out_leaves_no_memory_behind() -> None:
    """What a program makes while it starts is never searched for garbage, so no circle may hold it."""
    model = tiny_model("llama")
    gc.disable()
    try:
        release = bind(model)
        group = weakref.ref(model.get_decoder().layers[0].self_attn.q_proj.group)
        release()
        assert group() is None
    finally:
        gc.enable()


class Doubled(StandIn):
    """Twice what the layer answers."""

    place = Place.LEAN

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = 2 * self.inner.forward(x)
        return found


def test_a_layer_that_lies_at_two_places_is_replaced_at_both() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    install(model, [Doubled(shared)])
    assert type(model[0]) is Doubled and model[0] is model[2][0]
    assert len(remove(model, Doubled)) == 1
    assert model[0] is shared and model[2][0] is shared


def test_both_are_moved_trained_and_hooked_as_one() -> None:
    layer, states = nn.Linear(4, 4), torch.ones(1, 4)
    model = nn.Sequential(layer)
    install(model, [Doubled(layer)])
    seen: list[nn.Module] = []
    hook = layer.register_forward_hook(lambda module, *_: seen.append(module))
    assert torch.equal(model(states), 2 * layer.forward(states)) and seen == [model[0]]
    hook.remove()
    model.double().eval()
    model[0].bias = nn.Parameter(torch.zeros(4, dtype=torch.double))
    with without(model, Doubled):
        assert model[0] is layer and layer.weight.dtype == torch.double and not layer.training and not layer.bias.any()
        model.train()
    assert type(model[0]) is Doubled and model[0].training
