"""The tensors and settings of the parts of a step, by name: what ranks must agree on."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.losses.base import Loss


def named_parameters(
    posterior: Gaussian, loss: Loss, optimizer: torch.optim.Optimizer
) -> dict[str, nn.Parameter]:
    """Return what is trained by name, having checked that the optimizer holds exactly that."""
    named = dict(_trained(posterior, ""))
    named.update(_trained(loss, "loss."))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in named.items() if id(p) not in held]
    if missing:
        raise ValueError(
            f"the optimizer does not hold {missing[0]} ({len(missing)} of {len(named)} "
            "parameters); build it from posterior.parameters() and, if the loss learns something, "
            "loss.parameters()"
        )
    if len(held) > len(named):
        raise ValueError(
            f"the optimizer holds {len(held) - len(named)} parameters that belong to neither "
            "posterior nor loss"
        )
    return named


def _trained(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Parameter]]:
    return ((prefix + name, p) for name, p in module.named_parameters() if p.requires_grad)


def all_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {prefix + name: tensor.detach() for name, tensor in named}


def settings_of(
    posterior: Gaussian, loss: Loss, named: dict[str, nn.Parameter]
) -> dict[str, object]:
    """Return what posterior and loss were set to, and the shapes of what is trained."""
    settings = {**_plain_attributes(posterior, "posterior"), "loss": type(loss).__name__}
    for name, part in loss.named_modules(prefix="loss"):
        settings |= _plain_attributes(part, name)
    return settings | {f"parameter {k}": (tuple(p.shape), str(p.dtype)) for k, p in named.items()}


def _plain_attributes(part: nn.Module, name: str) -> dict[str, object]:
    return {
        f"{name}.{key}": value
        for key, value in vars(part).items()
        if isinstance(value, bool | int | float | str) and not key.startswith("_")
    }
