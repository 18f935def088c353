"""Which weights of a module are random: by layer type, or by name pattern.

The default makes the weights and biases of linear, bilinear, convolution and attention layers
random and leaves normalisation layers, embeddings and position tables deterministic.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

RANDOM_LAYERS = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention)


def random_names(module: nn.Module, patterns: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the parameters that get a distribution, in the order of
    ``module.named_parameters()``.

    Parameters
    ----------
    patterns
        Shell patterns over parameter names (``"encoder.*.weight"``); None: the layer types of
        ``RANDOM_LAYERS``.

    Raises
    ------
    ValueError
        If nothing is selected, a pattern matches nothing, or a layer keeps running statistics
        (BatchNorm).
    """
    _refuse_running_statistics(module)
    names = [name for name, _ in module.named_parameters()]
    if patterns is None:
        chosen = set(_names_of(module, RANDOM_LAYERS))
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
            f"no random weights: {type(module).__name__} has no linear, convolution or "
            "attention layer "
            f"among its parameters ({', '.join(names) or 'none'}); name some with posterior.random"
        )
    return tuple(name for name in names if name in chosen)


def fan_in(module: nn.Module, name: str) -> int:
    """Return the number of inputs that feed one output of the layer that owns this parameter."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    weight: Tensor = getattr(owner, leaf)
    if weight.dim() < 2:
        siblings = [p for p in owner.parameters(recurse=False) if p.dim() >= 2]
        weight = siblings[0] if siblings else weight
    if weight.dim() < 2:
        return max(1, weight.numel())
    # Transposed convolutions store (in, out / groups, ...).
    outputs = owner.out_channels if isinstance(owner, _ConvNd) else weight.shape[0]
    return max(1, weight.numel() // outputs)


def _names_of(module: nn.Module, layers: tuple[type, ...]) -> Iterator[str]:
    # Shared parameters appear once in named_parameters(), under their first name.
    first_name = {id(parameter): name for name, parameter in module.named_parameters()}
    for layer in module.modules():
        if isinstance(layer, layers):
            yield from (first_name[id(parameter)] for parameter in layer.parameters(recurse=False))


def _refuse_running_statistics(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        tracked = isinstance(layer, _InstanceNorm) and layer.track_running_stats
        if isinstance(layer, _BatchNorm) or tracked:
            raise ValueError(
                f"{name or 'the module'} is a {type(layer).__name__}: its running statistics "
                "would mix the weight "
                "samples and differ between ranks; use nn.GroupNorm or nn.LayerNorm"
            )
