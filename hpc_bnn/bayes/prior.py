"""The Gaussian prior over weights and its part of the objective.

p(w) = N(c, tau^2),    -log p(w) = sum [ (w - c)^2 / (2 tau^2) + log(tau) + log(2 pi) / 2 ]
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpc_bnn.bayes.selection import fan_in

Positive = Annotated[float, Interval(gt=0, lt=math.inf)]
PriorSigma = Positive | Literal["fan_in"]

CACHED = 1 << 16  # elements of a piece
ROW = 512  # elements that are summed in the dtype of the weights, which is three times as fast


def require_positive(**options: object) -> None:
    """Raise ValueError for the first option of a posterior that is no positive number."""
    for key, value in options.items():
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(f"posterior.{key} = {value!r}: must be a positive number")


def taus(module: nn.Module, names: Sequence[str], prior_sigma: PriorSigma) -> list[float]:
    """Return tau of each named parameter: ``prior_sigma``, or with ``"fan_in"`` 1 / sqrt(fan_in) of
    its layer.

    Raises
    ------
    ValueError
        If ``prior_sigma`` is neither a positive number nor ``"fan_in"``.
    """
    if prior_sigma == "fan_in":
        return [1 / math.sqrt(fan_in(module, name)) for name in names]
    require_positive(prior_sigma=prior_sigma)
    return [float(prior_sigma)] * len(names)


def negative_log_prior(
    weights: Sequence[Tensor],
    taus: Sequence[float],
    centres: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return -log p of all ``weights`` together, each with its tau, as a float64 scalar with
    closed-form gradients.

    centres: c of each, of its shape; None: 0.
    """
    each = [None] * len(weights) if centres is None else centres
    terms = [
        _NegativeLog.apply(tau, centre, weight)  # type: ignore[no-untyped-call]
        for weight, tau, centre in zip(weights, taus, each, strict=True)
    ]
    return torch.stack(terms).sum()


class _NegativeLog(torch.autograd.Function):
    """-log N(c, tau^2) of one tensor, summed in float64.

    Its gradient is added to one that a parameter has already, without a tensor of its own.
    """

    @staticmethod
    def forward(ctx: Any, tau: float, centre: Tensor | None, weight: Tensor) -> Tensor:
        ctx.save_for_backward(*[weight] if centre is None else [weight, centre])
        ctx.tau = tau
        wide = _offset(weight, centre)
        constant = math.log(tau) + math.log(2 * math.pi) / 2
        return _sum_of_squares(wide) / (2 * tau**2) + weight.numel() * constant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *centre = ctx.saved_tensors
        wide = _offset(weight, centre[0] if centre else None)
        scale = (grads[0] / ctx.tau**2).to(wide.dtype)
        if weight.is_leaf and weight.grad is not None and weight.grad.dtype == wide.dtype:
            weight.grad.addcmul_(wide, scale)
            return None, None, None
        return None, None, (wide * scale).to(weight.dtype)


def _sum_of_squares(x: Tensor) -> Tensor:
    """Return the sum in float64 of sums over short rows, on CPUs in pieces that fit the cache."""
    flat = x.flatten()
    whole, rest = flat.split_with_sizes([flat.numel() // ROW * ROW, flat.numel() % ROW])
    size = CACHED if x.device.type == "cpu" else max(whole.numel(), 1)
    pieces = torch.split(whole, size)
    sums = torch.cat([(piece * piece).view(-1, ROW).sum(1) for piece in pieces])
    return sums.sum(dtype=torch.float64) + rest.double().square().sum()


def _offset(weight: Tensor, centre: Tensor | None) -> Tensor:
    """Return w - c in at least float32, the weight itself where it is that."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return wide if centre is None else wide - centre
