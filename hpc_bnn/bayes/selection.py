"""Which weights of a module are random: by layer type, or by name pattern.

The default makes the weights and biases of linear, bilinear, convolution, recurrent and attention
layers random, under ``weight_norm`` and other parametrizations too, and leaves normalisation
layers, embeddings and position tables deterministic. What else it leaves is told by a warning.

A layer holds its weights itself, ``weight``, ``bias``, ``weight_ih_l0``; under ``weight_norm`` of
old as ``weight_g`` and ``weight_v``; under a parametrization as
``parametrizations.weight.original...`` in a module of its own.
"""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm

from hpc_bnn.bayes.batchnorm import refuse_running_statistics

log = logging.getLogger(__name__)

LINEAR_MAPS = (
    *(nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention),
    *(nn.RNNBase, nn.RNNCellBase),
)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
# How words in the names of tables and tokens begin that networks add to activations.
TABLES = ("pos", "token", "embed", "table", "bias", "latitude", "longitude")
NAMED = 4  # deterministic parameters in the warning
# What launchers call the rank of a process: the warning is the same on all.
RANKS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


def random_names(module: nn.Module, patterns: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the parameters that get a distribution, in the order of
    ``module.named_parameters()``.

    Parameters
    ----------
    patterns
        Shell patterns over parameter names (``"encoder.*.weight"``); None: the layers of
        ``is_linear_map``, and a warning where weights of other layers stay deterministic.

    Raises
    ------
    ValueError
        If nothing is selected, a pattern matches nothing, a weight is not there yet or no real
        number, or a layer changes buffers as it runs (BatchNorm, ``spectral_norm``).
    """
    refuse_changing_layers(module)
    names = [name for name, _ in module.named_parameters()]
    if patterns is None:
        chosen = set(names_of_linear_maps(module))
    else:
        chosen = set()
        for pattern in patterns:
            matches = [name for name in names if fnmatchcase(name, pattern)]
            if not matches:
                raise ValueError(
                    f"posterior.random: the pattern {pattern!r} matches no parameter; the "
                    "module has "
                    f"{', '.join(names) or 'none'}"
                )
            chosen.update(matches)
    if not chosen:
        raise ValueError(
            f"no random weights: {type(module).__name__} has no linear, convolution, recurrent or "
            f"attention layer among its parameters ({', '.join(names) or 'none'}); name some with "
            "posterior.random"
        )
    selected = tuple(name for name in names if name in chosen)
    for name in selected:
        dtype = module.get_parameter(name).dtype
        if not dtype.is_floating_point:
            raise ValueError(
                f"{name} is {str(dtype).removeprefix('torch.')}: random weights are real "
                "floating-point numbers; leave it out with posterior.random, or keep its parts "
                "as real parameters"
            )
    if patterns is None and all(os.environ.get(rank, "0") == "0" for rank in RANKS):
        _warn_of_others(module, chosen)
    return selected


def names_of_linear_maps(module: nn.Module) -> Iterator[str]:
    """Yield the names of the parameters of linear maps (``is_linear_map``)."""
    # Shared parameters appear once in named_parameters(), under their first name.
    first_name = {id(parameter): name for name, parameter in module.named_parameters()}
    for layer in module.modules():
        if is_linear_map(layer):
            yield from (first_name[id(p)] for p in layer_parameters(layer).values())


def _warn_of_others(module: nn.Module, chosen: set[str]) -> None:
    """Warn of weights that stay deterministic and are no norm, embedding, table or small vector."""
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    others = {}
    for name, parameter in module.named_parameters():
        layer, leaf = owner(module, name)
        kind = type(layer).__name__.lower()
        usual = isinstance(layer, NORMS + EMBEDDINGS) or "norm" in kind or "embed" in kind
        table = any(word.startswith(TABLES) or word == "pe" for word in leaf.lower().split("_"))
        if name not in chosen and not usual and not table:
            others[name] = sum(length > 1 for length in parameter.shape)
    random, total = sum(sizes[name] for name in chosen), sum(sizes.values())
    # Gains and the like are vectors.
    if max(others.values(), default=0) < 2 and sum(sizes[name] for name in others) <= random:
        return
    largest = sorted(others, key=lambda name: -sizes[name])
    listed = ", ".join(f"{name} ({sizes[name]:,})" for name in largest[:NAMED])
    more = f" and {len(largest) - NAMED} more" if len(largest) > NAMED else ""
    log.warning(
        "%s of %s numbers (%d %%) are random; deterministic: %s%s, which belong to no linear, "
        "convolution, recurrent or attention layer; name what shall be random with random=[...] "
        "(posterior.random), such as ['*']",
        f"{random:,}",
        f"{total:,}",
        math.floor(100 * random / total),
        listed,
        more,
    )


def refuse_changing_layers(module: nn.Module) -> None:
    """Raise ValueError for a layer that changes buffers as it runs, or has no weights yet."""
    refuse_running_statistics(module)
    _refuse_power_iterations(module)
    _refuse_uninitialized(module)


def _refuse_power_iterations(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        old = [
            hook.name
            for hook in layer._forward_pre_hooks.values()
            if isinstance(hook, SpectralNorm)
        ]
        if old or (isinstance(layer, _SpectralNorm) and layer._buffers):
            weight = ".".join([*filter(None, [name]), *old]).replace("parametrizations.", "")
            raise ValueError(
                f"{weight if old else weight.rpartition('.')[0]} is under spectral_norm: its power "
                "iteration changes buffers in every training pass, which would mix the weight "
                "samples and differ between ranks; use weight_norm or orthogonal of "
                "torch.nn.utils.parametrizations, or take it off "
                "(torch.nn.utils.parametrize.remove_parametrizations, remove_spectral_norm)"
            )


def _refuse_uninitialized(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            layer, _ = owner(module, name)
            raise ValueError(
                f"{name} has no shape yet ({type(layer).__name__}): run the network once on a "
                "batch, network(x), before a posterior is put over its weights"
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
