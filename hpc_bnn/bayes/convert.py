"""Networks of other libraries with Gaussian layers: the plain network, and the same posterior.

torch-blue: ``VILinear`` and whatever ``convert_to_vimodule`` made, with a mean and log_std of each
weight. bayesian-torch: layers that ``dnn_to_bnn`` put in place, with mu, rho and
sigma = log(1 + e^rho). Layers are known by the names of their classes and attributes; neither
library is imported.

The other way, ``posterior.to_module(sample)`` is an ordinary module.
"""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.posterior import row_key

Prior = tuple[float, float]  # mean and standard deviation


@dataclass(frozen=True)
class _Converted:
    """A plain layer, log sigma of its random parameters, and their priors; None: not Gaussian."""

    layer: nn.Module
    log_sigmas: Mapping[str, Tensor]
    priors: frozenset[Prior | None]


def from_bayesian_torch(
    module: nn.Module, *, prior_sigma: float | None = None, seed: int = 0
) -> tuple[nn.Module, Gaussian]:
    """Return the plain network of a copy of ``module`` and its posterior, with the mu and sigma of
    the variational layers of bayesian-torch; the rest is deterministic in both.

    Parameters
    ----------
    module
        What ``dnn_to_bnn`` made of a network: its forward expects no KL from its layers.
    prior_sigma
        Standard deviation of the prior; None: that of the layers, which must be one.
    seed
        Key of all weight draws; the same on every rank.

    Raises
    ------
    ValueError
        If there is no variational layer or one that is not known, a layer gives its KL beside its
        outputs, or the layers have several priors.
    """
    return _converted(module, _plain_of_bayesian_torch, prior_sigma, seed)


def from_torch_blue(
    module: nn.Module, *, prior_sigma: float | None = None, seed: int = 0
) -> tuple[nn.Module, Gaussian]:
    """Return the plain network of a copy of ``module``, a VIModule of torch-blue, and its
    posterior, with the mean and standard deviation of its random variables; the rest is
    deterministic in both. The network draws no samples of its own and takes (B, ...).

    Parameters
    ----------
    prior_sigma
        Standard deviation of the prior; None: that of the layers, which must be one.
    seed
        Key of all weight draws; the same on every rank.

    Raises
    ------
    ValueError
        If there is no random variable, one is not Gaussian or of a layer that is not known, or the
        layers have several priors.
    """
    return _converted(module, _plain_of_torch_blue, prior_sigma, seed)


@torch.no_grad()
def _converted(
    module: nn.Module,
    convert: Callable[[str, nn.Module], _Converted | None],
    prior_sigma: float | None,
    seed: int,
) -> tuple[nn.Module, Gaussian]:
    network = copy.deepcopy(module)
    parts = {name: convert(name, layer) for name, layer in list(network.named_modules())}
    converted = {name: part for name, part in parts.items() if part is not None}
    layers = {id(network.get_submodule(name)): part.layer for name, part in converted.items()}
    for parent in list(network.modules()):
        for leaf, child in parent._modules.items():
            parent._modules[leaf] = layers.get(id(child), child)
    network = layers.get(id(network), network)
    log_sigmas = {
        f"{name}.{leaf}".removeprefix("."): value
        for name, part in converted.items()
        for leaf, value in part.log_sigmas.items()
    }
    if not log_sigmas:
        raise ValueError(
            f"{type(module).__name__} has no Gaussian layer of the library; give it to hb.Gaussian"
        )
    priors = frozenset[Prior | None]().union(*(part.priors for part in converted.values()))
    sigma = _one_prior(priors) if prior_sigma is None else prior_sigma
    posterior = Gaussian(network, prior_sigma=sigma, random=list(log_sigmas), seed=seed)
    for name, value in log_sigmas.items():
        posterior.log_sigma[row_key(name)].copy_(value)
    return network, posterior


def _one_prior(priors: frozenset[Prior | None]) -> float:
    (prior, *others) = sorted(priors, key=str)
    if others or prior is None or prior[0] != 0:
        listed = ", ".join(
            "no Gaussian" if p is None else f"N({p[0]:g}, {p[1]:g}^2)" for p in priors
        )
        raise ValueError(
            f"prior_sigma: the layers have the priors {listed}, and hb.Gaussian has one of mean 0; "
            "give its standard deviation, prior_sigma=..."
        )
    return prior[1]


# bayesian-torch

_LAYER = re.compile(r"(Linear|Conv(?:Transpose)?[123]d)(?:Reparameterization|Flipout)")


def _plain_of_bayesian_torch(name: str, layer: nn.Module) -> _Converted | None:
    kinds = [kind.__name__ for kind in type(layer).__mro__]
    if "BaseVariationalLayer_" not in kinds:
        return None
    what = f"{name or 'the module'} is a {kinds[0]}"
    kind = _LAYER.fullmatch(kinds[0])
    if kind is None:
        raise ValueError(f"{what}: expected linear and convolution layers")
    if not getattr(layer, "dnn_to_bnn_flag", False):
        raise ValueError(
            f"{what} that gives its KL beside its outputs, which a network around it takes apart: "
            "build the network of plain layers, convert it with dnn_to_bnn and load the weights"
        )
    theirs: Any = layer
    tensors = {
        "weight": (theirs.mu_kernel, theirs.rho_kernel)
        if "Conv" in kinds[0]
        else (theirs.mu_weight, theirs.rho_weight)
    }
    if theirs.mu_bias is not None:
        tensors["bias"] = (theirs.mu_bias, theirs.rho_bias)
    options = {"bias": "bias" in tensors, "dtype": tensors["weight"][0].dtype}
    if "Conv" in kinds[0]:
        keys = ["kernel_size", "stride", "padding", "dilation", "groups"]
        keys += ["output_padding"] if "Transpose" in kinds[0] else []
        options |= {key: getattr(theirs, key) for key in keys}
        sizes = theirs.in_channels, theirs.out_channels
    else:
        sizes = theirs.in_features, theirs.out_features
    plain = getattr(nn, kind[1])(*sizes, **options, device=tensors["weight"][0].device)
    log_sigmas = {}
    for leaf, (mu, rho) in tensors.items():
        plain.get_parameter(leaf).copy_(mu.view_as(plain.get_parameter(leaf)))
        log_sigmas[leaf] = nn.functional.softplus(rho.double()).log().view_as(mu)
    prior = (
        float(theirs.prior_mean),
        float(theirs.prior_variance),
    )  # a standard deviation in truth
    return _Converted(plain.train(layer.training), log_sigmas, frozenset([prior]))


# torch-blue

_SAME = (
    "Linear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "MultiheadAttention",
)  # VI... holds what nn... does


def _plain_of_torch_blue(name: str, layer: nn.Module) -> _Converted | None:
    """Turn a layer into that of torch, in place: it holds all else that this one needs."""
    kinds = [kind.__name__ for kind in type(layer).__mro__]
    if "VIModule" not in kinds:
        return None
    own = vars(layer)
    for routed in ("forward", "_module_forward"):  # which draw samples
        own.pop(routed, None)
    variables: dict[str, Any] = own.pop("variational_distribution", {})
    priors: dict[str, Any] = own.pop("prior", {})
    bases = type(layer).__bases__
    if kinds[0].startswith("AVI") or kinds[0] == "VISequential":  # made of another class
        layer.__class__ = bases[1]
    elif kinds[0].removeprefix("VI") in _SAME:
        layer.__class__ = getattr(nn, kinds[0].removeprefix("VI"))
    elif variables:
        raise ValueError(
            f"{name or 'the module'} is a {kinds[0]} with random variables of its own "
            f"({', '.join(variables)}): expected torch's layers, or what convert_to_vimodule made"
        )
    if isinstance(layer, nn.MultiheadAttention) and "dropout" not in own:
        layer.dropout = 0.0
    log_sigmas: dict[str, Tensor] = {}
    gaussian_priors: set[Prior | None] = set()
    for variable, distribution in variables.items():
        kind = type(distribution).__name__
        if distribution is None:
            layer.register_parameter(variable, None)
            continue
        if kind not in ("MeanFieldNormal", "NonBayesian"):
            raise ValueError(
                f"{name}.{variable} has a {kind}: expected MeanFieldNormal, or NonBayesian"
            )
        first, *rest = [
            cast(nn.Parameter, layer._parameters.pop(f"_{variable}_{key}"))
            for key in distribution.distribution_parameters
        ]
        layer.register_parameter(variable, first)
        if kind == "MeanFieldNormal":
            log_sigmas[variable] = rest[0]
            gaussian_priors.add(_prior_of_torch_blue(priors[variable]))
    return _Converted(layer, log_sigmas, frozenset(gaussian_priors))


def _prior_of_torch_blue(prior: Any) -> Prior | None:
    if type(prior).__name__ != "MeanFieldNormal":
        return None
    mean, std = float(prior.mean), float(prior.log_std.double().exp())
    return float(f"{mean:.6g}"), float(f"{std:.6g}")
