"""Replace layers of a model by stand-ins and restore them, in any order.

A stand-in is called in place of a layer and shares the layer's dictionaries of parameters, buffers, children and hooks. So
names and memory do not change; moving, training, hooking or swapping parts of one applies to the other; and peft wraps, names
and unwraps a stand-in like the layer. Several stand-ins of one layer are ordered by :class:`Place`, not by the time at which
they were added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar

from torch import nn


class Place(IntEnum):
    """Kinds of stand-ins, in order from the layer outwards; a layer has at most one of each."""

    PREPACKED = 1
    LEAN = 2
    LORA = 3


class StandIn(nn.Module):
    """A module that is called in place of another.

    Subclasses implement ``forward``. They must call the layer by ``self.inner.forward``, since the hooks have already run.

    Args:
        layer: the layer that it replaces, or another stand-in of that layer.

    Attributes:
        place: its kind, which orders the stand-ins of a layer.
        inner: the layer, or the next stand-in inwards. It is not a child module, since names would change.
    """

    place: ClassVar[Place]
    inner: nn.Module

    def __init__(self, layer: nn.Module) -> None:
        # Replaces ``nn.Module.__init__``, which would create new dictionaries.
        vars(self).update(vars(original(layer)))
        vars(self)["inner"] = layer


def original(module: nn.Module) -> nn.Module:
    """The layer that a stand-in replaces; any other module itself."""
    while isinstance(module, StandIn):
        module = module.inner
    return module


def layers_without(model: nn.Module, place: Place) -> list[nn.Module]:
    """The layers of a model that have no stand-in of a kind, each once, without stand-ins.

    The model itself is not included, since it has no parent in which to replace it.
    """
    tops = {id(top): top for _, _, top in _positions(model)}
    return [original(top) for top in tops.values() if all(one.place is not place for one in _stand_ins(top))]


def install(model: nn.Module, stand_ins: Iterable[StandIn]) -> None:
    """Install stand-ins for layers anywhere in a model.

    Raises:
        ValueError: if a layer already has a stand-in of the kind; nothing is changed then.
    """
    by_layer = {id(original(one)): one for one in stand_ins}

    def add(layer: nn.Module, before: list[StandIn]) -> list[StandIn]:
        one = by_layer.get(id(layer))
        if one is None:
            return before
        double = next((other for other in before if other.place is one.place), None)
        if double is not None:
            raise ValueError(f"a {type(double).__name__} already stands in for this {type(layer).__name__}: remove it first")
        return [*before, one]

    _restack(model, add)


def remove(model: nn.Module, kind: type[StandIn]) -> list[StandIn]:
    """Remove the stand-ins of a class from a model and return them. Other stand-ins of the same layers stay."""
    removed: dict[int, StandIn] = {}

    def drop(_: nn.Module, before: list[StandIn]) -> list[StandIn]:
        removed.update({id(one): one for one in before if isinstance(one, kind)})
        return [one for one in before if not isinstance(one, kind)]

    _restack(model, drop)
    return list(removed.values())


@contextmanager
def without(model: nn.Module, kind: type[StandIn]) -> Iterator[None]:
    """Use a model without its stand-ins of a class until the block ends."""
    removed = remove(model, kind)
    try:
        yield
    finally:
        install(model, removed)


def _positions(model: nn.Module) -> list[tuple[dict[str, nn.Module | None], str, nn.Module]]:
    """The dictionary of the parent, the name in it, and the module, for each module."""
    tables = [module._modules for module in model.modules()]
    return [(table, name, module) for table in tables for name, module in table.items() if module is not None]


def _stand_ins(top: nn.Module) -> list[StandIn]:
    """The stand-ins of a layer, from the outermost inwards."""
    stand_ins = []
    while isinstance(top, StandIn):
        stand_ins.append(top)
        top = top.inner
    return stand_ins


def _restack(model: nn.Module, change: Callable[[nn.Module, list[StandIn]], Sequence[StandIn]]) -> None:
    """Set the stand-ins of each layer to what ``change`` returns for the layer and its stand-ins, after computing all."""
    positions = _positions(model)
    tops = {id(top): top for _, _, top in positions}
    wanted = {key: change(original(top), _stand_ins(top)) for key, top in tops.items()}
    changed = {}
    for key, top in tops.items():
        layer = last = original(top)
        for one in sorted(wanted[key], key=lambda one: one.place):
            vars(one)["inner"] = last
            last = one
        if last is not top:
            # Plain attributes, such as ``training`` or peft's switch, are in no dictionary; the outermost module has the
            # current ones.
            vars(last).update({name: value for name, value in vars(top).items() if name in vars(layer)})
        changed[key] = last
    for table, name, top in positions:
        table[name] = changed[id(top)]
