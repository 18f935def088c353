"""An ordinary module with the weights of one sample: for ``torch.jit.trace``, ONNX, or whoever
takes no drawn weights.
"""

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from hpc_bnn.bayes.inputs import tensors_of


@torch.no_grad()
def with_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of ``module`` in evaluation mode that has ``weights`` (*shape), by name, in
    place of its parameters.

    Tied weights stay tied. What ``weight_norm`` and other parametrizations compute is a plain
    parameter of the copy.
    """
    # What weight_norm made of its parameters has a history, which deepcopy refuses.
    computed = {
        id(value): value.detach().clone()
        for layer in module.modules()
        for value in tensors_of(vars(layer))
        if not value.is_leaf
    }
    network = copy.deepcopy(module, dict(computed)).eval()
    for name, weight in weights.items():
        network.get_parameter(name).copy_(weight).requires_grad_()
    for layer in list(network.modules()):
        _make_plain(layer)
    return network


def _make_plain(layer: nn.Module) -> None:
    """Keep what the parametrizations of a layer compute as its parameters."""
    if parametrize.is_parametrized(layer):
        made = cast(nn.ModuleDict, layer.parametrizations)
        values = {name: getattr(layer, name).detach().clone() for name in made}
        trained = {name for name, how in made.items() if [*how.parameters()]}
        del layer.parametrizations
        # Not by remove_parametrizations, which changes the class that the copied layer has too.
        layer.__class__ = type(layer).__bases__[0]
        for name, value in values.items():
            if name in trained:
                layer.register_parameter(name, nn.Parameter(value))
            else:
                layer.register_buffer(name, value)
    for hook in list(layer._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(layer, hook.name)
    if isinstance(layer, nn.RNNBase):  # which keeps a list of its own of what it uses
        layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
