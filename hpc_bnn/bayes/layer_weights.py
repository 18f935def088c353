"""The parameters that make the weights and biases of linear maps, wherever torch keeps them.

A layer holds them itself, ``weight``, ``bias``, ``weight_ih_l0``; under ``weight_norm`` of old as
``weight_g`` and ``weight_v``; under a parametrization as ``parametrizations.weight.original...`` in
a module of its own, from which ``weight`` is computed at every use.
"""

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

LINEAR_MAPS = (
    *(nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention),
    *(nn.RNNBase, nn.RNNCellBase),
)


def is_linear_map(layer: nn.Module) -> bool:
    """Tell whether the weights of a layer are those of linear maps."""
    return isinstance(layer, LINEAR_MAPS) or _is_transposed_linear(layer)


def layer_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return a layer's own parameters by name, and those that its parametrizations start from."""
    parameters = dict(layer.named_parameters(recurse=False))
    if is_parametrized(layer):
        assert isinstance(layer.parametrizations, nn.ModuleDict)
        for name, parametrized in layer.parametrizations.items():
            for original, parameter in parametrized.named_parameters(recurse=False):
                parameters[f"parametrizations.{name}.{original}"] = parameter
    return parameters


def owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the layer that a parameter of ``module`` belongs to, and its name there."""
    path, _, leaf = name.rpartition(".")
    parts = path.split(".") if path else []
    if "parametrizations" in parts:
        first = parts.index("parametrizations")
        path, leaf = ".".join(parts[:first]), ".".join([*parts[first:], leaf])
    return module.get_submodule(path), leaf


def fan_in(module: nn.Module, name: str) -> int:
    """Return the number of inputs that feed one output of the layer that owns this parameter.

    Of the lengths ``g`` in ``weight_norm``, w = g v / |v|, it is 1: rows of weights of variance
    1 / fan_in have length 1.
    """
    layer, leaf = owner(module, name)
    parameter = module.get_parameter(name)
    siblings = layer_parameters(layer)
    if _is_length(leaf, siblings):
        return 1
    weight: Tensor | None = parameter
    if parameter.dim() < 2:
        matrices = [p for p in siblings.values() if p.dim() >= 2]
        largest = max(matrices, key=lambda p: p.numel(), default=None)
        weight = siblings.get(leaf.replace("bias", "weight"), largest)
    if weight is None or weight.dim() < 2:
        return max(1, parameter.numel())
    if isinstance(layer, _ConvNd):  # transposed ones store (in, out / groups, ...)
        outputs = layer.out_channels
    else:
        outputs = weight.shape[1 if _is_transposed_linear(layer) else 0]
    return max(1, weight.numel() // outputs)


def _is_length(leaf: str, siblings: dict[str, nn.Parameter]) -> bool:
    """Tell whether a parameter is g of ``weight_norm``, of size 1 where it is a norm."""
    for g, v in (("_g", "_v"), (".original0", ".original1")):
        direction = siblings.get(leaf.removesuffix(g) + v)
        if leaf.endswith(g) and direction is not None:
            shape = siblings[leaf].shape
            return len(shape) == 0 or (
                len(shape) == direction.dim()
                and all(a in (1, b) for a, b in zip(shape, direction.shape, strict=True))
            )
    return False


def _is_transposed_linear(layer: nn.Module) -> bool:
    """Tell whether it is the ``Conv1D`` of Hugging Face: x (..., in) @ weight (in, nf) + bias."""
    names = (kind.__name__ for kind in type(layer).__mro__)
    return isinstance(getattr(layer, "nf", None), int) and "Conv1D" in names
