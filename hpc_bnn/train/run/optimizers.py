"""The optimizers of a run, by name. To add one: a function here, or a class of
``hpc_bnn.bayes``, and a line in OPTIMIZERS.

Each takes the posterior, other modules whose parameters are trained (the loss), ``lr`` and the
options of the section ``optimizer``.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import nn, optim

from hpc_bnn.bayes import IVON
from hpc_bnn.bayes.optimizer import Uncompiled
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.bayes.prior import Positive

Fraction = Annotated[float, Interval(ge=0, lt=1)]
NonNegative = Annotated[float, Interval(ge=0, lt=float("inf"))]


class Adam(Uncompiled, optim.Adam):
    """PyTorch's Adam."""

    step = torch.no_grad()(inspect.unwrap(optim.Adam.step))


class SGD(Uncompiled, optim.SGD):
    """PyTorch's SGD."""

    step = torch.no_grad()(inspect.unwrap(optim.SGD.step))


def adam(
    posterior: Posterior,
    *others: nn.Module,
    lr: float,
    beta1: Fraction = 0.9,
    beta2: Fraction = 0.999,
    eps: Positive = 1e-8,
) -> optim.Optimizer:
    """Adam: Kingma, Ba 2015, arXiv:1412.6980, algorithm 1.

    Parameters
    ----------
    beta1, beta2
        Decays of the mean of gradients and of their squares.
    eps
        Added to the root of the squares.
    """
    return Adam(list(_trained(posterior, *others)), lr, (beta1, beta2), eps, fused=True)


def adamw(
    posterior: Posterior,
    *others: nn.Module,
    lr: float,
    beta1: Fraction = 0.9,
    beta2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.01,
) -> optim.Optimizer:
    """Adam with decoupled weight decay: Loshchilov, Hutter 2019, arXiv:1711.05101, algorithm 2.

    Decayed are weights of two or more dimensions of the network: no bias, no norm, no scale of the
    posterior, nothing of the loss. A prior, where the posterior has one, acts beside it.

    Parameters
    ----------
    beta1, beta2
        Decays of the mean of gradients and of their squares.
    eps
        Added to the root of the squares.
    weight_decay
        Share of a weight, times the learning rate, that a step takes off.
    """
    scales, per_sample = set(posterior.scales()), set(posterior.per_sample())
    decayed = {
        id(p)
        for name, p in posterior.named_parameters()
        if name not in scales and p.dim() - (name in per_sample) >= 2
    }
    parameters = list(_trained(posterior, *others))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) in decayed]},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return Adam(
        groups,
        lr,
        (beta1, beta2),
        eps,
        weight_decay,
        fused=True,
        decoupled_weight_decay=True,
    )


def sgd(
    posterior: Posterior,
    *others: nn.Module,
    lr: float,
    momentum: Fraction = 0.9,
    nesterov: bool = False,
) -> optim.Optimizer:
    """Stochastic gradient descent with momentum.

    Parameters
    ----------
    momentum
        Share of the last step that the next one keeps.
    nesterov
        Look ahead by the momentum: Sutskever et al. 2013.

    Raises
    ------
    ValueError
        If ``nesterov`` is set without momentum.
    """
    if nesterov and momentum == 0:
        raise ValueError(
            "optimizer.nesterov = True: needs momentum; set optimizer.momentum, such as to 0.9"
        )
    parameters = list(_trained(posterior, *others))
    return SGD(parameters, lr, momentum, nesterov=nesterov, fused=True)


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "ivon": IVON,
}
# Numbers that each holds for every trained one.
STATE = {"adam": 2, "adamw": 2, "sgd": 1, "ivon": 1}


def _trained(*modules: nn.Module) -> Iterator[nn.Parameter]:
    return (p for module in modules for p in module.parameters() if p.requires_grad)
