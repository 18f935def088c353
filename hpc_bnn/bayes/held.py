"""Lets a module compute with other weights than its parameters, for a while.

A parameter may stand in several places: a layer registered twice, tied weights. All of them then
hold the given tensor, and all get their parameter back. ``torch.func.functional_call`` swaps a
layer that is registered twice twice, and leaves the given weights in it.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

Place = tuple[nn.Module, str]  # a layer and the name of its parameter


def places_of(module: nn.Module, names: Iterable[str]) -> dict[str, list[Place]]:
    """Return, for each parameter name, every layer and attribute that holds this parameter."""
    where: dict[int, list[Place]] = {}
    for layer in module.modules():  # each layer once, however often it is registered
        for leaf, parameter in layer._parameters.items():
            if parameter is not None:
                where.setdefault(id(parameter), []).append((layer, leaf))
    return {name: where[id(module.get_parameter(name))] for name in names}


@contextlib.contextmanager
def held(places: Mapping[str, list[Place]], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the layers use ``weights``, by name, instead of their parameters.

    Backward must run inside too where the network runs parts of itself again (activation
    checkpointing): they look their weights up once more.
    """
    before: list[tuple[nn.Module, str, nn.Parameter | None]] = []
    try:
        for name, weight in weights.items():
            for layer, leaf in places[name]:
                before.append((layer, leaf, layer._parameters[leaf]))
                layer._parameters[leaf] = weight  # type: ignore[assignment]  # torch does so too
        yield
    finally:
        for layer, leaf, parameter in reversed(before):
            layer._parameters[leaf] = parameter
            if isinstance(layer, nn.RNNBase):  # which keeps a list of its own of what it used last
                with torch.no_grad():  # some may be made by a parametrization
                    names = layer._flat_weights_names
                    layer._flat_weights = [getattr(layer, name) for name in names]
