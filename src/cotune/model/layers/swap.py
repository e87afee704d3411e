"""Special layers take the place of a model's own as modules and give it back, in any order.

A stand-in answers in place of a layer, by the layer's parameters, buffers, children and hooks: it shares the very tables that
hold them. So names and memory stay what they are, whatever is moved, trained, hooked or swapped inside of one is so inside of
the other, and peft wraps, names and unwraps a stand-in as it would the layer. Where several stand in for one layer,
:class:`Place` orders them, not the time at which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar

from torch import nn


class Place(IntEnum):
    """Kinds of stand-ins, in their order from a layer outwards; a layer has at most one of each."""

    PREPACKED = 1
    LEAN = 2
    LORA = 3


class StandIn(nn.Module):
    """A module that answers in place of another.

    A subclass says in ``forward`` how. What it asks the layer itself it asks by ``self.inner.forward``, since the hooks have
    already run.

    Args:
        layer: what it stands in for, or another stand-in for that.

    Attributes:
        place: where it belongs among the stand-ins of a layer.
        inner: the layer, or the next stand-in on the way to it. It is not among the children, or names would change.
    """

    place: ClassVar[Place]
    inner: nn.Module

    def __init__(self, layer: nn.Module) -> None:
        # In place of ``nn.Module.__init__``, which would make new tables.
        vars(self).update(vars(original(layer)))
        vars(self)["inner"] = layer


def original(module: nn.Module) -> nn.Module:
    """The layer that a module stands in for; the module where it is no stand-in."""
    while isinstance(module, StandIn):
        module = module.inner
    return module


def layers_without(model: nn.Module, place: Place) -> list[nn.Module]:
    """The layers of a model that have no stand-in of a kind, each once, without those that stand in for them.

    The model itself is not among them: it lies in no other module, so nothing could take its place.
    """
    tops = {id(top): top for _, _, top in _positions(model)}
    return [original(top) for top in tops.values() if all(one.place is not place for one in _stand_ins(top))]


def install(model: nn.Module, stand_ins: Iterable[StandIn]) -> None:
    """Let stand-ins take their places, wherever in a model their layers lie.

    Raises:
        ValueError: a layer already has a stand-in of the kind; nothing is changed then.
    """
    given = {id(original(one)): one for one in stand_ins}

    def add(layer: nn.Module, before: list[StandIn]) -> list[StandIn]:
        one = given.get(id(layer))
        if one is None:
            return before
        double = next((other for other in before if other.place is one.place), None)
        if double is not None:
            raise ValueError(f"a {type(double).__name__} already stands in for this {type(layer).__name__}: remove it first")
        return [*before, one]

    _restack(model, add)


def remove(model: nn.Module, kind: type[StandIn]) -> list[StandIn]:
    """Take the stand-ins of a class out of a model; returns them. Others of the same layers stay."""
    found: dict[int, StandIn] = {}

    def drop(_: nn.Module, before: list[StandIn]) -> list[StandIn]:
        found.update({id(one): one for one in before if isinstance(one, kind)})
        return [one for one in before if not isinstance(one, kind)]

    _restack(model, drop)
    return list(found.values())


@contextmanager
def without(model: nn.Module, kind: type[StandIn]) -> Iterator[None]:
    """Run a model meanwhile without its stand-ins of a class."""
    removed = remove(model, kind)
    try:
        yield
    finally:
        install(model, removed)


def _positions(model: nn.Module) -> list[tuple[dict[str, nn.Module | None], str, nn.Module]]:
    """Where each module lies: the table of its parent, its name there, and itself."""
    tables = [module._modules for module in model.modules()]
    return [(table, name, module) for table in tables for name, module in table.items() if module is not None]


def _stand_ins(top: nn.Module) -> list[StandIn]:
    """Those of one layer, from the outermost inwards."""
    found = []
    while isinstance(top, StandIn):
        found.append(top)
        top = top.inner
    return found


def _restack(model: nn.Module, change: Callable[[nn.Module, list[StandIn]], Sequence[StandIn]]) -> None:
    """Give each layer of a model the stand-ins that ``change`` makes of it and those that it has, after asking for all."""
    positions = _positions(model)
    tops = {id(top): top for _, _, top in positions}
    wanted = {key: change(original(top), _stand_ins(top)) for key, top in tops.items()}
    found = {}
    for key, top in tops.items():
        layer = last = original(top)
        for one in sorted(wanted[key], key=lambda one: one.place):
            vars(one)["inner"] = last
            last = one
        if last is not top:
            # Plain attributes, as ``training`` or peft's switch, are in no table: the one that the model showed has them right.
            vars(last).update({name: value for name, value in vars(top).items() if name in vars(layer)})
        found[key] = last
    for table, name, top in positions:
        table[name] = found[id(top)]
